// Broadcasting of two operands: shapes aligned at the right, neighbouring axes merged where both operands treat them alike.
#pragma once

#include <algorithm>

#include "cuda/launch.cuh"

namespace expctr::cuda {

/// Up to max_rank merged axes; a stride of 0 repeats the operand along the axis.
struct Broadcast {
  int rank = 0;
  std::int64_t extent[max_rank] = {}, stride_a[max_rank] = {}, stride_b[max_rank] = {};

  /// Offsets of the element with linear index i.
  __device__ __forceinline__ void offsets(std::int64_t i, std::int64_t& a, std::int64_t& b) const {
    a = b = 0;
#pragma unroll
    for (int axis = max_rank - 1; axis > 0; --axis) {
      if (axis >= rank) continue;
      const std::int64_t quotient = i / extent[axis], rest = i - quotient * extent[axis];
      a += rest * stride_a[axis];
      b += rest * stride_b[axis];
      i = quotient;
    }
    a += i * stride_a[0];
    b += i * stride_b[0];
  }
};

/// An absent operand (null data) counts as one that has y's shape.
inline Broadcast make_broadcast(const View& y, const View& a, const View& b) {
  const auto extent_of = [&](const View& view, int axis) {
    const int own = axis - (y.rank - view.rank);
    if (view.empty()) return y.shape[axis];
    return own < 0 ? std::int64_t{1} : view.shape[own];
  };
  Broadcast result;
  std::int64_t step_a = 1, step_b = 1;
  for (int axis = y.rank - 1; axis >= 0; --axis) {
    const std::int64_t extent = y.shape[axis], a_extent = extent_of(a, axis), b_extent = extent_of(b, axis);
    if ((a_extent != extent && a_extent != 1) || (b_extent != extent && b_extent != 1))
      throw ShapeError("cuda: broadcasting: extents " + std::to_string(a_extent) + " and " + std::to_string(b_extent) + " do not give " +
                       std::to_string(extent));
    if (extent == 1) continue;
    const std::int64_t stride_a = a_extent == 1 ? 0 : step_a, stride_b = b_extent == 1 ? 0 : step_b;
    step_a *= a_extent;
    step_b *= b_extent;
    // Axes are collected from the right; the last one collected is merged with this one when both strides continue.
    if (result.rank > 0) {
      const int last = result.rank - 1;
      const auto continues = [&](std::int64_t stride, std::int64_t inner) {
        return inner == 0 ? stride == 0 : stride == inner * result.extent[last];
      };
      if (continues(stride_a, result.stride_a[last]) && continues(stride_b, result.stride_b[last])) {
        result.extent[last] *= extent;
        continue;
      }
    }
    result.extent[result.rank] = extent;
    result.stride_a[result.rank] = stride_a;
    result.stride_b[result.rank] = stride_b;
    ++result.rank;
  }
  if (result.rank == 0) {
    result.rank = 1;
    result.extent[0] = 1;
  }
  std::reverse(result.extent, result.extent + result.rank);
  std::reverse(result.stride_a, result.stride_a + result.rank);
  std::reverse(result.stride_b, result.stride_b + result.rank);
  return result;
}

}  // namespace expctr::cuda
