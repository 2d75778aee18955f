// The report of a run: one HTML file that needs no network, for a person who did not run it (specs expctr.md, section 10).
//
//   report_input.cpp    what it is made of: metrics.json, log.jsonl, explanations.jsonl, config.yaml
//   report_html.h       escaping, numbers, careful reading of JSON
//   report_charts.h     line charts as inline SVG; report_curves.cpp: which ones
//   report_figures.h    the table of figures: intervals, verdicts
//   report_examples.h   texts: what training changed, the table of explanations
//   report_style.h      style sheet and the script that sorts and filters
//   report_page.cpp     the page
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace expctr {

/// Any part may be empty, and any field missing, null or of another type: the page then shows "–" and says what is missing.
struct ReportInput {
  nlohmann::json metrics;                    ///< metrics.json
  std::vector<nlohmann::json> log;           ///< objects of log.jsonl, one a step
  std::vector<nlohmann::json> explanations;  ///< objects of explanations.jsonl; of several for one user and item the last counts
  std::string config_yaml;                   ///< the resolved configuration
};

/// The whole page. The same input gives the same bytes. Every text of the input is escaped; a content security policy in the page allows
/// no request and no script but its own. A figure marked as a difference whose interval contains 0 gets the verdict "not shown by this
/// run".
std::string render_report(const ReportInput& input);

/// Reads the files of the run's folder. A file that is not there leaves its part empty; lines of .jsonl that are no JSON objects (the torn
/// end of a killed run) are passed over. metrics gets "finished", the time its file was written (UTC), unless it says so itself.
/// Throws UsageError when `run` is no folder, InputError when metrics.json is no JSON object.
ReportInput read_report_input(const std::filesystem::path& run);

}  // namespace expctr
