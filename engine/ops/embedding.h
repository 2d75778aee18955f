// Table look-ups, and columns put together and taken apart.
#pragma once

#include <span>
#include <vector>

#include "base/kernels/embedding.h"
#include "engine/core/tensor.h"

namespace expctr {

/// y[i] = table[ids[i]]; table [rows, width], ids [n] i32; a negative id gives zeros. Block-quantised and 16-bit tables are read as f32 (no gradient).
/// dtable[ids[i]] += dy[i] in ascending i; `frozen_row` (a padding row) gets nothing.
Tensor gather(const Tensor& table, const Tensor& ids, std::int64_t frozen_row = -1);

/// Columns side by side: parts [rows, *] -> [rows, sum of widths].
Tensor concat_columns(std::span<const Tensor> parts);
inline Tensor concat_columns(std::initializer_list<Tensor> parts) { return concat_columns(std::span<const Tensor>(parts.begin(), parts.size())); }
/// x[:, begin .. begin + count - 1].
Tensor slice_columns(const Tensor& x, std::int64_t begin, std::int64_t count);

}  // namespace expctr
