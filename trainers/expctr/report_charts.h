// Curves of a run as inline SVG: no script, colours from the style sheet (light and dark), legible at the width of a phone.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace expctr::report {

/// One line. A point without y is a value that was not finite: the line breaks there.
struct Series {
  std::string name;
  std::vector<std::pair<double, std::optional<double>>> points;  ///< by rising x
};

struct LineChart {
  std::string title, note, x_label, y_label;  ///< plain text, escaped by the renderer
  std::vector<Series> series;
  std::optional<double> reference;  ///< a horizontal line drawn dashed, inside the range of y
  double least_span = 0;            ///< smallest range of y, so that rounding noise does not look like a trend
};

/// Ticks at 1, 2 or 5 times a power of ten that cover [low, high]: about `count` of them, the first at or below low, the last at or above
/// high. low < high.
std::vector<double> nice_ticks(double low, double high, int count);

/// <figure> with a caption, a legend when there is more than one line, and the drawing; a sentence in place of the drawing when there is
/// nothing to draw.
std::string render_chart(const LineChart& chart);

/// One line for each fold of the PPO job `job` ("stage1", "stage3"), named "policy <fold>": field `key` over the step of that policy,
/// from 1. Of several records of one step the last counts.
std::vector<Series> policy_series(const std::vector<nlohmann::json>& log, const std::string& job, const std::string& key);

/// The section of curves: reward, KL and ratio of stages 1 and 3, AUC of scorer and click model.
std::string render_curves(const std::vector<nlohmann::json>& log);

}  // namespace expctr::report
