// Softmax over rows. A row is read once, in tiles: each gives its maximum, its exponentials relative to it, which wait in y, and their sum;
// then the row's maximum and sum are known (online softmax, Milakov and Gimelshein 2018) and y, still in the second-level cache, is scaled.
// 8 bytes an element to and from memory (12 with the lines of y that are read to be overwritten) and one exponential, about 20 operations:
// bound by memory where cores share it, else by the exponential. The logarithm reads x a second time instead. Backward: 16 bytes an
// element, bound by memory.
#include "base/kernels/softmax.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/arguments.h"
#include "cpu/dispatch.h"
#include "cpu/float_math.h"
#include "cpu/kernel_table.h"
#include "cpu/run.h"
#include "cpu/stream.h"

namespace expctr::cpu {
namespace {

constexpr std::int64_t tile = 8192;  ///< elements of a row that pass through the cache at a time

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
  require(
      mask.empty() || (mask.dtype == DType::u8 && mask.rank >= 1 && mask.width() == columns && mask.rows() > 0 && rows % mask.rows() == 0),
      op, "mask must be u8 [groups, columns], the rows a multiple of the groups", {{"x", x}, {"mask", mask}});
  require(lengths.empty() || (lengths.dtype == DType::i32 && lengths.size() > 0 && rows % lengths.size() == 0), op,
          "lengths must be i32 [groups], the rows a multiple of the groups", {{"x", x}, {"lengths", lengths}});
}

constexpr int lanes = 32;
constexpr std::int64_t padded(std::int64_t n) { return (n + lanes - 1) / lanes * lanes; }

/// out[i] = scale x[i], minus infinity where masked and from n to the next multiple of the lanes.
template <class T>
void load_tile(const T* x, const std::uint8_t* mask, T scale, std::int64_t n, T* out) {
  constexpr T none = -std::numeric_limits<T>::infinity();
  if (mask == nullptr)
    for (std::int64_t i = 0; i < n; ++i) out[i] = scale * x[i];
  else
    for (std::int64_t i = 0; i < n; ++i) out[i] = mask[i] != 0 ? scale * x[i] : none;
  for (std::int64_t i = n; i < padded(n); ++i) out[i] = none;
}

/// Largest of x[0 .. n), n whole lanes, at least minus infinity; NaN is passed over.
template <class T>
T maximum(const T* x, std::int64_t n) {
  T largest[lanes];
  for (T& lane : largest) lane = -std::numeric_limits<T>::infinity();
  for (std::int64_t i = 0; i < n; i += lanes)
    for (int lane = 0; lane < lanes; ++lane) largest[lane] = x[i + lane] > largest[lane] ? x[i + lane] : largest[lane];
  return *std::max_element(largest, largest + lanes);
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

/// out[i] = exp(entry i - top), 0 where it is masked, for top = the largest of the n entries; returns the sum of out. Where nothing counts
/// top is minus infinity and out arbitrary. `memory` has room for padded(n) and may be out.
inline double tile_exponentials(const float* x, const std::uint8_t* mask, float scale, std::int64_t n, float* memory, float* out,
                                float* top) {
  if (mask == nullptr) return kernels().softmax_tile(x, n, scale, out, top);
  load_tile(x, mask, scale, n, memory);
  return kernels().softmax_tile(memory, n, 1.0f, out, top);
}
inline double tile_exponentials(const double* x, const std::uint8_t* mask, double scale, std::int64_t n, double* memory, double* out,
                                double* top) {
  load_tile(x, mask, scale, n, memory);
  *top = maximum(memory, padded(n));
  if (*top == -INFINITY) return 0.0;
  for (std::int64_t i = 0; i < n; ++i) out[i] = std::exp(memory[i] - *top);
  return sum(out, n);
}

/// A row's maximum and the sum of exponentials relative to it.
struct RowTotal {
  double largest = -INFINITY, sum = 0;
  void add(double top, double part) {
    if (top <= largest) {
      sum += top == largest ? part : part * std::exp(top - largest);
    } else {
      sum = (largest == -INFINITY ? 0.0 : sum * std::exp(largest - top)) + part;
      largest = top;
    }
  }
};

/// `memory` holds a tile and, behind it, the maximum of every tile of the row.
template <class T>
void forward_row(const T* x, const RowMask& row, std::int64_t columns, T scale, bool logarithm, T* y, T* memory) {
  constexpr T none = -std::numeric_limits<T>::infinity();
  T* tops = memory + tile;
  RowTotal total;
  for (std::int64_t at = 0; at < row.length; at += tile) {
    T& top = tops[at / tile];
    const double part = tile_exponentials(x + at, row.mask == nullptr ? nullptr : row.mask + at, scale, std::min(tile, row.length - at),
                                          memory, logarithm ? memory : y + at, &top);
    if (top != none) total.add(static_cast<double>(top), part);
  }
  const T largest = static_cast<T>(total.largest), log_total = logarithm ? static_cast<T>(std::log(total.sum)) : T(0);
  for (std::int64_t at = 0; at < row.length; at += tile) {
    const std::int64_t n = std::min(tile, row.length - at);
    const std::uint8_t* mask = row.mask == nullptr ? nullptr : row.mask + at;
    if (!logarithm) {
      const T top = tops[at / tile];
      const double share = top == largest ? 1.0 : std::exp(static_cast<double>(top) - total.largest);
      const T factor = static_cast<T>(share / total.sum);
      if (top != none)
        for (std::int64_t i = at; i < at + n; ++i) y[i] *= factor;
      else  // nothing above minus infinity; NaN must not vanish
        for (std::int64_t i = 0; i < n; ++i) y[at + i] = x[at + i] != x[at + i] && (mask == nullptr || mask[i] != 0) ? x[at + i] : T(0);
      continue;
    }
    for (std::int64_t i = 0; i < n; ++i) {
      const T shifted = (scale * x[at + i] - largest) - log_total;
      y[at + i] = largest == none && x[at + i] == x[at + i] ? none : shifted;  // all entries are minus infinity
    }
    if (mask != nullptr)
      for (std::int64_t i = 0; i < n; ++i) y[at + i] = mask[i] != 0 ? y[at + i] : T(0);
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
    const RowWriter<T> writer(args.y);
    for_rows(rows, columns, writer.grain(heavy_grain), [&](std::int64_t begin, std::int64_t end) {
      T* memory = reinterpret_cast<T*>(thread_scratch(static_cast<std::size_t>(tile + columns / tile + 1) * sizeof(T)).data());
      for (std::int64_t row = begin; row < end; ++row) {
        forward_row(args.x.as<const T>() + row * columns, row_mask(args.mask, args.lengths, rows, columns, row), columns,
                    static_cast<T>(args.scale), args.logarithm, writer.begin(row), memory);
        writer.end(row);
      }
      writer.finish();
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
