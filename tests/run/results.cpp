#include "tests/run/results.h"

#include <fmt/format.h>

#include <algorithm>
#include <sstream>

#include "engine/io/checkpoint.h"
#include "tests/support/paths.h"

namespace expctr {
namespace fs = std::filesystem;
using nlohmann::json;

namespace {

bool is_measurement(const std::string& key) {
  return key == "seconds" || key == "peak_bytes" || key.ends_with("_per_second") || key.starts_with("time/");
}

json without_measurements(const json& value) {
  if (value.is_array()) {
    json result = json::array();
    for (const json& element : value) result.push_back(without_measurements(element));
    return result;
  }
  if (!value.is_object()) return value;
  json result = json::object();
  for (const auto& [key, element] : value.items()) {
    if (!is_measurement(key)) result[key] = without_measurements(element);
  }
  return result;
}

}  // namespace

std::map<std::string, std::string> results_of(const fs::path& run) {
  std::map<std::string, std::string> results;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(run)) {
    if (!entry.is_regular_file()) continue;
    const std::string name = fs::relative(entry.path(), run).string(), file = entry.path().filename().string();
    if (name == ".lock" || name == ".phase" || name == "config.yaml" || name == "report.html" || name.starts_with("events/") ||
        name.starts_with("checkpoints/"))
      continue;
    if (file == "metrics.json" || file == "complete.json") {
      results[name] = without_measurements(json_file(entry.path())).dump(1);
    } else if (file == "log.jsonl") {
      for (const json& record : json_lines(entry.path())) results[name] += without_measurements(record).dump() + "\n";
    } else {
      results[name] = read_text(entry.path());
    }
  }
  if (fs::exists(run / "checkpoints")) {
    for (const fs::directory_entry& job : fs::directory_iterator(run / "checkpoints")) {
      const std::vector<fs::path> all = list_checkpoints(job.path());
      if (all.empty()) continue;
      for (const char* file : {"tensors.bin", "state.json"})
        results[fmt::format("checkpoints/{}/{}", job.path().filename().string(), file)] = read_text(all.back() / file);
    }
  }
  return results;
}

std::string differences(const std::map<std::string, std::string>& expected, const std::map<std::string, std::string>& got) {
  std::string text;
  for (const auto& [name, content] : expected) {
    const auto other = got.find(name);
    if (other == got.end()) {
      text += fmt::format("{} is missing\n", name);
    } else if (other->second != content) {
      const auto [a, b] = std::mismatch(content.begin(), content.end(), other->second.begin(), other->second.end());
      const auto place = static_cast<std::size_t>(a - content.begin()), from = place < 60 ? 0 : place - 60;
      const bool readable = !name.ends_with(".bin") && !name.ends_with(".safetensors");
      text +=
          fmt::format("{} differs at byte {} of {}{}\n", name, place, content.size(),
                      readable ? fmt::format(": expected ...{}... got ...{}...", content.substr(from, 140), other->second.substr(from, 140))
                               : std::string());
    }
  }
  for (const auto& [name, content] : got) {
    if (!expected.contains(name)) text += fmt::format("{} is unexpected\n", name);
  }
  return text;
}

std::vector<json> json_lines(const fs::path& file) {
  std::vector<json> records;
  std::istringstream lines(read_text(file));
  for (std::string line; std::getline(lines, line);) records.push_back(json::parse(line));
  return records;
}

json json_file(const fs::path& file) { return json::parse(read_text(file)); }

}  // namespace expctr
