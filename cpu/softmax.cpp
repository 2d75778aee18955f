// Softmax over rows. A row goes through the first-level cache in tiles: each tile gives its maximum and sum of exponentials relative to it,
// which are combined in order (online softmax, Milakov and Gimelshein 2018). Rows of one tile keep their exponentials, longer ones compute
// them again from the second-level cache. 8 bytes an element to and from memory (large results are written past the caches, so nothing is
// read for them), two exponentials of about 20 operations: bound by memory. Backward: 16 bytes an element, bound by memory.
#include "base/kernels/softmax.h"

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/arguments.h"
#include "cpu/dispatch.h"
#include "cpu/float_math.h"
#include "cpu/run.h"

namespace expctr::cpu {
namespace {

constexpr std::int64_t tile = 1024;                    ///< elements of a row that pass through the cache at a time
constexpr std::int64_t streamed_bytes = 8LL << 20;     ///< results from this size on are not kept in the caches

/// The entries of one row that count: columns below `length` whose mask, if there is one, is not 0.
struct RowMask {
  const std::uint8_t* mask;
  std::int64_t length;
};

RowMask row_mask(const View& mask, const View& lengths, std::int64_t rows, std::int64_t columns, std::int64_t row) {
  RowMask result{nullptr, columns};
  if (!mask.empty()) result.mask = mask.as<const std::uint8_t>() + row / (rows / mask.rows()) * columns;
  if (!lengths.empty()) {
    const std::int64_t length = lengths.as<const std::int32_t>()[row / (rows / lengths.size())];
    result.length = std::clamp<std::int64_t>(length, 0, columns);
  }
  return result;
}

void require_masks(const char* op, const View& x, const View& mask, const View& lengths) {
  const std::int64_t rows = x.rows(), columns = x.width();
  require(x.rank >= 1, op, "x must have an axis", {{"x", x}});
  require(mask.empty() || (mask.dtype == DType::u8 && mask.rank >= 1 && mask.width() == columns && mask.rows() > 0 && rows % mask.rows() == 0), op,
          "mask must be u8 [groups, columns], the rows a multiple of the groups", {{"x", x}, {"mask", mask}});
  require(lengths.empty() || (lengths.dtype == DType::i32 && lengths.size() > 0 && rows % lengths.size() == 0), op,
          "lengths must be i32 [groups], the rows a multiple of the groups", {{"x", x}, {"lengths", lengths}});
}

/// Largest of x[0 .. n), minus infinity for none; NaN is passed over.
template <class T>
T maximum(const T* x, std::int64_t n) {
  constexpr int lanes = 32;
  T largest[lanes];
  for (T& lane : largest) lane = -std::numeric_limits<T>::infinity();
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (int lane = 0; lane < lanes; ++lane) largest[lane] = x[i + lane] > largest[lane] ? x[i + lane] : largest[lane];
  for (; i < n; ++i) largest[0] = x[i] > largest[0] ? x[i] : largest[0];
  return *std::max_element(largest, largest + lanes);
}

/// out[i] = scale x[i], minus infinity where masked.
template <class T>
void load_tile(const T* x, const std::uint8_t* mask, T scale, std::int64_t n, T* out) {
  if (mask == nullptr)
    for (std::int64_t i = 0; i < n; ++i) out[i] = scale * x[i];
  else
    for (std::int64_t i = 0; i < n; ++i) out[i] = mask[i] != 0 ? scale * x[i] : -std::numeric_limits<T>::infinity();
}

template <class T>
void exponentials(T* x, std::int64_t n, T largest) {
  for (std::int64_t i = 0; i < n; ++i) x[i] = float_math::exp(x[i] - largest);
}

template <class T>
double sum(const T* x, std::int64_t n) {
  return lane_sum<T>(n, [x](std::int64_t i) { return x[i]; });
}

/// Sum of the entries that are not masked. (GCC 12 miscompiles the condition inside lane_sum's term.)
template <class T>
double sum_unmasked(const T* x, const std::uint8_t* mask, std::int64_t n) {
  alignas(64) T buffer[tile];
  double total = 0;
  for (std::int64_t at = 0; at < n; at += tile) {
    const std::int64_t count = std::min(tile, n - at);
    for (std::int64_t i = 0; i < count; ++i) buffer[i] = mask[at + i] != 0 ? x[at + i] : T(0);
    total += sum(buffer, count);
  }
  return total;
}

/// Copies a tile to its place; `past_caches`: without reading the lines it overwrites.
template <class T>
void store_tile(const T* from, std::int64_t n, T* to, bool past_caches) {
  const std::size_t bytes = static_cast<std::size_t>(n) * sizeof(T);
  if (!past_caches || reinterpret_cast<std::uintptr_t>(to) % 32 != 0 || bytes % 32 != 0) {
    std::memcpy(to, from, bytes);
    return;
  }
  for (std::size_t at = 0; at < bytes; at += 32)
    _mm256_stream_si256(reinterpret_cast<__m256i*>(reinterpret_cast<char*>(to) + at),
                        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(reinterpret_cast<const char*>(from) + at)));
}

/// A tile of scaled entries becomes the result; the largest entry and the sum of exponentials relative to it are the row's.
template <class T>
void finish_tile(T* x, const std::uint8_t* mask, std::int64_t n, bool logarithm, T largest, double total) {
  if (!logarithm) {
    const T inverse = static_cast<T>(1.0 / total);
    exponentials(x, n, largest);
    for (std::int64_t i = 0; i < n; ++i) x[i] *= inverse;
    return;
  }
  const T log_total = static_cast<T>(std::log(total));
  for (std::int64_t i = 0; i < n; ++i) x[i] = (x[i] - largest) - log_total;
  if (mask != nullptr)
    for (std::int64_t i = 0; i < n; ++i) x[i] = mask[i] != 0 ? x[i] : T(0);
}

template <class T>
void forward_row(const T* x, const RowMask& row, std::int64_t columns, T scale, bool logarithm, T* y, bool past_caches) {
  constexpr T none = -std::numeric_limits<T>::infinity();
  alignas(64) T buffer[tile];
  T largest = none;
  double total = 0;
  for (std::int64_t at = 0; at < row.length; at += tile) {
    const std::int64_t n = std::min(tile, row.length - at);
    load_tile(x + at, row.mask == nullptr ? nullptr : row.mask + at, scale, n, buffer);
    const T top = maximum(buffer, n);
    if (top == none) continue;
    exponentials(buffer, n, top);
    const double part = sum(buffer, n);
    const T most = std::max(top, largest);
    total = (largest == none ? 0.0 : total * std::exp(static_cast<double>(largest - most))) + part * std::exp(static_cast<double>(top - most));
    largest = most;
  }
  if (largest == none) {
    // Nothing counts: zeros. Entries of minus infinity that are not masked keep it in the logarithm.
    for (std::int64_t i = 0; i < columns; ++i)
      y[i] = logarithm && i < row.length && (row.mask == nullptr || row.mask[i] != 0) ? x[i] : T(0);
    return;
  }
  if (row.length <= tile && !logarithm) {
    const T inverse = static_cast<T>(1.0 / total);
    for (std::int64_t i = 0; i < row.length; ++i) y[i] = buffer[i] * inverse;
  } else {
    for (std::int64_t at = 0; at < row.length; at += tile) {
      const std::int64_t n = std::min(tile, row.length - at);
      const std::uint8_t* mask = row.mask == nullptr ? nullptr : row.mask + at;
      load_tile(x + at, mask, scale, n, buffer);
      finish_tile(buffer, mask, n, logarithm, largest, total);
      store_tile(buffer, n, y + at, past_caches);
    }
  }
  std::fill(y + row.length, y + columns, T(0));
}

}  // namespace

template <>
void run(const SoftmaxForward& args, Stream) {
  require_alike("softmax", {{"x", args.x}, {"y", args.y}});
  if (args.x.size() == 0) return;
  require_masks("softmax", args.x, args.mask, args.lengths);
  const std::int64_t rows = args.x.rows(), columns = args.x.width();
  with_floating(args.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    const bool past_caches = columns > tile && args.y.size() * static_cast<std::int64_t>(sizeof(T)) >= streamed_bytes;
    for_rows(rows, columns, heavy_grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row)
        forward_row(args.x.as<const T>() + row * columns, row_mask(args.mask, args.lengths, rows, columns, row), columns,
                    static_cast<T>(args.scale), args.logarithm, args.y.as<T>() + row * columns, past_caches);
      if (past_caches) _mm_sfence();
    });
  });
}

template <>
void run(const SoftmaxBackward& args, Stream) {
  require_alike("softmax backward", {{"y", args.y}, {"dy", args.dy}, {"dx", args.dx}});
  if (args.y.size() == 0) return;
  require_masks("softmax backward", args.y, args.mask, args.lengths);
  const std::int64_t rows = args.y.rows(), columns = args.y.width();
  with_floating(args.y.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T scale = static_cast<T>(args.scale);
    for_rows(rows, columns, heavy_grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        const auto [mask, length] = row_mask(args.mask, args.lengths, rows, columns, row);
        const T *y = args.y.as<const T>() + row * columns, *dy = args.dy.as<const T>() + row * columns;
        T* dx = args.dx.as<T>() + row * columns;
        if (!args.logarithm) {  // masked entries have y = 0
          const T dot = static_cast<T>(lane_sum<T>(length, [&](std::int64_t i) { return y[i] * dy[i]; }));
          for (std::int64_t i = 0; i < length; ++i) dx[i] += scale * y[i] * (dy[i] - dot);
        } else if (mask == nullptr) {
          const T total = static_cast<T>(sum(dy, length));
          for (std::int64_t i = 0; i < length; ++i) dx[i] += scale * (dy[i] - float_math::exp(y[i]) * total);
        } else {
          const T total = static_cast<T>(sum_unmasked(dy, mask, length));
          for (std::int64_t i = 0; i < length; ++i) dx[i] += mask[i] != 0 ? scale * (dy[i] - float_math::exp(y[i]) * total) : T(0);
        }
      }
    });
  });
}

}  // namespace expctr::cpu
