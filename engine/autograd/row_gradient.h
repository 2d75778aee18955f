// The gradient of a table of which a step reads few rows: those rows alone.
#pragma once

#include "engine/core/tensor.h"

namespace expctr {

/// d loss / d table[ids[i]] = rows[i]; all other rows have none. Both are undefined where nothing has been accumulated.
struct RowGradient {
  Tensor ids;   ///< [n] i32, ascending, each once
  Tensor rows;  ///< [n, width], the table's dtype
};

}  // namespace expctr
