// The gradient of a table of which a step reads few rows: those rows alone.
#pragma once

#include "engine/core/tensor.h"

namespace expctr {

/// d loss / d table[ids[i]] = rows[i]; all other rows have none. Both are undefined where nothing has been accumulated.
struct RowGradient {
  Tensor ids;   ///< [n] i32, ascending, each once; on CUDA fillers no_row may follow (the number of ids is not known without waiting)
  Tensor rows;  ///< [n, width], the table's dtype; zeros beside fillers
};

/// Adds a contribution to the gradient of a leaf marked with require_row_gradient(). Its ids ascend, each once. Rows of an id that both
/// have are added, the earlier contribution first. The first contribution is taken as it is; a later one merges the ids on the host, which
/// waits for the device once. Throws Error for a leaf that takes no row gradient, ShapeError for shapes or ids that do not fit.
void accumulate_row_gradient(const Tensor& leaf, const RowGradient& contribution);

/// Both sums as one. The same rules.
RowGradient merge(const RowGradient& first, const RowGradient& second);

}  // namespace expctr
