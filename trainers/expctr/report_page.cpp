// The page: what this was, what it shows, figures, curves, texts, what was made smaller, how to run the full size, configuration.
#include <fmt/format.h>

#include <map>
#include <span>

#include "engine/io/sha256.h"
#include "trainers/expctr/report.h"
#include "trainers/expctr/report_charts.h"
#include "trainers/expctr/report_examples.h"
#include "trainers/expctr/report_figures.h"
#include "trainers/expctr/report_html.h"
#include "trainers/expctr/report_style.h"

namespace expctr {
using nlohmann::json;

namespace report {
namespace {

// SHA-256 of a text as a content security policy writes it: base64 of the digest's 32 bytes.
std::string base64_digest(std::string_view text) {
  static constexpr std::string_view kLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const std::string hex = sha256_hex(std::as_bytes(std::span(text.data(), text.size())));
  std::string encoded;
  // 32 bytes are ten groups of three and one of two, which is padded.
  for (std::size_t i = 0; i < hex.size(); i += 6) {
    const std::string group = hex.substr(i, 6);
    const std::size_t digits = group.size();
    const auto bits = static_cast<std::uint32_t>(std::stoul(group + std::string(6 - digits, '0'), nullptr, 16));
    for (std::size_t letter = 0; letter < 4; ++letter) {
      encoded += letter * 3 >= digits * 2 ? '=' : kLetters[(bits >> (18 - 6 * letter)) & 63];
    }
  }
  return encoded;
}

std::string fact(const std::string& name, const std::string& value) {
  return fmt::format("<div><dt>{}</dt><dd>{}</dd></div>\n", name, value);
}

std::string count_fact(const json& counts, const std::string& key, const std::string& name) {
  const std::optional<double> count = number_of(counts, key);
  return fact(name, count ? count_text(*count) : std::string(kMissing));
}

std::string header(const ReportInput& input) {
  const json& m = input.metrics;
  const std::string data = text_of(m, "data"), model = text_of(m, "model");
  const std::optional<double> seconds = number_of(m, "seconds"), peak = number_of(m, "peak_bytes");
  std::string html = fmt::format("<header>\n<h1>Explanations that predict the click{}</h1>\n", data.empty() ? "" : ": " + escaped(data));
  html +=
      "<p class=\"lead\">This page reports one run of ExpCTR. A small language model learns, by reinforcement, to write one sentence on "
      "why a person will or "
      "will not like an item. No one shows it good sentences: it is rewarded when a reader who knows the sentence foresees better what the "
      "person really did. Two "
      "readers judge: the scorer, a language model that answers Yes or No, and the click model, which predicts clicks from ids and the "
      "text.</p>\n";
  if (m.empty())
    html += "<p class=\"missing\">metrics.json is missing: the run was stopped before it was evaluated. What else it left is below.</p>\n";
  html += "<dl class=\"facts\">\n" + fact("Data", or_missing(data)) + fact("Language model", or_missing(model)) +
          fact("Job", or_missing(text_of(m, "job"))) + fact("Seed", or_missing(text_of(m, "seed"))) +
          fact("Finished", or_missing(text_of(m, "finished"))) + fact("Took", seconds ? duration_text(*seconds) : std::string(kMissing)) +
          fact("Peak memory", peak ? bytes_text(*peak) : std::string(kMissing));
  const json& counts = field_of(m, "counts");
  html += count_fact(counts, "train_pairs", "Training pairs with text") + count_fact(counts, "valid_pairs", "Validation pairs with text") +
          count_fact(counts, "test_pairs", "Test pairs with text") + count_fact(counts, "sft_pairs", "Pairs the scorer learned on") +
          count_fact(counts, "train_rows", "Training rows of the click model");
  html += "</dl>\n<nav aria-label=\"Contents\"><ul>";
  for (const auto& [id, name] : {std::pair{"summary", "What it shows"},
                                 {"figures", "Figures"},
                                 {"changes", "What training changed"},
                                 {"examples", "Explanations"},
                                 {"curves", "Curves"},
                                 {"size", "Smaller than the full run"},
                                 {"stages", "Stages"},
                                 {"config", "Configuration"}}) {
    html += fmt::format("<li><a href=\"#{}\">{}</a></li>", id, name);
  }
  return html + "</ul></nav>\n</header>\n";
}

std::string size_section(const json& metrics) {
  std::string html = "<section id=\"size\">\n<h2>What is smaller than the full configuration</h2>\n", rows;
  const json& reduced = field_of(metrics, "reduced");
  if (reduced.is_array()) {
    for (const json& entry : reduced) {
      rows += fmt::format(
          "<tr><th scope=\"row\">{}</th><td class=\"number\" data-label=\"In this run\">{}</td><td data-label=\"Full "
          "configuration\">{}</td></tr>\n",
          or_missing(text_of(entry, "what")), or_missing(text_of(entry, "here")), or_missing(text_of(entry, "full")));
    }
  }
  html += rows.empty() ? std::string("<p class=\"muted\">Nothing is listed as reduced.</p>\n")
                       : "<table class=\"plain\">\n<thead><tr><th scope=\"col\">What</th><th scope=\"col\" class=\"number\">In this "
                         "run</th><th scope=\"col\">Full "
                         "configuration</th></tr></thead>\n<tbody>\n" +
                             rows + "</tbody>\n</table>\n";
  std::string commands;
  if (const json& list = field_of(metrics, "full_commands"); list.is_array()) {
    for (const json& command : list) {
      if (command.is_string()) commands += escaped(command.get<std::string>()) + "\n";
    }
  }
  if (!commands.empty()) html += "<h3>The full size</h3>\n<pre><code>" + commands + "</code></pre>\n";
  return html + "</section>\n";
}

// What a stage's entry says besides its time: plain values, one after the other.
std::string details(const json& stage) {
  std::string text;
  if (!stage.is_object()) return std::string(kMissing);
  for (const auto& [key, value] : stage.items()) {
    if (key == "seconds" || (!value.is_number() && !value.is_string() && !value.is_boolean())) continue;
    const std::optional<double> number = number_of(stage, key);
    text += fmt::format("{}{} <b>{}</b>", text.empty() ? "" : " · ", escaped(key),
                        number ? (value.is_number_float() ? number_text(*number, 4) : count_text(*number)) : escaped(text_of(stage, key)));
  }
  return text.empty() ? std::string(kMissing) : text;
}

std::string stage_section(const json& metrics) {
  static const std::vector<std::pair<std::string, std::string>> kStages = {
      {"sft", "The scorer learns to answer Yes or No, without explanations."},
      {"stage1", "Each policy learns, by PPO, texts that help the scorer; then the pairs are explained."},
      {"stage2", "The click model learns with the texts, and its twin without."},
      {"stage3", "The policies go on with the click model's reward added; then pairs are explained again."},
      {"evaluate", "Figures on held-out pairs."}};
  const json& stages = field_of(metrics, "stages");
  std::string html =
      "<section id=\"stages\">\n<h2>Stages</h2>\n<table class=\"stages\">\n<thead><tr><th scope=\"col\">Stage</th><th scope=\"col\">What "
      "it does</th><th scope=\"col\" "
      "class=\"number\">Took</th><th scope=\"col\">Details</th></tr></thead>\n<tbody>\n";
  for (const auto& [name, what] : kStages) {
    const json& stage = field_of(stages, name);
    if (name == "evaluate" && !stage.is_object()) continue;
    const std::optional<double> seconds = number_of(stage, "seconds");
    html += fmt::format(
        "<tr><th scope=\"row\">{}</th><td data-label=\"What it does\">{}</td><td class=\"number\" data-label=\"Took\">{}</td><td "
        "data-label=\"Details\">{}</td></tr>\n",
        name, what, seconds ? duration_text(*seconds) : std::string(kMissing), details(stage));
  }
  html += "</tbody>\n</table>\n";
  const json& frozen = field_of(metrics, "frozen");
  std::string hashes;
  for (const auto& [key, name] : {std::pair<std::string, std::string>{"base_hash", "language model, base weights"},
                                  {"scorer_hash", "scorer's adapter"},
                                  {"encoder_hash", "text encoder"},
                                  {"ctr_hash", "click model, in stage 3"}}) {
    const std::string hash = text_of(frozen, key);
    hashes += fmt::format("<tr><th scope=\"row\">{}</th><td data-label=\"SHA-256\"><code>{}</code></td></tr>\n", name, or_missing(hash));
  }
  html += "<h3>Frozen parts</h3>\n<p>Checksums of what may not change while the policies learn.</p>\n<table class=\"plain\">\n<tbody>\n" +
          hashes + "</tbody>\n</table>\n";
  return html + "</section>\n";
}

std::string config_section(const std::string& yaml) {
  std::string html = "<section id=\"config\">\n<h2>Configuration</h2>\n";
  if (yaml.empty()) return html + "<p class=\"missing\">config.yaml is missing.</p>\n</section>\n";
  html +=
      "<p>Resolved, with every default written out; saved as a file it runs again as it is: <code>expctr_engine run expctr --config "
      "FILE</code>.</p>\n";
  return html + "<details>\n<summary>config.yaml</summary>\n<pre><code>" + escaped(yaml) + "</code></pre>\n</details>\n</section>\n";
}

}  // namespace
}  // namespace report

std::string render_report(const ReportInput& input) {
  using namespace report;
  const std::string data = text_of(input.metrics, "data");
  std::string html = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta http-equiv=\"Content-Security-Policy\" "
      "content=\"default-src 'none'; style-src "
      "'unsafe-inline'; script-src 'sha256-{}'\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>ExpCTR "
      "run{}</title>\n<style>{}</style>\n"
      "</head>\n<body>\n",
      base64_digest(kScript), data.empty() ? "" : ": " + escaped(data), kStyle);
  html += header(input);
  html += "<main>\n" + render_summary(input.metrics) + render_figures(input.metrics) + render_changes(input.explanations) +
          render_examples(input.explanations) + render_curves(input.log) + size_section(input.metrics) + stage_section(input.metrics) +
          config_section(input.config_yaml) + "</main>\n";
  html +=
      "<footer>\n<p>Written by expctr_engine. Method: Explainable CTR Prediction via LLM Reasoning, arXiv 2412.02588, built here from its "
      "description; no parity with its "
      "results is claimed. This file needs no network.</p>\n</footer>\n";
  html += fmt::format("<script>{}</script>\n</body>\n</html>\n", kScript);
  return html;
}

}  // namespace expctr
