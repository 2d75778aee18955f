// Arguments of choosing the best entries of rows.
#pragma once

#include "base/view.h"

namespace expctr {

constexpr std::int64_t most_selected = 1024;  ///< largest k of TopK

/// x [rows, columns] -> values, indices [rows, k], k <= most_selected: the k largest entries of each row, best first, equal ones by
/// ascending index (0 and -0 are equal). NaN is never chosen. excluded_offsets [rows + 1] i32 and excluded i32 (both or none): columns
/// excluded[excluded_offsets[r]] .. excluded[excluded_offsets[r + 1] - 1] of row r, ascending, are not chosen either. Where fewer than k
/// entries are left: index -1, value minus infinity.
struct TopK {
  View x, excluded_offsets, excluded, values, indices;
  View scratch;
};
/// dx[r, indices[r, j]] += dvalues[r, j]; negative indices get nothing.
struct TopKBackward {
  View dvalues, indices, dx;
};

}  // namespace expctr
