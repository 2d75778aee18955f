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
    app.add_option("--run", options->run, "folder of a finished run")->type_name("DIR")->required();
    app.add_option("--set", options->overrides, "key=value: overrides one key of the run's configuration; may be repeated")
        ->allow_extra_args(false)
        ->type_name("KEY=VALUE");
    app.add_option("--device", options->device, "cpu, cuda or cuda:N (default: the configuration's)")->type_name("DEVICE");
  };
  const auto run = [options, jobs](const GlobalOptions& global) {
    RunOptions job_options = options_of_finished_run(options->run);
    job_options.overrides = options->overrides;
    job_options.device = options->device;
    start_job(find_job(jobs, "evaluate"), job_options, global);
  };
  return {"evaluate", "the metrics of a finished run", setup, run};
}

}  // namespace expctr
