// explain --run DIR --user U --item I: short for `run explain` on a finished run.
#include <CLI/CLI.hpp>

#include "cli/commands.h"
#include "cli/job_options.h"
#include "engine/config/config.h"

namespace expctr {

Command explain_command(const std::vector<Job>& jobs) {
  struct Options {
    std::string run, user, item, device;
    std::vector<std::string> overrides;
  };
  auto options = std::make_shared<Options>();
  const auto setup = [options](CLI::App& app) {
    app.add_option("--run", options->run, "folder of a finished run")->type_name("DIR")->required();
    app.add_option("--user", options->user, "user, as the data names it")->type_name("ID")->required();
    app.add_option("--item", options->item, "item, as the data names it")->type_name("ID")->required();
    app.add_option("--set", options->overrides, "key=value: overrides one key of the run's configuration; may be repeated")
        ->allow_extra_args(false)
        ->type_name("KEY=VALUE");
    app.add_option("--device", options->device, "cpu, cuda or cuda:N (default: the configuration's)")->type_name("DEVICE");
  };
  const auto run = [options, jobs](const GlobalOptions& global) {
    RunOptions job_options = options_of_finished_run(options->run);
    job_options.overrides = options->overrides;
    job_options.overrides.push_back("explain.user=" + yaml_string(options->user));
    job_options.overrides.push_back("explain.item=" + yaml_string(options->item));
    job_options.device = options->device;
    start_job(find_job(jobs, "explain"), job_options, global);
  };
  return {"explain", "the probability and the reason for a user and an item", setup, run};
}

}  // namespace expctr
