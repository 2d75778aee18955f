// Elementwise kernels. One pass over the operands, bounded by memory, or by exp where the function has one. Broadcasting: axes that both
// operands step through alike are merged, so same-shape and row-broadcast operands run in long inner loops.
#include "base/kernels/elementwise.h"

#include <type_traits>

#include "base/blocks.h"
#include "base/philox.h"
#include "cpu/arguments.h"
#include "cpu/convert.h"
#include "cpu/dispatch.h"
#include "cpu/float_math.h"
#include "cpu/run.h"

namespace expctr::cpu {
namespace {

template <Unary function>
using UnaryTag = std::integral_constant<Unary, function>;
template <Binary function>
using BinaryTag = std::integral_constant<Binary, function>;

template <class Body>
void with_unary(Unary function, Body&& body) {
  switch (function) {
    case Unary::relu:
      return body(UnaryTag<Unary::relu>{});
    case Unary::sigmoid:
      return body(UnaryTag<Unary::sigmoid>{});
    case Unary::tanh:
      return body(UnaryTag<Unary::tanh>{});
    case Unary::silu:
      return body(UnaryTag<Unary::silu>{});
    case Unary::gelu:
      return body(UnaryTag<Unary::gelu>{});
    case Unary::gelu_tanh:
      return body(UnaryTag<Unary::gelu_tanh>{});
    case Unary::exp:
      return body(UnaryTag<Unary::exp>{});
    case Unary::log:
      return body(UnaryTag<Unary::log>{});
    case Unary::square:
      return body(UnaryTag<Unary::square>{});
    case Unary::softplus:
      return body(UnaryTag<Unary::softplus>{});
  }
}

template <class Body>
void with_binary(Binary function, Body&& body) {
  switch (function) {
    case Binary::add:
      return body(BinaryTag<Binary::add>{});
    case Binary::subtract:
      return body(BinaryTag<Binary::subtract>{});
    case Binary::multiply:
      return body(BinaryTag<Binary::multiply>{});
  }
}

/// The axes of y after merging, with the steps of a and b in elements; 0 along a broadcast axis. The last axis has steps 0 or 1.
struct Broadcast {
  int rank = 1;
  std::int64_t extent[max_rank] = {1}, a_step[max_rank] = {}, b_step[max_rank] = {};
  std::int64_t size = 1;
};

Broadcast broadcast(const char* op, const View& a, const View& b, const View& y) {
  const auto extent_of = [](const View& view, int axis_from_right) -> std::int64_t {
    return axis_from_right < view.rank ? view.shape[view.rank - 1 - axis_from_right] : 1;
  };
  const int rank = a.rank > b.rank ? a.rank : b.rank;
  bool fits = y.rank == rank;
  for (int i = 0; i < rank && fits; ++i) {
    const std::int64_t m = extent_of(a, i), n = extent_of(b, i);
    fits = (m == n || m == 1 || n == 1) && extent_of(y, i) == (m == 1 ? n : m);
  }
  require(fits, op, "shapes do not broadcast", {{"a", a}, {"b", b}, {"y", y}}, "aligned at the right, extents must be equal or 1");
  // From the right: an axis joins the one before when both operands step through the two as through one.
  std::int64_t extent[max_rank], a_step[max_rank], b_step[max_rank], a_size = 1, b_size = 1;
  int count = 0;
  for (int i = 0; i < rank; ++i) {
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

/// d (a op b) / da dy, given b, or with the roles turned.
template <Binary function, bool of_a, class T>
T partial(T dy, T other) {
  if constexpr (function == Binary::multiply) return dy * other;
  if constexpr (function == Binary::subtract && !of_a) return -dy;
  return dy;
}

/// target += sum over the target's broadcast axes of partial(dy, other), added in ascending order of y. In `shape` a is the target.
template <Binary function, bool of_a, class T>
void accumulate_partial(const Broadcast& shape, const T* dy, const T* other, T* target) {
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
          for (std::int64_t i = 0; i < count; ++i) target[y + i] += partial<function, of_a>(dy[y + i], other[b + i]);
        else
          for (std::int64_t i = 0; i < count; ++i) target[y + i] += partial<function, of_a>(dy[y + i], other[b]);
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
            for (std::int64_t i = 0; i < count; ++i) sum[i] += static_cast<double>(partial<function, of_a>(dy[y + i], other[b + i]));
          else
            for (std::int64_t i = 0; i < count; ++i) sum[i] += static_cast<double>(partial<function, of_a>(dy[y + i], other[b]));
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
        sum += lane_sum<T>(width, [&](std::int64_t i) { return partial<function, of_a>(dy[y + i], other[b + i * other_step]); });
      }
      target[element] += static_cast<T>(sum);
    }
  });
}

}  // namespace

template <>
void run(const UnaryForward& args, Stream) {
  require_alike("unary", {{"x", args.x}, {"y", args.y}});
  with_floating(args.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* x = args.x.as<const T>();
    T* y = args.y.as<T>();
    with_unary(args.function, [&](auto function) {
      for_pieces(args.x.size(), heavy_grain, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) y[i] = float_math::evaluate<function()>(x[i]);
      });
    });
  });
}

template <>
void run(const UnaryBackward& args, Stream) {
  require_alike("unary backward", {{"x", args.x}, {"dy", args.dy}, {"dx", args.dx}});
  with_floating(args.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T *x = args.x.as<const T>(), *dy = args.dy.as<const T>();
    T* dx = args.dx.as<T>();
    with_unary(args.function, [&](auto function) {
      for_pieces(args.x.size(), heavy_grain, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) dx[i] += dy[i] * float_math::derivative<function()>(x[i]);
      });
    });
  });
}

template <>
void run(const BinaryForward& args, Stream) {
  require_floating("binary", {{"a", args.a}, {"b", args.b}, {"y", args.y}});
  const Broadcast shape = broadcast("binary", args.a, args.b, args.y);
  with_floating(args.y.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T *a = args.a.as<const T>(), *b = args.b.as<const T>();
    T* y = args.y.as<T>();
    const bool a_moves = shape.a_step[shape.rank - 1] != 0, b_moves = shape.b_step[shape.rank - 1] != 0;
    with_binary(args.function, [&](auto function) {
      for_pieces(shape.size, cheap_grain, [&](std::int64_t begin, std::int64_t end) {
        for_segments(shape, begin, end, [&](std::int64_t at, std::int64_t a_at, std::int64_t b_at, std::int64_t count) {
          const T *p = a + a_at, *q = b + b_at;
          T* out = y + at;
          if (a_moves && b_moves)
            for (std::int64_t i = 0; i < count; ++i) out[i] = scalar::evaluate(function(), p[i], q[i]);
          else if (a_moves)
            for (std::int64_t i = 0; i < count; ++i) out[i] = scalar::evaluate(function(), p[i], *q);
          else if (b_moves)
            for (std::int64_t i = 0; i < count; ++i) out[i] = scalar::evaluate(function(), *p, q[i]);
          else
            for (std::int64_t i = 0; i < count; ++i) out[i] = scalar::evaluate(function(), *p, *q);
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
    with_binary(args.function, [&](auto function) {
      if (!args.da.empty()) accumulate_partial<function(), true>(from_a, dy, b, args.da.as<T>());
      if (!args.db.empty()) accumulate_partial<function(), false>(from_b, dy, a, args.db.as<T>());
    });
  });
}

template <>
void run(const Affine& args, Stream) {
  require_alike("affine", {{"x", args.x}, {"y", args.y}});
  with_floating(args.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* x = args.x.as<const T>();
    T* y = args.y.as<T>();
    const T scale = static_cast<T>(args.scale), shift = static_cast<T>(args.shift);
    for_pieces(args.x.size(), cheap_grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) y[i] = scale * x[i] + shift;
    });
  });
}

template <>
void run(const Axpy& args, Stream) {
  require_alike("axpy", {{"x", args.x}, {"y", args.y}});
  with_floating(args.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* x = args.x.as<const T>();
    T* y = args.y.as<T>();
    const T alpha = static_cast<T>(args.alpha);
    for_pieces(args.x.size(), cheap_grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) y[i] += alpha * x[i];
    });
  });
}

template <>
void run(const Fill& args, Stream) {
  require_alike("fill", {{"y", args.y}});
  with_floating(args.y.dtype, [&](auto zero) {
    using T = decltype(zero);
    T* y = args.y.as<T>();
    const T value = static_cast<T>(args.value);
    for_pieces(args.y.size(), cheap_grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) y[i] = value;
    });
  });
}

template <>
void run(const Convert& args, Stream) {
  const DType from = args.x.dtype, to = args.y.dtype;
  require(same_shape(args.x, args.y) && present(args.x) && present(args.y) && is_readable(from) && (is_floating(to) || to == DType::bf16),
          "convert", "x (f32, f64, bf16, f16 or block-quantised) and y (f32, f64 or bf16) must have one shape",
          {{"x", args.x}, {"y", args.y}});
  require(!is_quantised(from) || args.x.width() % dtype_traits(from).block_elements == 0, "convert", "the last extent must be whole blocks",
          {{"x", args.x}});
  for_pieces(args.x.size(), cheap_grain, [&](std::int64_t begin, std::int64_t end) {
    if (to == DType::f64) return read_elements(args.x.data, from, begin, end - begin, args.y.as<double>() + begin);
    if (to == DType::f32) return read_elements(args.x.data, from, begin, end - begin, args.y.as<float>() + begin);
    float buffer[256];  // a multiple of the block, as is the grain
    std::uint16_t* y = args.y.as<std::uint16_t>();
    for (std::int64_t at = begin; at < end; at += 256) {
      const std::int64_t count = end - at < 256 ? end - at : 256;
      read_elements(args.x.data, from, at, count, buffer);
      for (std::int64_t i = 0; i < count; ++i) y[at + i] = bf16_of_float(buffer[i]);
    }
  });
}

template <>
void run(const SwigluForward& args, Stream) {
  require_alike("swiglu", {{"gate", args.gate}, {"up", args.up}, {"y", args.y}});
  with_floating(args.gate.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T *gate = args.gate.as<const T>(), *up = args.up.as<const T>();
    T* y = args.y.as<T>();
    for_pieces(args.gate.size(), heavy_grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) y[i] = float_math::silu(gate[i]) * up[i];
    });
  });
}

template <>
void run(const SwigluBackward& args, Stream) {
  require_alike("swiglu backward", {{"gate", args.gate}, {"up", args.up}, {"dy", args.dy}});
  if (!args.dgate.empty()) require_alike("swiglu backward", {{"gate", args.gate}, {"dgate", args.dgate}});
  if (!args.dup.empty()) require_alike("swiglu backward", {{"up", args.up}, {"dup", args.dup}});
  with_floating(args.gate.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T *gate = args.gate.as<const T>(), *up = args.up.as<const T>(), *dy = args.dy.as<const T>();
    T *dgate = args.dgate.as<T>(), *dup = args.dup.as<T>();
    for_pieces(args.gate.size(), heavy_grain, [&](std::int64_t begin, std::int64_t end) {
      if (dgate != nullptr)
        for (std::int64_t i = begin; i < end; ++i) dgate[i] += dy[i] * up[i] * float_math::silu_derivative(gate[i]);
      if (dup != nullptr)
        for (std::int64_t i = begin; i < end; ++i) dup[i] += dy[i] * float_math::silu(gate[i]);
    });
  });
}

template <>
void run(const Dropout& args, Stream) {
  require_alike("dropout", {{"x", args.x}, {"y", args.y}});
  require(args.x.rank == 2, "dropout", "x must be [rows, width]", {{"x", args.x}});
  require(args.probability >= 0.0f && args.probability < 1.0f, "dropout", "the probability must lie in [0, 1)", {{"x", args.x}});
  require_ids("dropout", "sample", args.sample, args.x.rows());
  with_floating(args.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* x = args.x.as<const T>();
    T* y = args.y.as<T>();
    const std::int32_t* sample = args.sample.as<const std::int32_t>();
    const std::int64_t width = args.x.width();
    const T scale = T(1) / (T(1) - static_cast<T>(args.probability));
    for_rows(args.x.rows(), width, heavy_grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        for (std::int64_t column = 0; column < width; column += 4) {
          const RandomBits bits = philox({args.key_low, args.key_high}, {args.step, static_cast<std::uint32_t>(sample[row]),
                                                                         static_cast<std::uint32_t>(column / 4), args.channel});
          const std::int64_t count = width - column < 4 ? width - column : 4;
          for (std::int64_t i = 0; i < count; ++i) {
            const std::int64_t at = row * width + column + i;
            const T value = uniform_float(bits.word[i]) >= args.probability ? x[at] * scale : T(0);
            y[at] = args.accumulate ? y[at] + value : value;
          }
        }
      }
    });
  });
}

}  // namespace expctr::cpu
