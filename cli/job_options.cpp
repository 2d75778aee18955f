#include "cli/job_options.h"

#include "base/error.h"
#include "engine/config/nearest.h"
#include "engine/core/build_info.h"
#include "engine/log/process.h"

namespace expctr {
namespace fs = std::filesystem;

const Job& find_job(const std::vector<Job>& jobs, std::string_view name) {
  std::vector<std::string> names;
  for (const Job& job : jobs) {
    if (job.name == name) return job;
    names.push_back(job.name);
  }
  const std::string known = names.empty() ? "this build has no jobs" : fmt::format("jobs: {}", fmt::join(names, ", "));
  if (name.empty()) throw UsageError("run: no job is named", known);
  const auto nearest = nearest_name(name, names);
  throw UsageError(fmt::format("unknown job '{}'", name), nearest ? fmt::format("did you mean '{}'? {}", *nearest, known) : known);
}

void check_device(std::string_view device) {
  if (device.empty() || device == "cpu") return;
  std::string_view number = device;
  const bool cuda = device.starts_with("cuda");
  if (cuda) number.remove_prefix(4);
  const bool numbered =
      number.size() > 1 && number.size() <= 4 && number[0] == ':' && number.find_first_not_of("0123456789", 1) == std::string_view::npos;
  if (!cuda || !(number.empty() || numbered))
    throw UsageError(fmt::format("--device {}: no such device", device), "write cpu, cuda or cuda:N");
  if (!has_cuda)
    throw UsageError(fmt::format("--device {}: this program was built without CUDA", device), "use --device cpu, or build where nvcc is");
}

void start_job(const Job& job, RunOptions options, const GlobalOptions& global) {
  check_device(options.device);
  options.job = job.name;
  options.threads = global.threads;
  options.seed = global.seed;
  options.json = global.json;
  options.quiet = global.quiet;
  if (options.out.empty()) options.out = default_out(options.config, job);
  install_interrupt_handler();
  job.run(options);
}

RunOptions options_of_finished_run(const fs::path& run) {
  if (!fs::is_directory(run)) {
    throw UsageError(fmt::format("--run {}: no such folder", run.string()),
                     "name the folder of a finished run, for instance runs/quickstart");
  }
  if (!fs::is_regular_file(run / "config.yaml")) {
    throw UsageError(fmt::format("--run {}: no run stands there (no config.yaml)", run.string()),
                     "start one with: expctr_engine run <job> --out DIR");
  }
  RunOptions options;
  options.config = run / "config.yaml";
  options.out = run;
  options.finished_run = run;
  return options;
}

}  // namespace expctr
