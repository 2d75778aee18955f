#include <fmt/format.h>
#include <sys/stat.h>

#include <ctime>
#include <fstream>
#include <sstream>

#include "base/error.h"
#include "engine/io/checked_json.h"
#include "trainers/expctr/report.h"

namespace expctr {
namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr int kDeepest = 16;  // levels of nesting that any of these files has reason for

std::string content(const fs::path& path) {
  if (!fs::exists(path)) return {};
  std::ifstream stream(path, std::ios::binary);
  std::ostringstream text;
  text << stream.rdbuf();
  if (!stream) {
    if (fs::is_regular_file(path) && fs::file_size(path) == 0) return {};
    throw InputError(fmt::format("{}: cannot be read", path.string()), "check that it is a file and who may read it");
  }
  return text.str();
}

std::vector<json> objects(const fs::path& path) {
  std::vector<json> found;
  std::istringstream text(content(path));
  for (std::string line; std::getline(text, line);) {
    try {
      json record = parse_checked_json(line, path.string(), kDeepest);
      if (record.is_object()) found.push_back(std::move(record));
    } catch (const InputError&) {
      continue;  // the run was stopped while it wrote this line
    }
  }
  return found;
}

std::string time_written(const fs::path& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) return {};
  std::tm utc{};
  if (::gmtime_r(&status.st_mtime, &utc) == nullptr) return {};
  return fmt::format("{:04}-{:02}-{:02} {:02}:{:02} UTC", utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min);
}

}  // namespace

ReportInput read_report_input(const fs::path& run) {
  if (!fs::is_directory(run)) {
    throw UsageError(fmt::format("'{}' is no folder of a run", run.string()), "name the folder that `run` wrote to, e.g. runs/quickstart");
  }
  ReportInput input;
  const fs::path metrics = run / "metrics.json";
  if (const std::string text = content(metrics); !text.empty()) {
    input.metrics = parse_checked_json(text, metrics.string(), kDeepest);
    if (!input.metrics.is_object()) {
      throw InputError(fmt::format("{}: no JSON object", metrics.string()), "run `expctr_engine run evaluate` again to write it anew");
    }
    if (!input.metrics.contains("finished")) input.metrics["finished"] = time_written(metrics);
  }
  input.log = objects(run / "log.jsonl");
  input.explanations = objects(run / "explanations.jsonl");
  input.config_yaml = content(run / "config.yaml");
  return input;
}

}  // namespace expctr
