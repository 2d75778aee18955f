// run <job>: one training or evaluation job.
#include <CLI/CLI.hpp>

#include "cli/commands.h"
#include "cli/job_options.h"

namespace expctr {

Command run_command(const std::vector<Job>& jobs) {
  struct Options {
    std::string job, config, out, resume = "auto", device;
    std::vector<std::string> overrides;
  };
  auto options = std::make_shared<Options>();
  const auto setup = [options, jobs](CLI::App& app) {
    std::string known;
    for (const Job& job : jobs) known += fmt::format("\n  {:<16} {}", job.name, job.summary);
    app.add_option("job", options->job, "what to run");
    app.add_option("--config", options->config, "YAML file (default: the job's own small configuration)")->type_name("FILE");
    app.add_option("--set", options->overrides, "key=value: overrides one key of the configuration; may be repeated")
        ->allow_extra_args(false)
        ->type_name("KEY=VALUE");
    app.add_option("--out", options->out, "folder of the run (default: runs/<name of the configuration>)")->type_name("DIR");
    app.add_option("--resume", options->resume,
                   "auto: go on where an earlier run stopped; never: start anew and drop its checkpoints; DIR: from that checkpoint")
        ->type_name("HOW")
        ->capture_default_str();
    app.add_option("--device", options->device, "cpu, cuda or cuda:N (default: the configuration's)")->type_name("DEVICE");
    app.footer("Jobs:" + (known.empty() ? " none in this build" : known));
  };
  const auto run = [options, jobs](const GlobalOptions& global) {
    RunOptions job_options;
    if (!options->config.empty()) job_options.config = options->config;
    job_options.overrides = options->overrides;
    job_options.out = options->out;
    job_options.resume = options->resume;
    job_options.device = options->device;
    start_job(find_job(jobs, options->job), job_options, global);
  };
  return {"run", "run one training or evaluation job", setup, run};
}

}  // namespace expctr
