// Supervised fine-tuning of the scorer: cross-entropy of the answer token, best adapter by validation AUC (specs expctr.md, section 7).
#include <fmt/format.h>

#include "base/error.h"
#include "base/hash.h"
#include "data/ctr_batches.h"
#include "engine/autograd/tape.h"
#include "engine/io/phase.h"
#include "engine/log/logger.h"
#include "engine/log/process.h"
#include "engine/log/progress.h"
#include "engine/ops/elementwise.h"
#include "engine/ops/embedding.h"
#include "engine/ops/reduce.h"
#include "engine/optim/adam.h"
#include "inference/metrics/calibration.h"
#include "inference/metrics/ranking_quality.h"
#include "models/parameters.h"
#include "models/peft.h"
#include "trainers/expctr/stages.h"

namespace expctr {
namespace {

struct Quality {
  double auc = 0.5, logloss = 0.0;
};

// p(Yes) without explanations.
std::vector<double> predict(ExpctrSession& session, const LoraAdapter& adapter, const std::vector<TextPair>& pairs) {
  std::vector<Tokens> prompts;
  for (const TextPair& pair : pairs) prompts.push_back(session.scorer_prompt(pair, {}));
  std::vector<double> p = AnswerScorer(session.store(), &adapter, session.answers()).margins(prompts, true);
  for (double& margin : p) margin = 1.0 / (1.0 + std::exp(-margin));
  return p;
}

std::vector<std::uint8_t> labels_of(const std::vector<TextPair>& pairs) {
  std::vector<std::uint8_t> labels;
  for (const TextPair& pair : pairs) labels.push_back(static_cast<std::uint8_t>(pair.pair.label));
  return labels;
}

Quality measure(ExpctrSession& session, const LoraAdapter& adapter, const std::vector<TextPair>& pairs) {
  const std::vector<double> p = predict(session, adapter, pairs);
  const std::vector<std::uint8_t> labels = labels_of(pairs);
  return {auc(p, labels).value_or(0.5), logloss(p, labels)};
}

// The calibration report of the finished scorer.
nlohmann::json calibration_report(ExpctrSession& session, const LoraAdapter& adapter, const std::vector<TextPair>& pairs) {
  const Calibration c = calibration(predict(session, adapter, pairs), labels_of(pairs));
  nlohmann::json bins = nlohmann::json::array();
  for (const CalibrationBin& bin : c.bins) bins.push_back({{"rows", bin.rows}, {"mean_probability", bin.mean_probability}, {"positive_share", bin.positive_share}});
  return {{"expected_error", c.expected_error}, {"bins", bins}};
}

// Mean cross-entropy of the answers of some pairs; dropout on the adapter's input names rows by pair and position.
Tensor answer_loss(ExpctrSession& session, const LoraAdapter& adapter, std::span<const TextPair* const> pairs, double scale, std::uint32_t step) {
  const Decoder& decoder = session.llm().decoder();
  std::vector<Tokens> prompts;
  std::vector<std::int64_t> lengths;
  std::vector<std::int32_t> last, targets, rows;
  std::int64_t total = 0;
  for (const TextPair* pair : pairs) {
    prompts.push_back(session.scorer_prompt(*pair, {}));
    const auto length = static_cast<std::int64_t>(prompts.back().size());
    for (std::int64_t t = 0; t < length; ++t) {
      rows.push_back(static_cast<std::int32_t>(splitmix64((static_cast<std::uint64_t>(pair->pair.row) << 16) ^ static_cast<std::uint64_t>(t)) & 0x7FFFFFFF));
    }
    lengths.push_back(length);
    total += length;
    last.push_back(static_cast<std::int32_t>(total - 1));
    targets.push_back(pair->pair.label != 0 ? session.answers().yes : session.answers().no);
  }
  const Tensor lower = session.store().run(prompts, true, false).hidden;
  AdapterPlan plan(&adapter);
  plan.set_dropout(Tensor::of(rows, {total}, session.device()), {session.config().seed, step, 0});
  const Tensor hidden = decoder.blocks(session.store().split(), decoder.config().layers, lower, whole_sequences(lengths, session.device()), plan);
  const auto n = static_cast<std::int64_t>(last.size());
  const Tensor states = decoder.normalise(gather(hidden, Tensor::of(last, {n}, session.device())));
  return sum_all(decoder.score(states, Tensor::of(targets, {n}, session.device())).log_probability, -scale);
}

}  // namespace

void run_sft(ExpctrSession& session) {
  if (!session.begin_stage("sft")) return;
  const SftConfig& config = session.config().sft;
  const std::vector<TextPair>& pairs = session.sft_pairs();
  if (pairs.empty()) throw UsageError("sft: no training pairs in the scorer share", "raise folds.scorer_share or pairs.sft");
  const std::vector<TextPair>& held_out = session.valid_pairs();

  std::optional<Checkpoint> checkpoint = session.resume_point("sft", "sft");
  LoraAdapter adapter(session.llm().decoder().config(), session.lora(), session.config().seed, DType::f32, session.device(), true);
  LoraAdapter best(session.llm().decoder().config(), session.lora(), session.config().seed, DType::f32, session.device(), false);
  Adam optimiser(adapter.parameters(), AdamOptions{config.learning_rate, 0.9, 0.999, 1e-8, 0.0});
  const auto n = static_cast<std::int64_t>(pairs.size()), per_epoch = (n + config.batch - 1) / config.batch, steps = per_epoch * config.epochs;
  const std::int64_t evaluate_every = std::max<std::int64_t>(1, per_epoch / config.evaluations_per_epoch);
  std::int64_t step = 0, without_gain = 0;
  Quality best_quality;
  bool measured = false;
  if (checkpoint) {
    const nlohmann::json& state = checkpoint->state();
    read_tensors(*checkpoint, "adapter/", adapter.parameters());
    read_tensors(*checkpoint, "best/", best.parameters());
    read_tensors(*checkpoint, "", optimiser.state());
    step = state.at("step");
    optimiser.set_steps(step);
    without_gain = state.at("without_gain");
    best_quality = {state.at("best_auc"), state.at("best_logloss")};
    measured = state.at("measured");
    session.run().begin_log("sft", step);
  } else {
    session.run().begin_log("sft");
  }
  const auto save = [&] {
    session.run().sync_log();
    CheckpointWriter writer(session.run().checkpoints("sft"), fmt::format("step{}", step));
    write_tensors(writer, "adapter/", adapter.parameters());
    write_tensors(writer, "best/", best.parameters());
    write_tensors(writer, "", optimiser.state());
    writer.set_state({{"step", step}, {"without_gain", without_gain}, {"best_auc", best_quality.auc},
                      {"best_logloss", best_quality.logloss}, {"measured", measured}});
    writer.set_config(session.config().resolved);
    writer.commit();
  };

  Progress progress("sft", "step", steps, step);
  while (step < steps && without_gain <= config.patience) {
    phase("update");
    const std::int64_t epoch = step / per_epoch;
    const BatchOrder order(session.config().seed, static_cast<std::uint32_t>(epoch), n);
    const std::span<const std::int32_t> batch = order.batch(step % per_epoch, config.batch);
    optimiser.clear_gradients();
    double loss = 0.0;
    constexpr std::size_t micro = 16;  // pairs of one pass: bounds the memory of activations
    for (std::size_t begin = 0; begin < batch.size(); begin += micro) {
      std::vector<const TextPair*> chosen;
      for (std::size_t i = begin; i < std::min(batch.size(), begin + micro); ++i) chosen.push_back(&pairs[static_cast<std::size_t>(batch[i])]);
      Tape tape;
      const Tensor part = answer_loss(session, adapter, chosen, 1.0 / static_cast<double>(batch.size()), static_cast<std::uint32_t>(step));
      loss += part.item();
      tape.backward(part);
    }
    if (!std::isfinite(loss)) throw Error(fmt::format("sft step {}: the loss is {}", step + 1, loss), "the last checkpoint is good: resume with a smaller sft.lr");
    const double norm = gradient_norm(optimiser.parameters());
    optimiser.step();
    ++step;
    std::vector<std::int32_t> rows;
    for (const std::int32_t place : batch) rows.push_back(pairs[static_cast<std::size_t>(place)].pair.row);
    nlohmann::json record = {{"loss", loss}, {"grad_norm", norm}, {"epoch", epoch}, {"rows", rows}};
    if (step % evaluate_every == 0 || step == steps) {
      const Quality quality = measure(session, adapter, held_out);
      record["valid/auc"] = quality.auc;
      record["valid/logloss"] = quality.logloss;
      if (!measured || quality.auc > best_quality.auc) {
        best_quality = quality;
        restore(best.parameters(), adapter.parameters());
        measured = true;
        without_gain = 0;
      } else {
        ++without_gain;
      }
    }
    session.run().log(step, record);
    if (step % session.config().checkpoint_every == 0 || step == steps || interrupt_requested()) save();
    session.stop_if_interrupted("sft");
    progress.update(step, fmt::format("loss {:.3f}  auc {:.3f}", loss, best_quality.auc));
  }
  session.check_frozen();
  save_peft(session.stage_folder("sft") / "scorer", best, session.llm().name(), session.base_hash());
  session.mark_complete("sft", {{"adapter_hash", hash_of(best.parameters())}, {"base_hash", session.base_hash()}, {"steps", step}, {"pairs", n},
                                {"valid", {{"auc", best_quality.auc}, {"logloss", best_quality.logloss}}},
                                {"calibration", calibration_report(session, best, held_out)}});
  log_info("sft  scorer: validation AUC {:.4f}, logloss {:.4f}", best_quality.auc, best_quality.logloss);
}

}  // namespace expctr
