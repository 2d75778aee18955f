// Reductions, in a fixed order that depends on shapes only.
#pragma once

#include <span>

#include "base/kernels/reduce.h"
#include "engine/core/tensor.h"

namespace expctr {

/// y = scale * sum of x over one axis (negative: from the end); the axis disappears. dx = scale dy, broadcast.
Tensor sum(const Tensor& x, int axis, double scale = 1.0);
/// Sum over all elements times scale -> [1].
Tensor sum_all(const Tensor& x, double scale = 1.0);
inline Tensor mean_all(const Tensor& x) { return sum_all(x, x.size() == 0 ? 0.0 : 1.0 / static_cast<double>(x.size())); }

/// x [rows, width], offsets [segments + 1] i32 -> [segments, width]: mean of each segment's rows; zero for an empty one.
Tensor segment_mean(const Tensor& x, const Tensor& offsets);

/// Sum of squares of all elements of all tensors, f32, f64 or bf16, all on one device -> [1] f64 on that device. no_gradient.
/// Throws ShapeError when there are no tensors.
Tensor squared_norm(std::span<const Tensor> tensors);
/// Square root of the sum of squares of all elements of all tensors (all on one device). no_gradient.
double global_norm(std::span<const Tensor> tensors);

}  // namespace expctr
