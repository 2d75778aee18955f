// Elementwise kernels over equal shapes. One pass over the operands, bounded by memory, or by exp where the function has one.
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

template <>
void run(const UnaryForward& args, Stream) {
  require_alike("unary", {{"x", args.x}, {"y", args.y}});
  with_floating(args.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* x = args.x.as<const T>();
    T* y = args.y.as<T>();
    const scalar::Parameters<T> parameters(args.parameters);
    scalar::with_unary(args.function, [&](auto function) {
      for_pieces(args.x.size(), heavy_grain, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) y[i] = float_math::evaluate<function.value>(x[i], parameters);
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
    const scalar::Parameters<T> parameters(args.parameters);
    scalar::with_unary(args.function, [&](auto function) {
      for_pieces(args.x.size(), heavy_grain, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) dx[i] += dy[i] * float_math::derivative<function.value>(x[i], parameters);
      });
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
