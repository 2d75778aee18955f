// log.jsonl: one JSON object a step.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>

#include "engine/io/durable_file.h"

namespace expctr {

/// Appends JSON objects, one a line. Numbers that are not finite become null. Errors: those of AppendFile.
class MetricsLog {
 public:
  using Keep = std::function<bool(const nlohmann::json&)>;

  /// Starts an empty file.
  static MetricsLog fresh(const std::filesystem::path& path);
  /// Goes on with a file: a torn end, and lines that are no JSON objects, are dropped, and so is every record that `keep` refuses (the
  /// records that the resumed run will write again). The file is replaced atomically when something is dropped.
  static MetricsLog resume(const std::filesystem::path& path, const Keep& keep);
  /// resume, dropping records whose "step" is greater than `last_step`.
  static MetricsLog resume(const std::filesystem::path& path, std::int64_t last_step);

  void append(const nlohmann::json& record);
  void sync() { file_.sync(); }
  const std::filesystem::path& path() const { return file_.path(); }

 private:
  MetricsLog(const std::filesystem::path& path, AppendFile::Mode mode) : file_(path, mode) {}
  AppendFile file_;
};

}  // namespace expctr
