// Products of dense matrices.
#pragma once

#include "base/kernels/matmul.h"
#include "engine/core/tensor.h"

namespace expctr {

/// y = alpha op(a) op(b), op transposes the last two axes where asked; rank 2, or rank 3 (batched). A matrix of rank 2 beside one of rank 3, and
/// a first extent of 1, is shared among the batches.
/// a [batch, m, k], b [batch, k, n] -> y [batch, m, n].  da = alpha dy op(b)^T, db = alpha op(a)^T dy (transposed back where op transposes);
/// the gradient of a shared matrix is the sum over batches in ascending order.
/// Both operands f32 or f64; on bf16 storage either may be f32 (a trained weight): then the product is bf16.
Tensor matmul(const Tensor& a, const Tensor& b, bool transpose_a = false, bool transpose_b = false, double alpha = 1.0);

/// y = activation(op(a) op(b) + bias) in one kernel, bias [n] or undefined; shapes as matmul. With dz = dy activation'(z), z the
/// activation's argument (kept; relu needs y only): da, db as of matmul with dz, dbias = column sums of dz in a fixed order.
Tensor matmul_bias(const Tensor& a, const Tensor& b, const Tensor& bias, Activation activation = Activation::none, bool transpose_a = false,
                   bool transpose_b = false);

}  // namespace expctr
