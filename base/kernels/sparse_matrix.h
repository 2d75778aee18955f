// Arguments of products with sparse matrices.
#pragma once

#include "base/view.h"

namespace expctr {

/// y (+)= A x. A [rows, columns] in compressed rows: row r has values[i] in column columns[i] for offsets[r] <= i < offsets[r + 1]. offsets
/// [rows + 1] i32 ascending from 0, columns [entries] i32, values [entries] f32 (f64 with f64 operands) or empty (all 1);
/// x [columns, width], y [rows, width] f32 or f64, on CUDA also bf16 (with f32 values). A row's products are added in one fixed order, which
/// depends on its own entries only.
struct SparseMatMul {
  bool accumulate;
  View offsets, columns, values, x, y;
};

}  // namespace expctr
