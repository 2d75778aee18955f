// Nearest rows of a codebook.
#pragma once

#include "base/kernels/nearest.h"
#include "engine/core/tensor.h"

namespace expctr {

struct NearestResult {
  Tensor indices;    ///< [rows, k] i32
  Tensor distances;  ///< [rows, k], squared, ascending
};

/// The k rows of codebook [codes, width] with the smallest squared distance ||x - c||^2 to each row of x [rows, width]; equal distances:
/// lowest index first. 1 <= k <= min(codes, 64). The [rows, codes] matrix is never in memory. no_gradient: where a distance is part of a
/// loss, take it from the chosen rows (engine/nn/quantise.h), which need a gradient only there.   Source: FACE, section 3 (d) of its
/// release.
NearestResult nearest(const Tensor& x, const Tensor& codebook, std::int64_t k = 1);

}  // namespace expctr
