// The nearest of some names to one that was typed: for "did you mean".
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace expctr {

/// Number of insertions, deletions, substitutions and swaps of neighbours that make `b` of `a` (optimal string alignment).
int edit_distance(std::string_view a, std::string_view b);

/// The candidate that was probably meant: the smallest edit distance, at most a third of the longer name (at least 2); the first of equals.
/// A dotted name is also compared by its last part ("lr" finds "ppo.lr"). None when nothing is near.
std::optional<std::string> nearest_name(std::string_view name, const std::vector<std::string>& candidates);

/// "did you mean 'x'?" for the nearest; otherwise "known: a, b, c".
std::string did_you_mean(std::string_view name, const std::vector<std::string>& candidates);

}  // namespace expctr
