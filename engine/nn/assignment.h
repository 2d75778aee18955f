// Optimal pairing of two small sets.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace expctr {

constexpr int most_assigned = 8;

/// Pairs of rows and columns, each at most once, with the largest sum of similarity [rows, columns]; both at most most_assigned. min(rows,
/// columns) pairs are made. Returns the column of every row, -1 where it has none; of equal sums the one whose first differing row has the
/// lower column (none counts as highest). Throws ShapeError for larger or mismatched extents, Error when a similarity is not finite.
/// Exhaustive over subsets of columns: rows columns 2^columns steps.
std::vector<std::int32_t> optimal_assignment(std::span<const double> similarity, int rows, int columns);

}  // namespace expctr
