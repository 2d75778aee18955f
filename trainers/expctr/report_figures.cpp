#include "trainers/expctr/report_figures.h"

#include <fmt/format.h>

#include <cmath>
#include <vector>

#include "trainers/expctr/report_charts.h"
#include "trainers/expctr/report_html.h"

namespace expctr::report {
using nlohmann::json;

namespace {

constexpr double kBarWidth = 180, kBarEdge = 8;

std::vector<Figure> figures_of(const json& metrics) {
  std::vector<Figure> figures;
  const json& entries = field_of(metrics, "figures");
  if (!entries.is_array()) return figures;
  for (const json& entry : entries) {
    if (entry.is_object()) figures.push_back(figure_of(entry));
  }
  return figures;
}

std::string_view css_class(Verdict verdict) {
  switch (verdict) {
    case Verdict::better:
      return "good";
    case Verdict::worse:
      return "bad";
    case Verdict::above:
    case Verdict::below:
      return "plain";
    case Verdict::level:
      return "level";
    default:
      return "open";
  }
}

// A comparison is drawn around 0 on an axis of its own; a level from 0 to 1 where it fits there, else from 0 to a round number.
std::string bar(const Figure& figure) {
  if (!figure.value) return {};
  double low = std::min(0.0, figure.low ? std::min(*figure.low, *figure.value) : *figure.value);
  double high = std::max(0.0, figure.high ? std::max(*figure.high, *figure.value) : *figure.value);
  if (figure.difference) {
    const double reach = std::max(-low, high) > 0 ? 1.08 * std::max(-low, high) : 1.0;
    low = -reach;
    high = reach;
  } else if (low == 0.0 && high <= 1.0) {
    high = 1.0;
  } else {
    const std::vector<double> ticks = nice_ticks(low, high, 2);
    low = ticks.front();
    high = ticks.back();
  }
  const auto at = [&](double value) { return kBarEdge + (value - low) / (high - low) * (kBarWidth - 2 * kBarEdge); };
  std::string drawn = fmt::format("<path class=\"axis\" d=\"M{} 14H{}\"/><path class=\"zero\" d=\"M{:.1f} 3v22\"/>", kBarEdge,
                                  kBarWidth - kBarEdge, at(0.0));
  if (figure.low) {
    drawn += fmt::format("<path class=\"interval\" d=\"M{:.1f} 14H{:.1f}\"/><path class=\"cap\" d=\"M{:.1f} 9v10M{:.1f} 9v10\"/>",
                         at(*figure.low), at(*figure.high), at(*figure.low), at(*figure.high));
  }
  drawn += fmt::format("<circle cx=\"{:.1f}\" cy=\"14\" r=\"4\"/>", at(*figure.value));
  const double width = high - low;
  const auto end_text = [&](double value) {
    const bool short_whole = std::abs(value) < 1000.0 && std::abs(value - std::round(value)) < 1e-12 * width;
    return short_whole ? fixed_text(value, 0) : number_text(value, 2);
  };
  std::string ends = fmt::format("<text x=\"{}\" y=\"37\">{}</text><text x=\"{}\" y=\"37\" text-anchor=\"end\">{}</text>", 2, end_text(low),
                                 kBarWidth - 2, end_text(high));
  if (figure.difference) ends += fmt::format("<text x=\"{:.1f}\" y=\"37\" text-anchor=\"middle\">0</text>", at(0.0));
  return fmt::format("<svg class=\"bar {}\" viewBox=\"0 0 {} 40\" aria-hidden=\"true\">{}{}</svg>", css_class(verdict_of(figure)),
                     kBarWidth, drawn, ends);
}

// One row, one number of decimals: two significant digits of the interval's width, more where a bound that is not 0 would read as 0.
std::string value_text(const Figure& figure, const std::optional<double>& value) {
  if (!value) return std::string(kMissing);
  const double width = figure.low ? *figure.high - *figure.low : 0.0;
  if (width < 2e-6 || width >= 1000.0) return figure.difference ? signed_text(*value) : number_text(value);
  int decimals = std::max(0, 1 - static_cast<int>(std::floor(std::log10(width))));
  for (const double shown : {*figure.low, *figure.high}) {
    while (decimals < 9 && shown != 0.0 && std::abs(shown) < 0.5 * std::pow(10.0, -decimals)) ++decimals;
  }
  return fixed_text(*value, decimals, figure.difference);
}

std::string interval_text(const Figure& figure) {
  if (!figure.low) return std::string(kMissing);
  return fmt::format("[{}, {}]", value_text(figure, figure.low), value_text(figure, figure.high));
}

std::string row(const Figure& figure) {
  const Verdict verdict = verdict_of(figure);
  return fmt::format(
      "<tr>\n<th scope=\"row\">{}<span class=\"meaning\">{}</span></th>\n<td class=\"number\" data-label=\"Value\">{}</td>\n"
      "<td class=\"number\" data-label=\"95 % interval\">{}</td>\n<td class=\"drawn\">{}</td>\n<td data-label=\"Verdict\"><span "
      "class=\"verdict {}\">{}</span></td>\n</tr>\n",
      or_missing(figure.name.empty() ? figure.key : figure.name), escaped(figure.meaning), value_text(figure, figure.value),
      interval_text(figure), bar(figure), css_class(verdict), verdict_text(verdict));
}

std::string list_of(const std::string& lead, const std::string& style, const std::vector<Figure>& figures, bool meanings) {
  if (figures.empty()) return {};
  std::string items;
  for (const Figure& figure : figures) {
    std::string what =
        fmt::format("<b>{}</b> {}", or_missing(figure.name.empty() ? figure.key : figure.name), value_text(figure, figure.value));
    if (figure.low) what += " " + interval_text(figure);
    if (meanings && !figure.meaning.empty()) what += fmt::format(" <span class=\"meaning\">{}</span>", escaped(figure.meaning));
    items += "<li>" + what + "</li>\n";
  }
  return fmt::format("<div class=\"finding {}\">\n<h3>{}</h3>\n<ul>\n{}</ul>\n</div>\n", style, lead, items);
}

}  // namespace

Figure figure_of(const json& entry) {
  Figure figure{text_of(entry, "key"),     text_of(entry, "group"),  text_of(entry, "name"),
                text_of(entry, "meaning"), text_of(entry, "better"), number_of(entry, "value"),
                number_of(entry, "low"),   number_of(entry, "high"), false};
  const json& difference = field_of(entry, "difference");
  figure.difference = difference.is_boolean() && difference.get<bool>();
  if (!figure.low || !figure.high) figure.low = figure.high = std::nullopt;
  if (figure.low && *figure.low > *figure.high) std::swap(figure.low, figure.high);
  return figure;
}

Verdict verdict_of(const Figure& figure) {
  if (!figure.value) return Verdict::missing;
  if (!figure.difference) return Verdict::level;
  if (!figure.low) return Verdict::unjudged;
  if (*figure.low <= 0.0 && *figure.high >= 0.0) return Verdict::not_shown;
  const bool up = *figure.low > 0.0;
  if (figure.better == "higher") return up ? Verdict::better : Verdict::worse;
  if (figure.better == "lower") return up ? Verdict::worse : Verdict::better;
  return up ? Verdict::above : Verdict::below;
}

std::string verdict_text(Verdict verdict) {
  switch (verdict) {
    case Verdict::level:
      return "no comparison";
    case Verdict::missing:
      return "not measured in this run";
    case Verdict::unjudged:
      return "no interval, so no claim";
    case Verdict::not_shown:
      return "not shown by this run";
    case Verdict::better:
      return "shown: better";
    case Verdict::worse:
      return "shown: worse";
    case Verdict::above:
      return "shown: above 0";
    case Verdict::below:
      return "shown: below 0";
  }
  return {};
}

std::string render_summary(const json& metrics) {
  std::vector<Figure> good, bad, plain, open;
  for (const Figure& figure : figures_of(metrics)) {
    if (!figure.difference) continue;
    switch (verdict_of(figure)) {
      case Verdict::better:
        good.push_back(figure);
        break;
      case Verdict::worse:
        bad.push_back(figure);
        break;
      case Verdict::above:
      case Verdict::below:
        plain.push_back(figure);
        break;
      default:
        open.push_back(figure);
    }
  }
  std::string html = "<section id=\"summary\">\n<h2>What this run shows</h2>\n";
  const std::size_t shown = good.size() + bad.size() + plain.size(), all = shown + open.size();
  if (all == 0) {
    return html +
           "<p class=\"missing\">There are no comparisons in metrics.json: the run was stopped before its evaluation, or not evaluated. It "
           "shows nothing yet.</p>\n</section>\n";
  }
  html += fmt::format(
      "<p>{} of {} comparisons on held-out pairs are clear of 0 by their 95 % interval. Read them as one run with one seed: about one "
      "interval in "
      "twenty misses the truth by chance, and another seed may come out differently.</p>\n",
      shown, all);
  html += "<div class=\"findings\">\n" + list_of("Shown: better", "good", good, true) + list_of("Shown: worse", "bad", bad, true) +
          list_of("Shown", "plain", plain, true) + list_of("Not shown by this run", "open", open, false) + "</div>\n";
  return html + "</section>\n";
}

std::string render_figures(const json& metrics) {
  const std::vector<Figure> figures = figures_of(metrics);
  std::string html = "<section id=\"figures\">\n<h2>Figures</h2>\n";
  if (figures.empty())
    return html + "<p class=\"missing\">metrics.json holds no figures: the run was stopped before its evaluation.</p>\n</section>\n";
  html +=
      "<p>Each value with its 95 % paired bootstrap interval over held-out pairs: both sides of a comparison are computed on the same "
      "resampled pairs. "
      "In the drawing the dot is the value, the bar the interval, the upright line 0. A comparison whose interval contains 0 is <em>not "
      "shown by this "
      "run</em>: it may be there, but this run cannot tell it from nothing.</p>\n";
  std::vector<std::string> groups;
  for (const Figure& figure : figures) {
    if (std::find(groups.begin(), groups.end(), figure.group) == groups.end()) groups.push_back(figure.group);
  }
  html +=
      "<table class=\"figures\">\n<thead><tr><th scope=\"col\">Figure</th><th scope=\"col\" class=\"number\">Value</th><th scope=\"col\" "
      "class=\"number\">95 % "
      "interval</th><th scope=\"col\">Drawn</th><th scope=\"col\">Verdict</th></tr></thead>\n";
  for (const std::string& group : groups) {
    html += "<tbody>\n";
    if (!group.empty()) html += fmt::format("<tr class=\"group\"><th scope=\"rowgroup\" colspan=\"5\">{}</th></tr>\n", escaped(group));
    for (const Figure& figure : figures) {
      if (figure.group == group) html += row(figure);
    }
    html += "</tbody>\n";
  }
  return html + "</table>\n</section>\n";
}

}  // namespace expctr::report
