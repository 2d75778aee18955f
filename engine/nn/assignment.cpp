#include "engine/nn/assignment.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "base/error.h"

namespace expctr {

std::vector<std::int32_t> optimal_assignment(std::span<const double> similarity, int rows, int columns) {
  if (rows < 0 || columns < 0 || rows > most_assigned || columns > most_assigned ||
      similarity.size() != static_cast<std::size_t>(rows * columns)) {
    throw ShapeError(fmt::format("optimal_assignment: {} similarities for [{}, {}]", similarity.size(), rows, columns),
                     fmt::format("at most {} rows and columns", most_assigned));
  }
  for (const double value : similarity) {
    if (!std::isfinite(value))
      throw Error(fmt::format("optimal_assignment: a similarity is {}", value), "check the vectors that are compared");
  }
  const int pairs = std::min(rows, columns);
  const std::size_t subsets = std::size_t{1} << columns;
  constexpr double impossible = -std::numeric_limits<double>::infinity();
  // best[r][s]: the largest sum of rows r, r + 1, ... when the columns in s are taken; choice: row r's column then.
  std::vector<double> best((static_cast<std::size_t>(rows) + 1) * subsets, impossible);
  std::vector<std::int32_t> choice(static_cast<std::size_t>(rows) * subsets, -1);
  for (std::size_t s = 0; s < subsets; ++s) {
    if (std::popcount(s) == pairs) best[static_cast<std::size_t>(rows) * subsets + s] = 0;
  }
  for (int r = rows - 1; r >= 0; --r) {
    for (std::size_t s = 0; s < subsets; ++s) {
      double& most = best[static_cast<std::size_t>(r) * subsets + s];
      for (int c = 0; c <= columns; ++c) {  // the last choice is none
        if (c < columns && (s >> c & 1) != 0) continue;
        const std::size_t after = c < columns ? s | std::size_t{1} << c : s;
        const double sum = best[static_cast<std::size_t>(r + 1) * subsets + after] +
                           (c < columns ? similarity[static_cast<std::size_t>(r * columns + c)] : 0.0);
        if (sum > most) {
          most = sum;
          choice[static_cast<std::size_t>(r) * subsets + s] = c < columns ? c : -1;
        }
      }
    }
  }
  std::vector<std::int32_t> result;
  std::size_t taken = 0;
  for (int r = 0; r < rows; ++r) {
    const std::int32_t c = choice[static_cast<std::size_t>(r) * subsets + taken];
    result.push_back(c);
    if (c >= 0) taken |= std::size_t{1} << c;
  }
  return result;
}

}  // namespace expctr
