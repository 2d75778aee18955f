// Arguments of optimiser updates of whole tables and of single rows, of plain gradient descent, and of clipping. One launch for all
// tensors.
#pragma once

#include "base/view.h"

namespace expctr {

/// What every gradient is multiplied by: factor, and where squared_norm (f64 [1], on the device) is present also
/// min(1, most / (sqrt(squared_norm) + 1e-6)), so that clipping does not wait for the device.   Source: torch.nn.utils.clip_grad_norm_.
struct GradientScale {
  double factor = 1.0, most = 0.0;
  View squared_norm = {};
};

struct SgdTensor {
  View parameter, gradient;
  View velocity;  ///< absent without momentum; starts as zeros
};
/// g = scale gradient + weight_decay p;  u = momentum u + g;  p -= lr (nesterov ? g + momentum u : u); without momentum p -= lr g.
/// Source: torch.optim.SGD (dampening 0).
struct SgdUpdate {
  double learning_rate, momentum, weight_decay;
  bool nesterov;
  GradientScale scale;
  const SgdTensor* tensors;
  int count;
};

/// A tensor with a dense gradient of its shape, or a table [rows, width] with the gradient [n, width] of the rows ids [n] i32 (ascending,
/// distinct; behind the last one may stand fillers no_row of base/kernels/embedding_rows.h).
struct RegularisedTensor {
  View parameter, gradient, ids;
  double l2;  ///< lambda of (lambda / 2) |parameter|^2: adds lambda p to the gradient of every element
};
struct TableMoments {
  View first, second;
};
/// Adam over whole tensors, the decay of untouched rows included: g = scale (gradient + l2 p), zero gradient in rows that ids do not name;
/// the rest as AdamW (base/kernels/optim.h). squares (f64 [count], may be absent) receives the sum of p^2 of each updated tensor.
struct TableAdam {
  double learning_rate, beta1, beta2, epsilon, weight_decay;
  GradientScale scale;
  std::int64_t step;
  const RegularisedTensor* tensors;
  const TableMoments* moments;
  int count;
  View squares;
  View scratch;
};
/// squares[i] = sum of parameter_i^2, with the bits that TableAdam writes.
struct SumOfSquares {
  const RegularisedTensor* tensors;
  int count;
  View squares;
  View scratch;
};
/// total (f64 [1]) = sum over all tensors of |gradient + l2 p|^2 without reading the rows that ids do not name: these contribute
/// l2^2 (squares_i - |p of the named rows|^2). squares may be absent when no tensor has both ids and an l2.
struct RegularisedNorm {
  const RegularisedTensor* tensors;
  int count;
  View squares;
  View total;
  View scratch;
};
/// Adam on the named rows alone; moments of other rows stay (bias corrections follow `step`, the global one). All tensors have ids.
/// g = scale (gradient + l2 p).   Source: torch.optim.SparseAdam, with epsilon placed as in Adam (specs/ctr-models.md section 1).
struct RowAdam {
  double learning_rate, beta1, beta2, epsilon;
  GradientScale scale;
  std::int64_t step;
  const RegularisedTensor* tensors;
  const TableMoments* moments;
  int count;
};
/// x = min(limit, max(-limit, x)) for all elements of all tensors; NaN stays.   Source: torch.nn.utils.clip_grad_value_.
struct ClipValues {
  double limit;
  const View* tensors;
  int count;
};

}  // namespace expctr
