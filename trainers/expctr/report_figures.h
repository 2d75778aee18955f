// The figures of a run: value, 95 % interval, what it means, and what may be claimed.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

namespace expctr::report {

struct Figure {
  std::string key, group, name, meaning, better;  ///< better: "higher", "lower" or ""
  std::optional<double> value, low, high;         ///< low and high: both or none
  bool difference = false;                        ///< a comparison, to be judged against 0
};

/// Reads one entry of metrics.json's "figures"; an interval with one end missing is none.
Figure figure_of(const nlohmann::json& entry);

/// What the run lets one say of a figure.
enum class Verdict {
  level,      ///< no comparison: nothing to judge
  missing,    ///< no value
  unjudged,   ///< a comparison without interval
  not_shown,  ///< the interval contains 0
  better,     ///< the interval lies on the side that is better
  worse,      ///< the interval lies on the other side
  above,      ///< the interval lies above 0, and neither side is better
  below
};
Verdict verdict_of(const Figure& figure);
/// As the reader sees it; "not shown by this run" for Verdict::not_shown.
std::string verdict_text(Verdict verdict);

/// The first thing to read: which comparisons the run shows, and which not.
std::string render_summary(const nlohmann::json& metrics);
/// The section with the table, grouped as the entries are.
std::string render_figures(const nlohmann::json& metrics);

}  // namespace expctr::report
