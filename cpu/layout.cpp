// Copies between memory layouts. Reads and writes each element once: 2 x the element size in bytes (3 x when accumulating), bound by memory.
// Rows that both sides hold without gaps are copied whole; where x runs along another axis than y, squares of 32 x 32 elements keep both
// sides' lines in the first-level cache. Every element is one addition at most, so any split gives the same bits.
#include "base/kernels/layout.h"

#include <algorithm>

#include "base/blocks.h"
#include "base/strided.h"
#include "cpu/arguments.h"
#include "cpu/dispatch.h"
#include "cpu/run.h"

namespace expctr::cpu {
namespace {

struct Put {
  template <class T>
  void operator()(T& y, T x) const {
    y = x;
  }
};
struct Add {
  template <class T>
  void operator()(T& y, T x) const {
    y += x;
  }
};
struct AddBf16 {
  void operator()(std::uint16_t& y, std::uint16_t x) const { y = bf16_of_float(float_of_bf16(y) + float_of_bf16(x)); }
};

constexpr std::int64_t square = 32;

template <class T, class Store>
void copy(const StridedLoop& loop, const T* x, T* y, Store store) {
  if (loop.rank == 0) return store(*y, *x);
  const int last = loop.rank - 1;
  const std::int64_t n = loop.extent[last], x_step = loop.x[last], y_step = loop.y[last];
  // The axis along which x lies closest, if that is not the innermost one: its pieces of `square` are walked together with the innermost.
  int across = -1;
  for (int i = 0; i < last; ++i)
    if (loop.x[i] != 0 && (across < 0 || loop.x[i] < loop.x[across])) across = i;
  if (across >= 0 && (x_step == 0 || loop.x[across] >= x_step)) across = -1;
  std::int64_t outer = 1;  // iterations of the loops around the row or the square strip
  for (int i = 0; i < last; ++i) outer *= i == across ? (loop.extent[i] + square - 1) / square : loop.extent[i];
  const std::int64_t work = across < 0 ? n : n * square;
  for_pieces(outer, std::max<std::int64_t>(cheap_grain / std::max<std::int64_t>(work, 1), 1), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t index = begin; index < end; ++index) {
      std::int64_t rest = index, first = 0;
      const T* from = x;
      T* to = y;
      for (int i = last - 1; i >= 0; --i) {
        const std::int64_t count = i == across ? (loop.extent[i] + square - 1) / square : loop.extent[i];
        const std::int64_t at = rest % count * (i == across ? square : 1);
        rest /= count;
        if (i == across) first = at;
        from += at * loop.x[i];
        to += at * loop.y[i];
      }
      if (across < 0) {
        if (x_step == 1 && y_step == 1) {
          for (std::int64_t k = 0; k < n; ++k) store(to[k], from[k]);
        } else {
          for (std::int64_t k = 0; k < n; ++k) store(to[k * y_step], from[k * x_step]);
        }
        continue;
      }
      const std::int64_t rows = std::min(square, loop.extent[across] - first), x_row = loop.x[across], y_row = loop.y[across];
      for (std::int64_t k0 = 0; k0 < n; k0 += square) {
        const std::int64_t k1 = std::min(n, k0 + square);
        for (std::int64_t r = 0; r < rows; ++r)
          for (std::int64_t k = k0; k < k1; ++k) store(to[r * y_row + k * y_step], from[r * x_row + k * x_step]);
      }
    }
  });
}

template <class T, class Store>
void copy(const CopyStrided& args, Store store) {
  copy(strided_loop(args.x, args.y), args.x.as<const T>(), args.y.as<T>(), store);
}

}  // namespace

template <>
void run(const CopyStrided& args, Stream) {
  const DType dtype = args.y.dtype;
  bool fits = same_shape(args.x, args.y) && args.x.dtype == dtype && !is_quantised(dtype) && present(args.x) && present(args.y);
  for (int i = 0; i < args.y.rank; ++i) fits = fits && (args.y.shape[i] <= 1 || args.y.stride[i] != 0);
  fits = fits && (!args.accumulate || is_floating(dtype) || dtype == DType::bf16);
  require(fits, "copy_strided", "x and y must have one shape and one plain dtype (f32, f64 or bf16 to accumulate), and y must not repeat elements",
          {{"x", args.x}, {"y", args.y}});
  if (args.y.size() == 0) return;
  if (args.accumulate) {
    if (dtype == DType::f32) return copy<float>(args, Add());
    if (dtype == DType::f64) return copy<double>(args, Add());
    return copy<std::uint16_t>(args, AddBf16());
  }
  switch (dtype_traits(dtype).block_bytes) {
    case 1:
      return copy<std::uint8_t>(args, Put());
    case 2:
      return copy<std::uint16_t>(args, Put());
    case 4:
      return copy<std::uint32_t>(args, Put());
    default:
      return copy<std::uint64_t>(args, Put());
  }
}

}  // namespace expctr::cpu
