// Which curves the report shows, and what it says about them.
#include <fmt/format.h>

#include <cmath>
#include <map>

#include "trainers/expctr/report_charts.h"
#include "trainers/expctr/report_html.h"

namespace expctr::report {
using nlohmann::json;

namespace {

LineChart policy_chart(const std::vector<json>& log, const std::string& job, const std::string& key, const std::string& title,
                       const std::string& note, const std::string& y_label) {
  return {title, note, "PPO step of the policy", y_label, policy_series(log, job, key), std::nullopt, 0.0};
}

LineChart reward_chart(const std::vector<json>& log, const std::string& job, const std::string& key, const std::string& title,
                       const std::string& note, const std::string& y_label, bool zero_line) {
  LineChart chart = policy_chart(log, job, key, title, note, y_label);
  if (zero_line) chart.reference = 0.0;
  return chart;
}

LineChart kl_chart(const std::vector<json>& log, const std::string& job) {
  LineChart chart = policy_chart(log, job, "objective/kl", "KL to the untrained model",
                                 "How far the policy has moved, over a whole text. 0: it writes as before training.", "nats per text");
  chart.reference = 0.0;
  return chart;
}

LineChart ratio_chart(const std::vector<json>& log, const std::string& job) {
  LineChart chart = policy_chart(log, job, "val/ratio", "Probability ratio, new to old", "", "ratio");
  std::optional<double> largest, first;
  for (const Series& series : chart.series) {
    for (const auto& [x, y] : series.points) {
      if (!y) continue;
      const double distance = std::abs(*y - 1.0);
      largest = std::max(largest.value_or(0.0), distance);
      if (x == 1.0) first = std::max(first.value_or(0.0), distance);
    }
  }
  chart.note = "A policy that has not changed since it wrote the texts has exactly 1.";
  if (largest)
    chart.note += fmt::format(" Largest distance from 1 here: {}; at the first step: {}.", number_text(*largest, 2), number_text(first, 2));
  chart.reference = 1.0;
  chart.least_span = 0.004;
  return chart;
}

LineChart scorer_chart(const std::vector<json>& log) {
  Series line{"scorer", {}};
  std::map<double, std::optional<double>> points;
  for (const json& record : log) {
    const std::optional<double> step = number_of(record, "step");
    if (step && text_of(record, "job") == "sft" && record.contains("valid/auc")) points[*step] = number_of(record, "valid/auc");
  }
  for (const auto& point : points) line.points.push_back(point);
  LineChart chart{"Scorer: AUC on validation pairs",
                  "The language model that grades the texts, while it learns to answer Yes or No.",
                  "training step",
                  "AUC",
                  {},
                  std::nullopt,
                  0.02};
  if (!line.points.empty()) chart.series.push_back(std::move(line));
  return chart;
}

LineChart click_model_chart(const std::vector<json>& log) {
  std::map<std::string, std::map<double, std::optional<double>>> models;
  for (const json& record : log) {
    const std::string model = text_of(record, "model");
    std::optional<double> epoch = number_of(record, "epoch");
    if (!epoch) epoch = number_of(record, "step");
    if (epoch && text_of(record, "job").starts_with("stage2") && record.contains("valid/auc")) models[model][*epoch] = number_of(record, "valid/auc");
  }
  LineChart chart{"Click model: AUC on validation rows",
                  "The same model trained with and without the explanations.",
                  "epoch",
                  "AUC",
                  {},
                  std::nullopt,
                  0.02};
  for (const auto& [model, points] : models) {
    Series line{model == "with_text" ? "with explanations" : model == "text_free" ? "without text" : model.empty() ? "model" : model, {}};
    for (const auto& point : points) line.points.push_back(point);
    chart.series.insert(model == "with_text" ? chart.series.begin() : chart.series.end(), std::move(line));
  }
  return chart;
}

std::string group(const std::string& heading, const std::string& lead, const std::vector<LineChart>& charts) {
  std::string figures;
  for (const LineChart& chart : charts) figures += render_chart(chart);
  return fmt::format("<h3>{}</h3>\n<p>{}</p>\n<div class=\"charts\">\n{}</div>\n", heading, lead, figures);
}

}  // namespace

std::string render_curves(const std::vector<json>& log) {
  std::string html = "<section id=\"curves\">\n<h2>Curves</h2>\n";
  html +=
      "<p>These are the numbers of training batches, a few pairs each, so they jump about. What training achieved is judged on held-out "
      "pairs, "
      "in the table of figures. There is one policy per fold of users; pairs are explained by a policy that was not trained on them.</p>\n";
  if (log.empty())
    return html + "<p class=\"missing\">The log of this run is missing or empty: there is nothing to draw.</p>\n</section>\n";
  html += group("Stage 1: explanations that help the scorer",
                "The reward says how well the scorer, having read the text, foresees what the user really did; by default (reward.lc.form: "
                "delta) how much the text "
                "adds to that.",
                {reward_chart(log, "stage1", "objective/scores", "Reward",
                              "Mean over the batch. With the default form, above 0 means that the texts help the scorer.", "reward", true),
                 kl_chart(log, "stage1"), ratio_chart(log, "stage1")});
  html += group(
      "Stage 3: and the click model too", "The policies go on; the click model's reward is added.",
      {reward_chart(log, "stage3", "objective/scores", "Reward, both terms", "Scorer's term plus the weighted term of the click model.",
                    "reward", false),
       reward_chart(log, "stage3", "reward/lc", "Scorer's term (LC)", "As in stage 1.", "reward", true),
       reward_chart(log, "stage3", "reward/ic", "Click model's term (IC)", "How well the click model does with the text.", "reward", false),
       kl_chart(log, "stage3"), ratio_chart(log, "stage3")});
  html += group("Prediction quality while training", "AUC: the chance that a liked item is ranked above a disliked one; 0.5 is guessing.",
                {scorer_chart(log), click_model_chart(log)});
  return html + "</section>\n";
}

}  // namespace expctr::report
