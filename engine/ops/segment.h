// Reductions of runs of rows: packed sequences to one row each. (segment_mean stands in engine/ops/reduce.h.)
#pragma once

#include "base/kernels/segment.h"
#include "engine/core/tensor.h"

namespace expctr {

/// x [rows, width], offsets [segments + 1] i32 -> [segments, width]: sum of each segment's rows; 0 for an empty one. dx[r] = dy[segment of
/// r].
Tensor segment_sum(const Tensor& x, const Tensor& offsets);

struct SegmentMaximum {
  Tensor value;     ///< [segments, width]; 0 for an empty segment
  Tensor argument;  ///< [segments, width] i32: the row of x; -1 for an empty segment
};
/// Largest entry of every column in each segment; among equal ones the first, which gets the gradient. NaN counts as the largest.
SegmentMaximum segment_max(const Tensor& x, const Tensor& offsets);

}  // namespace expctr
