// Arguments of Cholesky factors of small symmetric matrices.
#pragma once

#include "base/view.h"

namespace expctr {

constexpr int most_cholesky_rows = 256;  ///< on CUDA, where a block keeps a matrix in shared memory

/// a [batch, n, n] symmetric (its lower triangle is read) -> factor [batch, n, n] lower triangular with factor factor^T = a, zero above the
/// diagonal; status [batch] i32: 0, or 1 + the first row whose pivot is not positive: a is not positive definite, the factor is NaN.
struct Cholesky {
  View a, factor, status;
};
/// x (+)= (factor factor^T)^-1 b; factor [batch, n, n] as Cholesky leaves it, b, x [batch, n, columns].
struct CholeskySolve {
  bool accumulate;
  View factor, b, x;
};

}  // namespace expctr
