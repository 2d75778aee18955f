// Cholesky factors of small symmetric positive definite matrices, and solving with them.
#pragma once

#include "base/kernels/cholesky.h"
#include "engine/core/tensor.h"

namespace expctr {

struct CholeskyFactor {
  Tensor factor;  ///< [batch, n, n], lower triangular
  Tensor status;  ///< [batch] i32: 0, or 1 + the first row whose pivot is not positive; the factor of that matrix is NaN
};
/// a = factor factor^T; a [batch, n, n] symmetric (its lower triangle is read), on CUDA n <= 256. no_gradient.
CholeskyFactor cholesky(const Tensor& a);

/// x = (factor factor^T)^-1 b; factor [batch, n, n], b [batch, n, columns]. db = (factor factor^T)^-1 dx; the factor has no gradient (FACE
/// inverts a constant matrix).
Tensor cholesky_solve(const Tensor& factor, const Tensor& b);

/// Throws Error naming the first matrix and row whose pivot is not positive. Waits for the device.
void require_positive_definite(const CholeskyFactor& factor);

}  // namespace expctr
