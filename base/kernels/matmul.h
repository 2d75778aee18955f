// Arguments of matrix products between dense operands.
#pragma once

#include "base/view.h"

namespace expctr {

/// c[b] = alpha op(a[b]) op(b[b]) (+ c[b] if accumulate), op = transpose of the last two axes where asked. a, b, c have rank 2, or rank 3 with
/// equal first extents (batched). Dense f32 or f64. On the CPU every element of c adds its products along k in ascending order with fused
/// multiply-add in c's dtype, whatever the other extents are (row invariance).
struct MatMul {
  double alpha;
  bool transpose_a, transpose_b, accumulate;
  View a, b, c;
};

}  // namespace expctr
