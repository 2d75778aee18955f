// Maxima and minima along an axis: one pass over x, bounded by memory. Contiguous entries: lanes find the extreme value, then the first
// place that holds it is looked up in the tile it came from. Strided entries: a task owns some neighbouring outputs.
#include "base/kernels/reduce_extreme.h"

#include <algorithm>

#include "cpu/arguments.h"
#include "cpu/dispatch.h"
#include "cpu/run.h"

namespace expctr::cpu {
namespace {

/// Whether x comes before y: larger (smaller for a minimum), NaN first of all.
template <class T>
bool before(bool maximum, T x, T y) {
  return (maximum ? x > y : x < y) || (x != x && y == y);
}

/// First place of the extreme of x[0 .. n), n >= 1, in tiles: their extremes are found in lanes.
template <class T>
std::int64_t extreme_place(bool maximum, const T* x, std::int64_t n) {
  constexpr std::int64_t tile = 1024, lanes = 16;
  std::int64_t place = 0;
  for (std::int64_t at = 0; at < n; at += tile) {
    const std::int64_t count = std::min(tile, n - at);
    const T* from = x + at;
    const T sign = maximum ? T(1) : T(-1), best = sign * x[place];
    std::int32_t found[lanes] = {};
    std::int64_t i = 0;
    // A lane notices an entry that comes before the best one so far; a NaN is no smaller or equal number either.
    for (; i + lanes <= count; i += lanes)
      for (std::int64_t lane = 0; lane < lanes; ++lane) found[lane] |= static_cast<std::int32_t>(!(sign * from[i + lane] <= best));
    std::int32_t any = i < count;
    for (const std::int32_t one : found) any |= one;
    if (any != 0)
      for (i = 0; i < count; ++i)
        if (before(maximum, from[i], x[place])) place = at + i;
  }
  return place;
}

void require_axis(const char* op, const View& x, const View& y, const View& index) {
  require(x.rank == 3, op, "x must be [outer, n, inner]", {{"x", x}});
  const std::int64_t outputs = x.shape[0] * x.shape[2];
  require(x.shape[1] > 0 || outputs == 0, op, "n must be at least 1", {{"x", x}});
  if (!y.empty()) {
    require_floating(op, {{"x", x}, {"y", y}});
    require(y.size() == outputs, op, "y must be [outer, inner]", {{"x", x}, {"y", y}});
  }
  if (!index.empty()) require_ids(op, "index", index, outputs);
}

}  // namespace

template <>
std::size_t scratch_bytes(const ExtremeForward&) {
  return 0;
}

template <>
void run(const ExtremeForward& args, Stream) {
  require_floating("extreme", {{"x", args.x}});
  require_axis("extreme", args.x, args.y, args.index);
  const std::int64_t outer = args.x.shape[0], n = args.x.shape[1], inner = args.x.shape[2],
                     blocks = (inner + column_grain - 1) / column_grain;
  with_floating(args.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    T* y = args.y.as<T>();
    std::int32_t* index = args.index.as<std::int32_t>();
    for_rows(outer * blocks, n * std::min(inner, column_grain), cheap_grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t column = i % blocks * column_grain, count = std::min(column_grain, inner - column),
                           at = i / blocks * inner + column;
        const T* x = args.x.as<const T>() + i / blocks * n * inner + column;
        T best[column_grain];
        std::int32_t place[column_grain] = {};
        if (inner == 1) {
          place[0] = static_cast<std::int32_t>(extreme_place(args.maximum, x, n));
          best[0] = x[place[0]];
        } else {
          std::copy_n(x, count, best);
          for (std::int64_t k = 1; k < n; ++k) {
            for (std::int64_t c = 0; c < count; ++c) {
              const T value = x[k * inner + c];
              const bool better = before(args.maximum, value, best[c]);
              best[c] = better ? value : best[c];
              place[c] = better ? static_cast<std::int32_t>(k) : place[c];
            }
          }
        }
        if (y != nullptr) std::copy_n(best, count, y + at);
        if (index != nullptr) std::copy_n(place, count, index + at);
      }
    });
  });
}

template <>
void run(const ExtremeBackward& args, Stream) {
  require_floating("extreme backward", {{"dy", args.dy}, {"dx", args.dx}});
  require_axis("extreme backward", args.dx, args.dy, args.index);
  require_ids_below("extreme backward", "index", args.index, args.dx.shape[1]);
  const std::int64_t n = args.dx.shape[1], inner = args.dx.shape[2];
  const std::int32_t* index = args.index.as<const std::int32_t>();
  with_floating(args.dx.dtype, [&](auto zero) {
    using T = decltype(zero);
    for_pieces(args.dy.size(), cheap_grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i)
        if (index[i] >= 0) args.dx.as<T>()[(i / inner * n + index[i]) * inner + i % inner] += args.dy.as<const T>()[i];
    });
  });
}

}  // namespace expctr::cpu
