// Arguments of the elementwise kernels. The maths stands in base/scalar_math.h, once for both backends.
#pragma once

#include "base/view.h"

namespace expctr {

/// softsign: x / (1 + |x|). With parameters: clamp to [a, b]; leaky_relu: a x below 0; elu: a (e^x - 1) below 0.
enum class Unary {
  relu, sigmoid, tanh, silu, gelu, gelu_tanh, exp, log, square, softplus,
  sqrt, rsqrt, absolute, negate, reciprocal, log1p, softsign, clamp, leaky_relu, elu
};
/// The comparisons give 1 or 0 and have no gradient. maximum, minimum: NaN if either operand is; equal operands share the gradient.
enum class Binary { add, subtract, multiply, divide, maximum, minimum, power, less, less_equal, greater, greater_equal, equal, not_equal };

struct UnaryParameters {
  double a = 0.0, b = 0.0;
};

/// y = f(x); any shape, y like x.
struct UnaryForward {
  Unary function;
  View x, y;
  UnaryParameters parameters = {};
};
/// dx += dy f'(x).
struct UnaryBackward {
  Unary function;
  View x, dy, dx;
  UnaryParameters parameters = {};
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
/// y = a where mask != 0, else b; the three broadcast to y's shape, all of one dtype. Chosen, not multiplied: what is not chosen may be NaN.
struct WhereForward {
  View mask, a, b, y;
};
/// da += dy where mask != 0, db += dy where mask == 0, summed over broadcast axes in a fixed order; a and b count by their shapes only.
struct WhereBackward {
  View mask, a, b, dy, da, db;
  View scratch;
};
/// y = scale x + shift.
struct Affine {
  double scale, shift;
  View x, y;
};
/// y += alpha x; same shape. On CUDA each may be f32 or bf16.
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
