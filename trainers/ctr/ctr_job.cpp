#include "trainers/ctr/ctr_job.h"

#include <fmt/format.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "data/fetch.h"
#include "engine/log/logger.h"
#include "engine/log/process.h"
#include "engine/log/progress.h"
#include "trainers/ctr/ctr_data.h"
#include "trainers/ctr/train.h"
#include "trainers/expctr/config.h"
#include "trainers/run_directory.h"

namespace expctr {
namespace {

using nlohmann::json;

struct JobConfig {
  std::uint64_t seed = 2024;
  Device device;
  CtrDataConfig data;
  CtrConfig ctr;
  std::string resolved;
};

JobConfig read_job_config(const RunOptions& options) {
  const Config config = load_run_config(options, "system: ctr\n");
  ConfigReader reader(config);
  JobConfig job;
  const std::string system = reader.choice("system", "ctr", {"ctr", "expctr"});
  job.seed = reader.get("seed", job.seed);
  job.device = parse_device(reader.get("device", "cpu"));
  job.data = read_ctr_data_config(reader.section("data"));
  job.ctr = read_ctr_config(reader);
  if (system == "expctr") {  // a configuration of the whole of ExpCTR has sections that this job does not read
    job.resolved = read_expctr_config(config).resolved;
  } else {
    reader.finish();
    job.resolved = reader.resolved_yaml();
  }
  return job;
}

/// A path as it stands, or the name of a package that was fetched.
std::filesystem::path data_folder(const std::string& path) {
  return std::filesystem::exists(path) ? std::filesystem::path(path) : locate(path);
}

}  // namespace

void run_ctr(const RunOptions& options) {
  const auto begin = std::chrono::steady_clock::now();
  const JobConfig config = read_job_config(options);
  const CtrData data = load_ctr_data(data_folder(config.data.path), config.data, config.ctr);
  const CtrTrainingData training = all_rows(data.rows, data.features);
  const auto& test = data.rows.rows_of(Split::test);

  RunDirectory run(options.out);
  CtrTrainingHooks hooks;
  hooks.device = config.device;
  hooks.checkpoints = run.checkpoints("ctr");
  hooks.config_yaml = config.resolved;
  hooks.resume = run.resume_point("ctr", options.resume);
  hooks.stop = interrupt_requested;
  run.write_config(config.resolved);
  const std::int64_t done = hooks.resume ? ctr_checkpoint_step(*hooks.resume) : 0;
  run.begin_log("ctr", hooks.resume ? std::optional(done) : std::nullopt);
  log_info("ctr  {}  {} train, {} valid, {} test rows{}", data.table.name, training.train.size(), training.valid.size(), test.size(),
           hooks.resume ? fmt::format("  resumed after step {}", done) : "");

  const std::int64_t steps = config.ctr.epochs * ((std::ssize(training.train) + config.ctr.batch - 1) / config.ctr.batch);
  Progress progress("ctr", "step", steps, done);
  std::string valid;
  hooks.before_checkpoint = [&] { run.sync_log(); };
  hooks.log = [&](std::int64_t step, json record) {
    if (record.contains("valid_auc")) valid = fmt::format("  valid auc {:.4f}", record["valid_auc"].get<double>());
    progress.update(step, fmt::format("epoch {}  loss {:.4f}{}", record["epoch"].get<std::int64_t>(), record["loss"].get<double>(), valid));
    run.log(step, std::move(record));
  };
  const CtrTraining trained = train_ctr(config.ctr, training, config.seed, hooks);
  save_din(trained.model, run.path() / "model.safetensors");

  const json valid_metrics = click_metrics(data.rows, training.valid, predict_clicks(trained.model, data.rows, training.valid));
  const json test_metrics = click_metrics(data.rows, test, predict_clicks(trained.model, data.rows, test));
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  json metrics{{"job", "ctr"},
               {"seed", config.seed},
               {"seconds", seconds},
               {"model", config.ctr.model},
               {"best_epoch", trained.best_epoch},
               {"valid", valid_metrics},
               {"test", test_metrics},
               {"train",
                {{"rows", training.train.size()},
                 {"steps", trained.steps},
                 {"samples_per_second", trained.seconds > 0 ? static_cast<double>(trained.rows_seen) / trained.seconds : 0.0}}}};
  run.write_metrics(metrics);
  log_info("ctr  best epoch {}  valid {}  test {}  {:.0f} samples/s", trained.best_epoch, valid_metrics.dump(), test_metrics.dump(),
           metrics["train"]["samples_per_second"].get<double>());
}

Job ctr_job() { return {"ctr", "click model on ids alone: DIN with early stopping on validation AUC", run_ctr, "ctr"}; }

}  // namespace expctr
