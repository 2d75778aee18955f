// Elementwise kernels whose operands are broadcast, and their gradients. One pass over the operands, bounded by memory, or by pow where the
// function has one. Axes that both operands step through alike are merged, so same-shape and row-broadcast operands run in long inner
// loops.
#include "base/kernels/elementwise.h"
#include "base/scalar_math.h"
#include "cpu/arguments.h"
#include "cpu/dispatch.h"
#include "cpu/run.h"

namespace expctr::cpu {
namespace {

/// The axes of y after merging, with the steps of a and b in elements; 0 along a broadcast axis. The last axis has steps 0 or 1.
struct Broadcast {
  int rank = 1;
  std::int64_t extent[max_rank] = {1}, a_step[max_rank] = {}, b_step[max_rank] = {};
  std::int64_t size = 1;
};

/// Extent of a view's axis, counted from the right; 1 where it has none.
std::int64_t extent_of(const View& view, int axis_from_right) {
  return axis_from_right < view.rank ? view.shape[view.rank - 1 - axis_from_right] : 1;
}

/// a and b, whose extents are y's or 1, seen from y. From the right: an axis joins the one before when both operands step through the two
/// as through one.
Broadcast merge_axes(const View& a, const View& b, const View& y) {
  std::int64_t extent[max_rank], a_step[max_rank], b_step[max_rank], a_size = 1, b_size = 1;
  int count = 0;
  for (int i = 0; i < y.rank; ++i) {
    const std::int64_t m = extent_of(a, i), n = extent_of(b, i), e = extent_of(y, i);
    if (e != 1) {
      const std::int64_t a_here = m == 1 ? 0 : a_size, b_here = n == 1 ? 0 : b_size;
      if (count > 0 && a_here == a_step[count - 1] * extent[count - 1] && b_here == b_step[count - 1] * extent[count - 1]) {
        extent[count - 1] *= e;
      } else {
        extent[count] = e;
        a_step[count] = a_here;
        b_step[count] = b_here;
        ++count;
      }
    }
    a_size *= m;
    b_size *= n;
  }
  Broadcast result;
  result.size = y.size();
  if (count > 0) result.rank = count;
  for (int i = 0; i < count; ++i) {
    result.extent[i] = extent[count - 1 - i];
    result.a_step[i] = a_step[count - 1 - i];
    result.b_step[i] = b_step[count - 1 - i];
  }
  return result;
}

Broadcast broadcast(const char* op, const View& a, const View& b, const View& y) {
  const int rank = a.rank > b.rank ? a.rank : b.rank;
  bool fits = y.rank == rank;
  for (int i = 0; i < rank && fits; ++i) {
    const std::int64_t m = extent_of(a, i), n = extent_of(b, i);
    fits = (m == n || m == 1 || n == 1) && extent_of(y, i) == (m == 1 ? n : m);
  }
  require(fits, op, "shapes do not broadcast", {{"a", a}, {"b", b}, {"y", y}}, "aligned at the right, extents must be equal or 1");
  return merge_axes(a, b, y);
}

/// segment(y offset, a offset, b offset, count) for the runs along the last axis that make up [begin, end) of y.
template <class Segment>
void for_segments(const Broadcast& shape, std::int64_t begin, std::int64_t end, Segment segment) {
  const int last = shape.rank - 1;
  while (begin < end) {
    std::int64_t rest = begin / shape.extent[last];
    const std::int64_t column = begin % shape.extent[last];
    std::int64_t a = column * shape.a_step[last], b = column * shape.b_step[last];
    for (int axis = last - 1; axis >= 0; --axis) {
      const std::int64_t index = rest % shape.extent[axis];
      rest /= shape.extent[axis];
      a += index * shape.a_step[axis];
      b += index * shape.b_step[axis];
    }
    const std::int64_t row_end = begin - column + shape.extent[last], stop = row_end < end ? row_end : end;
    segment(begin, a, b, stop - begin);
    begin = stop;
  }
}

/// target += sum over the target's broadcast axes of partial(dy, own, other), added in ascending order of y. In `shape` a is the operand
/// whose gradient the target is; own is its value, other the other operand's.
template <class T, class Partial>
void accumulate_partial(const Broadcast& shape, const T* dy, const T* own, const T* other, T* target, Partial partial) {
  const int last = shape.rank - 1;
  int kept[max_rank], reduced[max_rank], kept_count = 0, reduced_count = 0;
  std::int64_t y_step[max_rank], target_size = 1, reduced_size = 1, step = 1;
  for (int axis = last; axis >= 0; --axis) {
    y_step[axis] = step;
    step *= shape.extent[axis];
  }
  for (int axis = 0; axis <= last; ++axis) {
    if (shape.a_step[axis] != 0 || shape.extent[axis] == 1) {
      kept[kept_count++] = axis;
      target_size *= shape.extent[axis];
    } else {
      reduced[reduced_count++] = axis;
      reduced_size *= shape.extent[axis];
    }
  }
  const std::int64_t other_step = shape.b_step[last];
  if (reduced_count == 0) {
    for_pieces(shape.size, cheap_grain, [&](std::int64_t begin, std::int64_t end) {
      for_segments(shape, begin, end, [&](std::int64_t y, std::int64_t, std::int64_t b, std::int64_t count) {
        if (other_step == 1)
          for (std::int64_t i = 0; i < count; ++i) target[y + i] += partial(dy[y + i], own[y + i], other[b + i]);
        else
          for (std::int64_t i = 0; i < count; ++i) target[y + i] += partial(dy[y + i], own[y + i], other[b]);
      });
    });
    return;
  }
  // Where in dy and in the other operand element `index` over `axes` lies, the last `skip` of the axes left out.
  const auto place = [&](const int* axes, int count, std::int64_t index, std::int64_t& y, std::int64_t& b) {
    for (int i = count - 1; i >= 0; --i) {
      const std::int64_t at = index % shape.extent[axes[i]];
      index /= shape.extent[axes[i]];
      y += at * y_step[axes[i]];
      b += at * shape.b_step[axes[i]];
    }
  };
  if (kept_count > 0 && kept[kept_count - 1] == last) {
    const std::int64_t width = shape.extent[last];
    for_pieces(target_size, column_grain, [&](std::int64_t begin, std::int64_t end) {
      while (begin < end) {
        const std::int64_t column = begin % width, stop = begin - column + width < end ? begin - column + width : end, count = stop - begin;
        double sum[column_grain] = {};
        std::int64_t y_base = 0, b_base = 0;
        place(kept, kept_count, begin, y_base, b_base);
        for (std::int64_t r = 0; r < reduced_size; ++r) {
          std::int64_t y = y_base, b = b_base;
          place(reduced, reduced_count, r, y, b);
          if (other_step == 1)
            for (std::int64_t i = 0; i < count; ++i) sum[i] += static_cast<double>(partial(dy[y + i], own[begin + i], other[b + i]));
          else
            for (std::int64_t i = 0; i < count; ++i) sum[i] += static_cast<double>(partial(dy[y + i], own[begin + i], other[b]));
        }
        for (std::int64_t i = 0; i < count; ++i) target[begin + i] += static_cast<T>(sum[i]);
        begin = stop;
      }
    });
    return;
  }
  const std::int64_t width = shape.extent[last], runs = reduced_size / width;
  for_rows(target_size, reduced_size, cheap_grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t element = begin; element < end; ++element) {
      std::int64_t y_base = 0, b_base = 0;
      place(kept, kept_count, element, y_base, b_base);
      double sum = 0;
      for (std::int64_t run = 0; run < runs; ++run) {
        std::int64_t y = y_base, b = b_base;
        place(reduced, reduced_count - 1, run, y, b);
        sum += lane_sum<T>(width, [&](std::int64_t i) { return partial(dy[y + i], own[element], other[b + i * other_step]); });
      }
      target[element] += static_cast<T>(sum);
    }
  });
}

void require_where(const View& mask, const View& a, const View& b, const View& y) {
  require_floating("where", {{"mask", mask}, {"y", y}});
  bool fits = true;
  for (const View* operand : {&mask, &a, &b}) {
    fits = fits && operand->rank <= y.rank && operand->dtype == y.dtype;
    for (int i = 0; i < y.rank && fits; ++i) fits = extent_of(*operand, i) == 1 || extent_of(*operand, i) == extent_of(y, i);
  }
  require(fits, "where", "shapes do not broadcast, or dtypes differ", {{"mask", mask}, {"a", a}, {"b", b}, {"y", y}},
          "aligned at the right, extents must be equal or 1");
}

/// y = value where the mask is set (or, not `when_set`, where it is not).
template <class T>
void choose(const View& mask, const View& value, const View& y, bool when_set) {
  const Broadcast shape = merge_axes(mask, value, y);
  const std::int64_t mask_step = shape.a_step[shape.rank - 1], value_step = shape.b_step[shape.rank - 1];
  for_pieces(shape.size, cheap_grain, [&](std::int64_t begin, std::int64_t end) {
    for_segments(shape, begin, end, [&](std::int64_t at, std::int64_t mask_at, std::int64_t value_at, std::int64_t count) {
      const T *m = mask.as<const T>() + mask_at, *v = value.as<const T>() + value_at;
      T* out = y.as<T>() + at;
      for (std::int64_t i = 0; i < count; ++i)
        if ((m[i * mask_step] != T(0)) == when_set) out[i] = v[i * value_step];
    });
  });
}

}  // namespace

template <>
void run(const BinaryForward& args, Stream) {
  require_floating("binary", {{"a", args.a}, {"b", args.b}, {"y", args.y}});
  const Broadcast shape = broadcast("binary", args.a, args.b, args.y);
  with_floating(args.y.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T *a = args.a.as<const T>(), *b = args.b.as<const T>();
    T* y = args.y.as<T>();
    const bool a_moves = shape.a_step[shape.rank - 1] != 0, b_moves = shape.b_step[shape.rank - 1] != 0;
    scalar::with_binary(args.function, [&](auto tag) {
      constexpr Binary function = tag.value;
      for_pieces(shape.size, cheap_grain, [&](std::int64_t begin, std::int64_t end) {
        for_segments(shape, begin, end, [&](std::int64_t at, std::int64_t a_at, std::int64_t b_at, std::int64_t count) {
          const T *p = a + a_at, *q = b + b_at;
          T* out = y + at;
          if (a_moves && b_moves)
            for (std::int64_t i = 0; i < count; ++i) out[i] = scalar::evaluate(function, p[i], q[i]);
          else if (a_moves)
            for (std::int64_t i = 0; i < count; ++i) out[i] = scalar::evaluate(function, p[i], *q);
          else if (b_moves)
            for (std::int64_t i = 0; i < count; ++i) out[i] = scalar::evaluate(function, *p, q[i]);
          else
            for (std::int64_t i = 0; i < count; ++i) out[i] = scalar::evaluate(function, *p, *q);
        });
      });
    });
  });
}

template <>
std::size_t scratch_bytes(const BinaryBackward&) {
  return 0;
}

template <>
void run(const BinaryBackward& args, Stream) {
  require_floating("binary backward", {{"a", args.a}, {"b", args.b}, {"dy", args.dy}});
  const Broadcast from_a = broadcast("binary backward", args.a, args.b, args.dy);
  const Broadcast from_b = broadcast("binary backward", args.b, args.a, args.dy);
  if (!args.da.empty()) require_alike("binary backward", {{"a", args.a}, {"da", args.da}});
  if (!args.db.empty()) require_alike("binary backward", {{"b", args.b}, {"db", args.db}});
  if (args.dy.size() == 0) return;
  with_floating(args.dy.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T *a = args.a.as<const T>(), *b = args.b.as<const T>(), *dy = args.dy.as<const T>();
    scalar::with_binary(args.function, [&](auto tag) {
      constexpr Binary function = tag.value;
      if constexpr (scalar::has_gradient(function)) {
        if (!args.da.empty())
          accumulate_partial(from_a, dy, a, b, args.da.as<T>(),
                             [](T g, T own, T other) { return scalar::partial(function, true, g, own, other); });
        if (!args.db.empty())
          accumulate_partial(from_b, dy, b, a, args.db.as<T>(),
                             [](T g, T own, T other) { return scalar::partial(function, false, g, own, other); });
      }
    });
  });
}

template <>
void run(const WhereForward& args, Stream) {
  require_where(args.mask, args.a, args.b, args.y);
  require_floating("where", {{"a", args.a}, {"b", args.b}, {"y", args.y}});
  if (args.y.size() == 0) return;
  with_floating(args.y.dtype, [&](auto zero) {
    using T = decltype(zero);
    choose<T>(args.mask, args.a, args.y, true);
    choose<T>(args.mask, args.b, args.y, false);
  });
}

template <>
std::size_t scratch_bytes(const WhereBackward&) {
  return 0;
}

template <>
void run(const WhereBackward& args, Stream) {
  require_where(args.mask, args.a, args.b, args.dy);
  if (!args.da.empty()) require_alike("where backward", {{"a", args.a}, {"da", args.da}});
  if (!args.db.empty()) require_alike("where backward", {{"b", args.b}, {"db", args.db}});
  if (args.dy.size() == 0) return;
  with_floating(args.dy.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T *mask = args.mask.as<const T>(), *dy = args.dy.as<const T>();
    if (!args.da.empty()) {
      T* da = args.da.as<T>();
      accumulate_partial(merge_axes(args.da, args.mask, args.dy), dy, da, mask, da, [](T g, T, T m) { return m != T(0) ? g : T(0); });
    }
    if (!args.db.empty()) {
      T* db = args.db.as<T>();
      accumulate_partial(merge_axes(args.db, args.mask, args.dy), dy, db, mask, db, [](T g, T, T m) { return m != T(0) ? T(0) : g; });
    }
  });
}

}  // namespace expctr::cpu
