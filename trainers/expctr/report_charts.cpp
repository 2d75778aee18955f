#include "trainers/expctr/report_charts.h"

#include <fmt/format.h>

#include <cmath>
#include <map>

#include "trainers/expctr/report_html.h"

namespace expctr::report {
using nlohmann::json;

namespace {

// The drawing in its own units, about one CSS pixel each.
constexpr double kWidth = 360, kHeight = 222, kLeft = 56, kRight = 350, kTop = 10, kBottom = 176;
constexpr std::size_t kColours = 6;        // classes s0 to s5 of the style sheet
constexpr std::size_t kMarkedPoints = 40;  // a longer line shows no marks, only tooltips

struct Scale {
  double from, to, start, end;
  double operator()(double value) const { return start + (value - from) / (to - from) * (end - start); }
};

// Decimals that tell neighbouring ticks apart.
std::string tick_text(double value, double step) {
  if (std::abs(value) < step * 1e-9) value = 0.0;
  if (step < 1e-6 || std::abs(value) >= 1e6) return number_text(value, 3);
  const int decimals = std::max(0, static_cast<int>(std::ceil(-std::log10(step) - 1e-9)));
  std::string text = fmt::format("{:.{}f}", value, decimals);
  if (text[0] == '-') text.replace(0, 1, "−");
  return text;
}

// Marks differ in shape, so that lines differ without colour.
std::string mark(std::size_t shape, double x, double y, std::string_view extra = "") {
  switch (shape % 3) {
    case 0:
      return fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\">{}</circle>", x, y, extra);
    case 1:
      return fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"5.6\" height=\"5.6\">{}</rect>", x - 2.8, y - 2.8, extra);
    default:
      return fmt::format("<path d=\"M{:.1f} {:.1f}l3.6 6.2h-7.2z\">{}</path>", x, y - 3.8, extra);
  }
}

std::string line_of(const Series& series, std::size_t index, const Scale& across, const Scale& up) {
  std::string path, marks;
  bool pen_down = false;
  for (const auto& [x, y] : series.points) {
    if (!y) {
      pen_down = false;
      continue;
    }
    path += fmt::format("{}{:.1f} {:.1f}", pen_down ? "L" : "M", across(x), up(*y));
    pen_down = true;
    const std::string tip = fmt::format("<title>{}, {}: {}</title>", escaped(series.name), count_text(x), number_text(*y, 4));
    marks += mark(index, across(x), up(*y), tip);
  }
  const bool quiet = series.points.size() > kMarkedPoints;
  return fmt::format("<g class=\"s{}\"><path class=\"line\" d=\"{}\"/><g class=\"{}\">{}</g></g>\n", index % kColours, path,
                     quiet ? "marks quiet" : "marks", marks);
}

struct Range {
  double low, high;
};

// nothing when no point has a y.
std::optional<Range> range_of(const LineChart& chart, bool along_x) {
  std::optional<Range> range;
  for (const Series& series : chart.series) {
    for (const auto& [x, y] : series.points) {
      if (!y) continue;
      const double value = along_x ? x : *y;
      if (!range) range = Range{value, value};
      range->low = std::min(range->low, value);
      range->high = std::max(range->high, value);
    }
  }
  if (!range) return range;
  if (!along_x && chart.reference) *range = {std::min(range->low, *chart.reference), std::max(range->high, *chart.reference)};
  // Wide enough to divide by, and for one value alone wide enough to read.
  const double largest = std::max(std::abs(range->low), std::abs(range->high));
  double least = std::max(along_x ? 1.0 : chart.least_span, (range->low == range->high ? 0.2 : 1e-9) * largest);
  if (least < 1e-12) least = 1.0;
  if (range->high - range->low < least) {
    const double middle = 0.5 * (range->low + range->high);
    *range = {middle - 0.5 * least, middle + 0.5 * least};
  }
  return range;
}

std::string legend(const LineChart& chart) {
  if (chart.series.size() < 2) return {};
  std::string items;
  for (std::size_t i = 0; i < chart.series.size(); ++i) {
    items += fmt::format(
        "<li><svg class=\"key s{}\" viewBox=\"0 0 24 10\" aria-hidden=\"true\"><path class=\"line\" d=\"M1 5H23\"/><g "
        "class=\"marks\">{}</g></svg>{}</li>",
        i % kColours, mark(i, 12, 5), escaped(chart.series[i].name));
  }
  return fmt::format("<ul class=\"legend\">{}</ul>\n", items);
}

std::string drawing(const LineChart& chart, Range xs, Range ys) {
  const std::vector<double> rows = nice_ticks(ys.low, ys.high, 4);
  const Scale up{rows.front(), rows.back(), kBottom, kTop};
  const Scale across{xs.low, xs.high, kLeft + 8, kRight - 8};
  std::string axes;
  for (const double value : rows) {
    axes +=
        fmt::format("<path class=\"grid\" d=\"M{} {:.1f}H{}\"/><text class=\"tick\" x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n",
                    kLeft, up(value), kRight, kLeft - 6, up(value) + 4, tick_text(value, rows[1] - rows[0]));
  }
  const std::vector<double> columns = nice_ticks(xs.low, xs.high, 6);
  for (const double value : columns) {
    // Steps and epochs are whole numbers; a nice tick may lie outside the data.
    if (value < xs.low - 1e-9 || value > xs.high + 1e-9 || std::abs(value - std::round(value)) > 1e-9) continue;
    axes += fmt::format(
        "<path class=\"axis\" d=\"M{:.1f} {}v4\"/><text class=\"tick\" x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
        across(value), kBottom, across(value), kBottom + 18, count_text(value));
  }
  axes += fmt::format("<path class=\"axis\" d=\"M{} {}H{}\"/>\n", kLeft, kBottom, kRight);
  axes += fmt::format("<text class=\"label\" x=\"{:.0f}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n", 0.5 * (kLeft + kRight), kHeight - 6,
                      escaped(chart.x_label));
  axes += fmt::format("<text class=\"label\" transform=\"translate(11 {:.0f}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n",
                      0.5 * (kTop + kBottom), escaped(chart.y_label));
  if (chart.reference) axes += fmt::format("<path class=\"reference\" d=\"M{} {:.1f}H{}\"/>\n", kLeft, up(*chart.reference), kRight);
  std::string lines, summary;
  for (std::size_t i = 0; i < chart.series.size(); ++i) {
    const Series& series = chart.series[i];
    lines += line_of(series, i, across, up);
    std::optional<double> first, last;
    for (const auto& point : series.points) {
      if (!point.second) continue;
      if (!first) first = point.second;
      last = point.second;
    }
    summary +=
        fmt::format(" {}: {} points, from {} to {}.", escaped(series.name), series.points.size(), number_text(first), number_text(last));
  }
  return fmt::format("<svg class=\"chart\" viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}.{}\">\n{}{}</svg>\n", kWidth, kHeight,
                     escaped(chart.title), summary, axes, lines);
}

}  // namespace

std::vector<double> nice_ticks(double low, double high, int count) {
  const double rough = (high - low) / std::max(1, count), power = std::pow(10.0, std::floor(std::log10(rough))), share = rough / power;
  const double step = power * (share <= 1.0 ? 1.0 : share <= 2.0 ? 2.0 : share <= 5.0 ? 5.0 : 10.0);
  const double first = std::floor(low / step + 1e-9), last = std::ceil(high / step - 1e-9);
  std::vector<double> ticks;
  for (double i = first; i <= last + 0.5 && ticks.size() < 50; ++i) ticks.push_back(i * step);
  if (ticks.size() < 2) ticks = {low, high};
  return ticks;
}

std::string render_chart(const LineChart& chart) {
  const std::optional<Range> xs = range_of(chart, true), ys = range_of(chart, false);
  const std::string body =
      xs && ys ? legend(chart) + drawing(chart, *xs, *ys) : std::string("<p class=\"missing\">No values in the log of this run.</p>\n");
  return fmt::format("<figure>\n<figcaption><strong>{}</strong> <span>{}</span></figcaption>\n{}</figure>\n", escaped(chart.title),
                     escaped(chart.note), body);
}

std::vector<Series> policy_series(const std::vector<json>& log, const std::string& job, const std::string& key) {
  std::map<std::string, std::map<double, std::optional<double>>> folds;
  std::map<std::string, double> first_step;
  for (const json& record : log) {
    const std::optional<double> step = number_of(record, "step");
    if (!step || text_of(record, "job") != job) continue;
    const std::string fold = text_of(record, "fold");
    const auto [at, fresh] = first_step.emplace(fold, *step);
    if (!fresh) at->second = std::min(at->second, *step);
    if (record.contains(key)) folds[fold][*step] = number_of(record, key);
  }
  std::vector<Series> series;
  for (const auto& [fold, points] : folds) {
    Series line{fold.empty() ? "policy" : "policy " + fold, {}};
    for (const auto& [step, value] : points) line.points.emplace_back(step - first_step[fold] + 1, value);
    series.push_back(std::move(line));
  }
  return series;
}

}  // namespace expctr::report
