// Softmax over the last axis.
#pragma once

#include "base/kernels/softmax.h"
#include "engine/core/tensor.h"

namespace expctr {

/// What a softmax leaves out. Both may be undefined. Groups: rows of x (all axes but the last, flattened) are cut into as many equal runs
/// as the tensor has groups, so scores [batch, heads, queries, keys] take a mask [batch, keys] or lengths [batch].
struct SoftmaxMask {
  Tensor mask = {};     ///< u8 [groups..., columns]: entries with 0 are masked
  Tensor lengths = {};  ///< i32 [groups]: columns from the length on are masked
};

/// y[r, i] = exp(scale x[r, i]) / sum over j of exp(scale x[r, j]), the sum over entries that are not masked; masked entries are exactly 0,
/// and a row that is masked as a whole is 0. x [..., columns], scale > 0.
/// dx = scale y (dy - sum of y dy).
Tensor softmax(const Tensor& x, const SoftmaxMask& mask = {}, double scale = 1.0);

/// y[r, i] = scale x[r, i] - log sum over j of exp(scale x[r, j]); masked entries are 0, so that a weighted sum leaves them out.
/// dx = scale (dy - exp(y) sum of dy) where nothing is masked, else 0.
Tensor log_softmax(const Tensor& x, const SoftmaxMask& mask = {}, double scale = 1.0);

}  // namespace expctr
