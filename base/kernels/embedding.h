// Arguments of table look-ups.
#pragma once

#include "base/view.h"

namespace expctr {

/// y[i] = table[ids[i]]; table [rows, width] f32, f64, bf16, f16 or block-quantised; ids [n] i32, a negative id gives a zero row. y [n, width] f32 (f64 for an f64 table).
struct Gather {
  View table, ids, y;
};
/// dtable[ids[i]] += dy[i], contributions to one row added in ascending i. Negative ids and `frozen_row` (or -1) get nothing.
struct GatherBackward {
  std::int64_t frozen_row;
  View dy, ids, dtable;
  View scratch;
};
/// A block of columns: y[r, y_column + c] (+)= x[r, x_column + c], c < columns. x and y are [rows, *], same rows.
struct CopyColumns {
  std::int64_t columns, x_column, y_column;
  bool accumulate;
  View x, y;
};

}  // namespace expctr
