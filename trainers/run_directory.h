// The folder of a run: who may write in it, and what stands where.
//
//   <out>/config.yaml          resolved configuration, runnable as it is
//         log.jsonl            one object a step, of all jobs that ran here ("job" says which)
//         events/<job>/        TensorBoard
//         checkpoints/<job>/   engine/io/checkpoint.h
//         metrics.json         the last job's results
//         .lock .phase         the process that works here; what it is doing
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "engine/io/checkpoint.h"
#include "engine/log/event_writer.h"
#include "engine/log/metrics_log.h"
#include "trainers/run_options.h"

namespace expctr {

/// Owns the folder for its life: a second process gets a UsageError. Errors: those of engine/io/durable_file.h.
class RunDirectory {
 public:
  /// Makes `out` (UsageError when it is a file or cannot be written), locks it and opens the phase file.
  explicit RunDirectory(const std::filesystem::path& out);
  ~RunDirectory();
  RunDirectory(const RunDirectory&) = delete;
  RunDirectory& operator=(const RunDirectory&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path checkpoints(std::string_view job) const;

  /// Where `job` goes on: "auto": its newest whole checkpoint here, none when there is none; "never": none, and its checkpoints here are
  /// removed; a path: that checkpoint, or the newest of that folder of checkpoints or of that run (UsageError when there is none). Damaged
  /// ones are passed over with a warning.
  std::optional<Checkpoint> resume_point(std::string_view job, std::string_view resume);

  /// Starts the log of `job`. Records and events that it wrote here before are dropped: all, or, resumed, those of steps > `resumed_step`.
  /// Other jobs' stay.
  void begin_log(std::string_view job, std::optional<std::int64_t> resumed_step = std::nullopt);
  /// Appends `record` with "job" and "step" added to log.jsonl; its numbers also go to TensorBoard. begin_log must come first.
  void log(std::int64_t step, nlohmann::json record);
  /// Makes the log durable: before a checkpoint that counts on it.
  void sync_log();

  void write_config(std::string_view resolved_yaml);
  /// metrics.json; "peak_bytes" is added when missing.
  void write_metrics(nlohmann::json metrics);

 private:
  std::filesystem::path path_;
  int lock_ = -1;
  std::string job_;
  std::optional<MetricsLog> log_;
  std::optional<EventWriter> events_;
};

}  // namespace expctr
