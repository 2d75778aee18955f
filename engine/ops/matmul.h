// Products of dense matrices.
#pragma once

#include "base/kernels/matmul.h"
#include "engine/core/tensor.h"

namespace expctr {

/// y = alpha op(a) op(b), op transposes the last two axes where asked; rank 2, or rank 3 with equal first extents.
/// a [batch, m, k], b [batch, k, n] -> y [batch, m, n].  da = alpha dy op(b)^T, db = alpha op(a)^T dy (transposed back where op transposes).
Tensor matmul(const Tensor& a, const Tensor& b, bool transpose_a = false, bool transpose_b = false, double alpha = 1.0);

}  // namespace expctr
