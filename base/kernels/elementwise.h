// Arguments of the elementwise kernels. The maths stands in base/scalar_math.h, once for both backends.
#pragma once

#include "base/view.h"

namespace expctr {

enum class Unary { relu, sigmoid, tanh, silu, gelu, gelu_tanh, exp, log, square, softplus };
enum class Binary { add, subtract, multiply };

/// y = f(x); any shape, y like x.
struct UnaryForward {
  Unary function;
  View x, y;
};
/// dx += dy f'(x).
struct UnaryBackward {
  Unary function;
  View x, dy, dx;
};
/// y = a op b with broadcasting: shapes are aligned at the right, extents equal or 1 (or absent); y has the broadcast shape.
struct BinaryForward {
  Binary function;
  View a, b, y;
};
/// da += the gradient with respect to a, summed over a's broadcast axes in a fixed order; the same for db. An empty da or db is not computed.
struct BinaryBackward {
  Binary function;
  View a, b, dy, da, db;
  View scratch;
};
/// y = scale x + shift.
struct Affine {
  double scale, shift;
  View x, y;
};
/// y += alpha x; same shape.
struct Axpy {
  double alpha;
  View x, y;
};
struct Fill {
  double value;
  View y;
};
/// y[i] = value of x[i] in y's dtype. x: f32, f64, bf16, f16 or block-quantised; y: f32, f64 or bf16.
struct Convert {
  View x, y;
};
/// y = silu(gate) * up.   Source: Shazeer 2020 (SwiGLU without its matrices).
struct SwigluForward {
  View gate, up, y;
};
/// dgate += dy up silu'(gate);  dup += dy silu(gate). Empty slots are skipped.
struct SwigluBackward {
  View gate, up, dy, dgate, dup;
};
/// y = x * keep / (1 - p); keep for element [r, c] is uniform(philox(key, {step, sample[r], c / 4, channel}).word[c % 4]) >= p. x [rows, width], sample [rows] i32.
/// The backward pass is the same kernel on dy with accumulate = true.
struct Dropout {
  float probability;
  std::uint32_t key_low, key_high, step, channel;
  bool accumulate;  ///< y += instead of y =
  View x, sample, y;
};

}  // namespace expctr
