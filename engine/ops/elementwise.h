// Elementwise operations. Formulas: base/scalar_math.h; kernels: cpu/elementwise.cpp, cuda/elementwise.cu.
#pragma once

#include "base/kernels/elementwise.h"
#include "engine/core/tensor.h"

namespace expctr {

/// y = f(x), any shape. dx = dy f'(x). `parameters`: those of clamp, leaky_relu and elu.
Tensor unary(Unary function, const Tensor& x, const UnaryParameters& parameters = {});
inline Tensor relu(const Tensor& x) { return unary(Unary::relu, x); }
inline Tensor sigmoid(const Tensor& x) { return unary(Unary::sigmoid, x); }
inline Tensor silu(const Tensor& x) { return unary(Unary::silu, x); }
inline Tensor gelu(const Tensor& x) { return unary(Unary::gelu, x); }
inline Tensor exp(const Tensor& x) { return unary(Unary::exp, x); }
inline Tensor log(const Tensor& x) { return unary(Unary::log, x); }
inline Tensor log1p(const Tensor& x) { return unary(Unary::log1p, x); }
inline Tensor sqrt(const Tensor& x) { return unary(Unary::sqrt, x); }
inline Tensor rsqrt(const Tensor& x) { return unary(Unary::rsqrt, x); }
inline Tensor absolute(const Tensor& x) { return unary(Unary::absolute, x); }
inline Tensor negate(const Tensor& x) { return unary(Unary::negate, x); }
inline Tensor reciprocal(const Tensor& x) { return unary(Unary::reciprocal, x); }
/// x held within [low, high]. dx = dy inside and at the bounds, 0 outside. Throws ShapeError when low > high.
Tensor clamp(const Tensor& x, double low, double high);
/// x above 0, slope x below.
inline Tensor leaky_relu(const Tensor& x, double slope = 0.01) { return unary(Unary::leaky_relu, x, {slope, 0.0}); }
/// x above 0, alpha (e^x - 1) below.   Source: Clevert, Unterthiner, Hochreiter 2016.
inline Tensor elu(const Tensor& x, double alpha = 1.0) { return unary(Unary::elu, x, {alpha, 0.0}); }

/// y = a op b with broadcasting: shapes aligned at the right, extents equal or 1. Gradients are summed over broadcast axes.
/// The comparisons give 1 or 0 and no gradient; equal operands of maximum and minimum share theirs.
/// Throws ShapeError when the shapes do not broadcast, or dtypes or devices differ.
Tensor binary(Binary function, const Tensor& a, const Tensor& b);
inline Tensor add(const Tensor& a, const Tensor& b) { return binary(Binary::add, a, b); }
inline Tensor subtract(const Tensor& a, const Tensor& b) { return binary(Binary::subtract, a, b); }
inline Tensor multiply(const Tensor& a, const Tensor& b) { return binary(Binary::multiply, a, b); }
inline Tensor divide(const Tensor& a, const Tensor& b) { return binary(Binary::divide, a, b); }
inline Tensor maximum(const Tensor& a, const Tensor& b) { return binary(Binary::maximum, a, b); }
inline Tensor minimum(const Tensor& a, const Tensor& b) { return binary(Binary::minimum, a, b); }
inline Tensor power(const Tensor& a, const Tensor& b) { return binary(Binary::power, a, b); }

/// y = a where mask != 0, else b, with broadcasting of all three (shapes as for binary); mask is no ids but 1 or 0 in the dtype of a and
/// b, as comparisons give. da = dy where the mask is set, db = dy where it is not, summed over broadcast axes; the mask gets none.
/// Chosen, not multiplied: a value that is not chosen may be infinite or NaN.
Tensor where(const Tensor& mask, const Tensor& a, const Tensor& b);

/// y = scale x + shift. dx = scale dy.
Tensor affine(const Tensor& x, double scale, double shift = 0.0);

/// y = silu(gate) * up, same shapes.   Source: Shazeer 2020.
Tensor swiglu(const Tensor& gate, const Tensor& up);

/// y = x keep / (1 - p); x [rows, width], sample_ids [rows] i32 name the rows, so the mask does not depend on the batch. p in [0, 1).
struct DropoutKey {
  std::uint64_t seed = 0;
  std::uint32_t step = 0, channel = 0;
};
Tensor dropout(const Tensor& x, const Tensor& sample_ids, double probability, const DropoutKey& key);

/// Values in another dtype: from f32, f64, bf16, f16 or block formats to f32, f64 or bf16. dx = dy in x's dtype, for x of f32, f64 or bf16.
Tensor convert(const Tensor& x, DType dtype);

/// y += alpha x in place; same shape, one dtype (on CUDA each may be f32 or bf16). no_gradient.
void axpy(double alpha, const Tensor& x, const Tensor& y);

}  // namespace expctr
