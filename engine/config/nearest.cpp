#include "engine/config/nearest.h"

namespace expctr {

int edit_distance(std::string_view a, std::string_view b) {
  const std::size_t width = b.size() + 1;
  std::vector<int> table((a.size() + 1) * width);
  const auto at = [&](std::size_t i, std::size_t j) -> int& { return table[i * width + j]; };
  for (std::size_t i = 0; i <= a.size(); ++i) at(i, 0) = static_cast<int>(i);
  for (std::size_t j = 0; j <= b.size(); ++j) at(0, j) = static_cast<int>(j);
  for (std::size_t i = 1; i <= a.size(); ++i) {
    for (std::size_t j = 1; j <= b.size(); ++j) {
      int best = std::min({at(i - 1, j) + 1, at(i, j - 1) + 1, at(i - 1, j - 1) + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) best = std::min(best, at(i - 2, j - 2) + 1);
      at(i, j) = best;
    }
  }
  return at(a.size(), b.size());
}

std::optional<std::string> nearest_name(std::string_view name, const std::vector<std::string>& candidates) {
  // A longer name is no typing error, and the table of edit_distance must stay small.
  if (name.size() > 256) return std::nullopt;
  std::optional<std::string> nearest;
  int smallest = 0;
  const auto offer = [&](const std::string& candidate, std::string_view typed, std::string_view known, int penalty) {
    const int distance = edit_distance(typed, known);
    const int allowed = std::max<int>(2, static_cast<int>(std::max(typed.size(), known.size())) / 3);
    // Two edits must not turn one short word into any other.
    if (distance > allowed || distance >= static_cast<int>(std::max(typed.size(), known.size()))) return;
    if (nearest && distance + penalty >= smallest) return;
    smallest = distance + penalty;
    nearest = candidate;
  };
  for (const std::string& candidate : candidates) {
    offer(candidate, name, candidate, 0);
    const std::size_t dot = candidate.rfind('.');
    if (dot != std::string::npos) {
      const std::size_t own_dot = name.rfind('.');
      offer(candidate, own_dot == std::string_view::npos ? name : name.substr(own_dot + 1), std::string_view(candidate).substr(dot + 1), 1);
    }
  }
  return nearest;
}

std::string did_you_mean(std::string_view name, const std::vector<std::string>& candidates) {
  if (const auto nearest = nearest_name(name, candidates)) return fmt::format("did you mean '{}'?", *nearest);
  if (candidates.empty()) return "there is none to choose from";
  return fmt::format("known: {}", fmt::join(candidates, ", "));
}

}  // namespace expctr
