// Moving elements: joining and cutting along an axis, choosing along an axis, scattering rows, packed sequences and padded batches.
#pragma once

#include <span>

#include "base/kernels/arrange.h"
#include "engine/core/tensor.h"

namespace expctr {

/// Parts joined along an axis (negative: from the end); their other extents and dtypes (f32, f64, bf16 or i32) are equal.
Tensor concat(std::span<const Tensor> parts, int axis);
inline Tensor concat(std::initializer_list<Tensor> parts, int axis) {
  return concat(std::span<const Tensor>(parts.begin(), parts.size()), axis);
}

/// Entries begin .. begin + count - 1 along an axis, copied. (Tensor::slice_rows shares memory along the first axis.)
Tensor slice(const Tensor& x, int axis, std::int64_t begin, std::int64_t count);

/// y[o, k, i] = x[o, index[o, k, i], i] along an axis, o and i standing for the axes before and after it. index i32 has x's shape but for
/// the axis, or stops at the axis ([..., m]): then it chooses whole vectors. A negative index gives 0. dx[o, index[o, k, i], i] += dy[o, k,
/// i] in ascending k.
Tensor take_along(const Tensor& x, const Tensor& index, int axis);

/// y [rows, width], zero but for y[index[i]] += x[i] in ascending i; x [n, width], index [n] i32, negative ones are left out. The inverse
/// of gather; dx[i] = dy[index[i]].
Tensor scatter_rows(const Tensor& x, const Tensor& index, std::int64_t rows);

/// Which end of a sequence is padded and, where it is too long, cut.
enum class PadSide { front, end };

/// Packed sequences to a padded batch: x [rows, width], offsets [batch + 1] i32 (sequence b is rows offsets[b] .. offsets[b + 1] - 1) ->
/// [batch, length, width], 0 at padding.
Tensor pad_rows(const Tensor& x, const Tensor& offsets, std::int64_t length, PadSide side);
/// A padded batch to packed sequences: x [batch, length, width] -> [rows, width]; rows that do not fit the length, and rows of no sequence,
/// are 0.
Tensor pack_rows(const Tensor& x, const Tensor& offsets, std::int64_t rows, PadSide side);

}  // namespace expctr
