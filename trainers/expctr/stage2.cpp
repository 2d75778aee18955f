// Stage 2 of ExpCTR: the click model learns with the explanations' vectors, and a text-free twin without them (specs expctr.md, section 7).
#include <fmt/format.h>

#include "base/error.h"
#include "engine/io/phase.h"
#include "engine/log/logger.h"
#include "engine/log/process.h"
#include "engine/log/progress.h"
#include "models/parameters.h"
#include "trainers/ctr/train.h"
#include "trainers/expctr/click_models.h"
#include "trainers/expctr/explanations.h"
#include "trainers/expctr/stages.h"

namespace expctr {
namespace {

// Trains one of the two models. One whose training was finished before an interruption comes out of its last checkpoint again, with all its numbers.
nlohmann::json train_click_model(ExpctrSession& session, const std::string& name, const CtrTrainingData& data) {
  const std::filesystem::path file = session.stage_folder("stage2") / (name + ".safetensors");
  const std::string job = "stage2-" + name;
  CtrTrainingHooks hooks;
  hooks.device = session.device();
  hooks.checkpoints = session.run().checkpoints(job);
  hooks.label = job;
  hooks.config_yaml = session.config().resolved;
  hooks.resume = session.resume_point(job, "stage2");
  session.run().begin_log(job, hooks.resume ? std::optional(ctr_checkpoint_step(*hooks.resume)) : std::nullopt);
  const CtrConfig& config = session.config().ctr;
  const std::int64_t per_epoch = (static_cast<std::int64_t>(data.train.size()) + config.batch - 1) / config.batch;
  Progress progress(fmt::format("stage2  {}", name), "step", per_epoch * config.epochs, hooks.resume ? ctr_checkpoint_step(*hooks.resume) : 0);
  hooks.log = [&](std::int64_t step, nlohmann::json record) {
    const std::string shown = record.contains("valid_auc") ? fmt::format("valid auc {:.4f}", record["valid_auc"].get<double>()) : std::string();
    record["model"] = name;
    for (const auto& [from, to] : {std::pair{"valid_auc", "valid/auc"}, {"valid_logloss", "valid/logloss"}, {"train_loss", "train/loss"}}) {
      if (!record.contains(from)) continue;
      record[to] = record[from];
      record.erase(from);
    }
    session.run().log(step, std::move(record));
    progress.update(step, shown);
    phase("update");
  };
  hooks.before_checkpoint = [&] { session.run().sync_log(); };
  hooks.stop = [] { return interrupt_requested(); };
  phase("update");
  const CtrTraining training = train_ctr(config, data, session.config().seed, hooks);
  save_din(training.model, file);
  log_info("stage2  {}: best epoch {} of {}, validation AUC {:.4f}", name, training.best_epoch, training.epochs, training.best_auc);
  return {{"best_epoch", training.best_epoch}, {"epochs", training.epochs}, {"valid_auc", training.best_auc}, {"steps", training.steps}, {"rows", training.epochs * std::ssize(data.train)}, {"seconds", training.seconds}};
}

}  // namespace

void run_stage2(ExpctrSession& session) {
  session.require_stage("stage1");
  if (!session.begin_stage("stage2")) return;
  const std::string encoder_hash = session.encoder_hash();
  const std::vector<Explanation> explanations = ExplanationStore::read(explanation_file(session, "stage1"));
  const TextVectors vectors = embed_explanations(session, explanations);

  const CtrData& data = session.ctr_data();
  CtrTrainingData with_text = all_rows(data.rows, data.features, &vectors), text_free = all_rows(data.rows, data.features);
  if (session.config().stage2_rows_with_text) {
    const auto keep = [&](std::vector<std::int32_t>& rows) { std::erase_if(rows, [&](std::int32_t row) { return vectors.of_row[static_cast<std::size_t>(row)] < 0; }); };
    for (CtrTrainingData* training : {&with_text, &text_free}) {
      keep(training->train);
      keep(training->valid);
    }
  }
  const nlohmann::json twin = train_click_model(session, "text_free", text_free);
  const nlohmann::json model = train_click_model(session, "with_text", with_text);
  session.check_frozen();
  if (session.encoder_hash() != encoder_hash) throw Error("the text encoder changed during stage2", "this is a bug: please report it");
  const ClickModels models(session);
  session.mark_complete("stage2", {{"text_free", twin}, {"with_text", model}, {"ctr_hash", hash_of(models.with_text().state())}, {"encoder_hash", encoder_hash},
                                   {"base_hash", session.base_hash()}, {"texts", explanations.size()}});
}

}  // namespace expctr
