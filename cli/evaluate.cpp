// evaluate --run DIR: short for `run evaluate` on a finished run.
#include <CLI/CLI.hpp>

#include "cli/commands.h"
#include "cli/job_options.h"

namespace expctr {

Command evaluate_command(const std::vector<Job>& jobs) {
  struct Options {
    std::string run, device;
    std::vector<std::string> overrides;
  };
  auto options = std::make_shared<Options>();
  const auto setup = [options](CLI::App& app) {
    app.add_option("--run", options->run, "folder of a finished run")->required();
    app.add_option("--set", options->overrides, "key=value: overrides one key of the run's configuration; may be repeated")
        ->allow_extra_args(false);
    app.add_option("--device", options->device, "cpu, cuda or cuda:N (default: the configuration's)");
  };
  const auto run = [options, jobs](const GlobalOptions& global) {
    RunOptions run = options_of_finished_run(options->run);
    run.overrides = options->overrides;
    run.device = options->device;
    start_job(find_job(jobs, "evaluate"), run, global);
  };
  return {"evaluate", "the metrics of a finished run", setup, run};
}

}  // namespace expctr
