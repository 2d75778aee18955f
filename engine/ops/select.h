// Choosing the best entries of rows. (argmax stands in engine/ops/reduce_extreme.h.)
#pragma once

#include "base/kernels/select.h"
#include "engine/core/tensor.h"

namespace expctr {

/// Columns that a row must not choose, as lists: excluded[offsets[r]] .. excluded[offsets[r + 1] - 1] of row r, ascending. Both undefined:
/// none.
struct ExcludedColumns {
  Tensor offsets = {};  ///< [rows + 1] i32
  Tensor columns = {};  ///< [offsets[rows]] i32
};

struct TopEntries {
  Tensor values;   ///< [rows, k], best first; minus infinity where a row has fewer
  Tensor indices;  ///< [rows, k] i32; -1 where a row has fewer
};
/// The k largest entries of each row of x [rows, columns], 1 <= k <= 1024; equal ones by ascending column, NaN never. Values pass gradients
/// to the entries chosen, indices have none. With k = columns it sorts rows of up to 1024 entries.
TopEntries top_k(const Tensor& x, std::int64_t k, const ExcludedColumns& excluded = {});

}  // namespace expctr
