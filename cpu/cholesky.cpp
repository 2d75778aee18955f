// Cholesky factors, row by row (Cholesky-Banachiewicz), n^3 / 3 operations, and solving by two substitutions, 2 n^2 a column. Small
// matrices: sums run in double, in one fixed order, whatever the storage.
#include "base/kernels/cholesky.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/arguments.h"
#include "cpu/dispatch.h"
#include "cpu/run.h"

namespace expctr::cpu {
namespace {

template <class T>
double row_product(const T* a, const T* b, std::int64_t n) {
  return lane_sum<double>(n, [&](std::int64_t k) { return static_cast<double>(a[k]) * static_cast<double>(b[k]); });
}

/// 0, or 1 + the row of the first pivot that is not positive.
template <class T>
std::int32_t factorise(const T* a, std::int64_t n, T* factor) {
  for (std::int64_t i = 0; i < n; ++i) {
    T* row = factor + i * n;
    for (std::int64_t j = 0; j < i; ++j) {
      const T* other = factor + j * n;
      row[j] = static_cast<T>((static_cast<double>(a[i * n + j]) - row_product(row, other, j)) / static_cast<double>(other[j]));
    }
    const double pivot = static_cast<double>(a[i * n + i]) - row_product(row, row, i);
    if (!(pivot > 0) || !std::isfinite(pivot)) {
      std::fill_n(factor, n * n, std::numeric_limits<T>::quiet_NaN());
      return static_cast<std::int32_t>(i + 1);
    }
    row[i] = static_cast<T>(std::sqrt(pivot));
    std::fill_n(row + i + 1, n - i - 1, T(0));
  }
  return 0;
}

/// Columns [first, first + count) of one system; y is scratch of [n, column_grain].
template <class T>
void solve(const T* factor, const T* b, std::int64_t n, std::int64_t columns, std::int64_t first, std::int64_t count, bool accumulate,
           double* y, T* x) {
  for (std::int64_t i = 0; i < n; ++i) {
    double* row = y + i * column_grain;
    for (std::int64_t c = 0; c < count; ++c) row[c] = static_cast<double>(b[i * columns + first + c]);
    for (std::int64_t k = 0; k < i; ++k) {
      const double l = static_cast<double>(factor[i * n + k]);
      for (std::int64_t c = 0; c < count; ++c) row[c] -= l * y[k * column_grain + c];
    }
    for (std::int64_t c = 0; c < count; ++c) row[c] /= static_cast<double>(factor[i * n + i]);
  }
  for (std::int64_t i = n - 1; i >= 0; --i) {
    double* row = y + i * column_grain;
    for (std::int64_t c = 0; c < count; ++c) row[c] /= static_cast<double>(factor[i * n + i]);
    for (std::int64_t k = 0; k < i; ++k) {
      const double l = static_cast<double>(factor[i * n + k]);
      for (std::int64_t c = 0; c < count; ++c) y[k * column_grain + c] -= l * row[c];
    }
    T* to = x + i * columns + first;
    for (std::int64_t c = 0; c < count; ++c) to[c] = static_cast<T>(accumulate ? static_cast<double>(to[c]) + row[c] : row[c]);
  }
}

}  // namespace

template <>
void run(const Cholesky& args, Stream) {
  require_alike("cholesky", {{"a", args.a}, {"factor", args.factor}});
  require(args.a.rank == 3 && args.a.shape[1] == args.a.shape[2], "cholesky", "a must be [batch, n, n]", {{"a", args.a}});
  require_ids("cholesky", "status", args.status, args.a.shape[0]);
  const std::int64_t n = args.a.shape[1];
  with_floating(args.a.dtype, [&](auto zero) {
    using T = decltype(zero);
    for_rows(args.a.shape[0], n * n * n / 3 + 1, cheap_grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i)
        args.status.as<std::int32_t>()[i] = factorise(args.a.as<const T>() + i * n * n, n, args.factor.as<T>() + i * n * n);
    });
  });
}

template <>
void run(const CholeskySolve& args, Stream) {
  require_alike("cholesky_solve", {{"b", args.b}, {"x", args.x}});
  require_floating("cholesky_solve", {{"factor", args.factor}, {"b", args.b}});
  require(args.factor.rank == 3 && args.b.rank == 3 && args.factor.shape[1] == args.factor.shape[2] &&
              args.b.shape[0] == args.factor.shape[0] && args.b.shape[1] == args.factor.shape[1],
          "cholesky_solve", "factor must be [batch, n, n] and b [batch, n, columns]", {{"factor", args.factor}, {"b", args.b}});
  const std::int64_t n = args.b.shape[1], columns = args.b.shape[2], blocks = (columns + column_grain - 1) / column_grain;
  with_floating(args.b.dtype, [&](auto zero) {
    using T = decltype(zero);
    for_rows(args.b.shape[0] * blocks, n * n * column_grain, cheap_grain, [&](std::int64_t begin, std::int64_t end) {
      double* y = reinterpret_cast<double*>(thread_scratch(static_cast<std::size_t>(n * column_grain) * sizeof(double)).data());
      for (std::int64_t piece = begin; piece < end; ++piece) {
        const std::int64_t batch = piece / blocks, first = piece % blocks * column_grain;
        solve(args.factor.as<const T>() + batch * n * n, args.b.as<const T>() + batch * n * columns, n, columns, first,
              std::min(column_grain, columns - first), args.accumulate, y, args.x.as<T>() + batch * n * columns);
      }
    });
  });
}

}  // namespace expctr::cpu
