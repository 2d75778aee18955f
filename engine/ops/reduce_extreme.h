// Maxima, minima and means along axes.
#pragma once

#include <span>

#include "base/kernels/reduce_extreme.h"
#include "engine/ops/reduce.h"

namespace expctr {

struct Extreme {
  Tensor value;  ///< the shape of x without the axis
  Tensor index;  ///< i32, the place along the axis
};
/// Largest entry along an axis (negative: from the end), which disappears. Of equal ones the lowest index counts and gets the gradient; NaN
/// is larger than every number. The axis must not be empty.
Extreme reduce_max(const Tensor& x, int axis);
/// Smallest entry, otherwise like reduce_max.
Extreme reduce_min(const Tensor& x, int axis);
/// Index of the largest entry along an axis, i32. no_gradient.
Tensor argmax(const Tensor& x, int axis = -1);

/// y = scale * sum of x over several axes, which disappear.
Tensor sum_axes(const Tensor& x, std::span<const int> axes, double scale = 1.0);
/// Mean over one axis, which disappears; 0 over an empty one.
inline Tensor mean(const Tensor& x, int axis) {
  const std::int64_t n = axis < 0 ? x.dim(axis + x.rank()) : axis < x.rank() ? x.dim(axis) : 0;
  return sum(x, axis, n == 0 ? 0.0 : 1.0 / static_cast<double>(n));
}

}  // namespace expctr
