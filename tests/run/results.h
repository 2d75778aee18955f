// What a run left behind, in a form that two runs can be compared by.
#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace expctr {

/// Everything in a run's folder that must not depend on interruptions, number of threads or memory, by relative path: all files but .lock,
/// .phase, config.yaml, events/ (time stamps) and report.html (shows times); metrics.json and complete.json without seconds, rates and peak
/// memory; log.jsonl without time/*; of the checkpoints the newest of each job, tensors and state, by job.
std::map<std::string, std::string> results_of(const std::filesystem::path& run);

/// One line for each file that is missing on a side or differs, with the place of the first difference; empty when the two are equal.
std::string differences(const std::map<std::string, std::string>& expected, const std::map<std::string, std::string>& got);

std::vector<nlohmann::json> json_lines(const std::filesystem::path& file);
nlohmann::json json_file(const std::filesystem::path& file);

}  // namespace expctr
