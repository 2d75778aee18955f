// What the command line says about one job, and the job as the command line sees it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/config/config.h"

namespace expctr {

struct RunOptions {
  std::string job;
  std::optional<std::filesystem::path> config;  ///< none: the job's built-in default (Job::default_config)
  std::vector<std::string> overrides;           ///< "a.b=value", in order
  std::filesystem::path out;                    ///< the run's folder; never empty
  std::string resume = "auto";                  ///< "auto", "never", or a checkpoint, a folder of checkpoints or a run
  std::string device;                           ///< "cpu", "cuda", "cuda:N"; "" leaves it to the configuration
  int threads = 0;                              ///< 0: as many as the machine has
  std::optional<std::uint64_t> seed;            ///< none leaves it to the configuration
  bool json = false;                            ///< results as JSON lines on stdout
  bool quiet = false;
  std::optional<std::filesystem::path> finished_run;  ///< the run that `explain --run` and `evaluate --run` read
};

/// One row of the table of jobs (trainers/jobs.h). `run` returns when the job is done and throws Error otherwise.
struct Job {
  std::string name;
  std::string summary;
  std::function<void(const RunOptions&)> run;
  std::string default_config = "quickstart";  ///< the built-in configuration used without --config; names the folder runs/<default_config>
};

/// The configuration of a job: the file of `options`, or `built_in` (YAML) when it names none; then --set in order, then --seed and
/// --device as the keys `seed` and `device`. Throws UsageError.
Config load_run_config(const RunOptions& options, std::string_view built_in);

/// runs/<name of the configuration>: the default of --out.
std::filesystem::path default_out(const std::optional<std::filesystem::path>& config, const Job& job);

}  // namespace expctr
