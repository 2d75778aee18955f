// Elementwise operations. Formulas: base/scalar_math.h; kernels: cpu/elementwise.cpp, cuda/elementwise.cu.
#pragma once

#include "base/kernels/elementwise.h"
#include "engine/core/tensor.h"

namespace expctr {

/// y = f(x), any shape. dx = dy f'(x).
Tensor unary(Unary function, const Tensor& x);
inline Tensor relu(const Tensor& x) { return unary(Unary::relu, x); }
inline Tensor sigmoid(const Tensor& x) { return unary(Unary::sigmoid, x); }
inline Tensor silu(const Tensor& x) { return unary(Unary::silu, x); }
inline Tensor gelu(const Tensor& x) { return unary(Unary::gelu, x); }

/// y = a op b with broadcasting: shapes aligned at the right, extents equal or 1. Gradients are summed over broadcast axes.
/// Throws ShapeError when the shapes do not broadcast, or dtypes or devices differ.
Tensor binary(Binary function, const Tensor& a, const Tensor& b);
inline Tensor add(const Tensor& a, const Tensor& b) { return binary(Binary::add, a, b); }
inline Tensor subtract(const Tensor& a, const Tensor& b) { return binary(Binary::subtract, a, b); }
inline Tensor multiply(const Tensor& a, const Tensor& b) { return binary(Binary::multiply, a, b); }

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

/// Values in another dtype: from f32, f64, bf16, f16 or block formats to f32, f64 or bf16. no_gradient.
Tensor convert(const Tensor& x, DType dtype);

/// y += alpha x in place; same shape. no_gradient.
void axpy(double alpha, const Tensor& x, const Tensor& y);

}  // namespace expctr
