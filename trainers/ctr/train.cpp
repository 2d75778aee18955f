#include "trainers/ctr/train.h"

#include <fmt/format.h>

#include <chrono>
#include <cmath>

#include "base/error.h"
#include "engine/autograd/tape.h"
#include "engine/log/process.h"
#include "engine/ops/loss.h"
#include "engine/ops/reduce.h"
#include "engine/optim/adam.h"
#include "inference/metrics/ranking_quality.h"
#include "models/parameters.h"
#include "trainers/ctr/ctr_data.h"

namespace expctr {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

// Where a training stands between two steps. `best` are parameters and statistics of the best epoch so far.
struct Progress {
  std::int64_t epoch = 0, position = 0, steps = 0;  // position: batches done in this epoch
  double loss_sum = 0;                              // of this epoch's steps
  double best_auc = -1;
  std::int64_t best_epoch = 0;
  bool finished = false;
  std::vector<NamedTensor> best;

  json state() const {
    return {{"epoch", epoch},       {"position", position},     {"step", steps},       {"loss_sum", loss_sum},
            {"best_auc", best_auc}, {"best_epoch", best_epoch}, {"finished", finished}};
  }
};

class Training {
 public:
  Training(const CtrConfig& config, const CtrTrainingData& data, std::uint64_t seed, const CtrTrainingHooks& hooks)
      : config_(config),
        data_(data),
        seed_(seed),
        hooks_(hooks),
        model_(din_options(config, data.fields, data.texts == nullptr ? 0 : data.texts->width), seed, DType::f32, hooks.device),
        adam_(model_.parameters(), {config.lr, 0.9, 0.999, 1e-8, config.weight_decay},
              adam_rules(config, model_.tables().size(), model_.parameters().size())) {
    if (data.train.empty()) throw UsageError("no training rows");
    batches_ = (std::ssize(data.train) + config.batch - 1) / config.batch;
    schedule_ = {parse_learning_rate_kind(config.schedule), config.warm_up, config.epochs * batches_, 0.0};
    if (hooks.resume) load(*hooks.resume);
  }

  CtrTraining run() {
    while (!progress_.finished) {
      const BatchOrder order(seed_, static_cast<std::uint32_t>(progress_.epoch), std::ssize(data_.train));
      while (progress_.position < batches_) {
        json record = step(order.batch(progress_.position, config_.batch));
        const bool epoch_ends = progress_.position == batches_;
        if (epoch_ends) end_epoch(record);
        if (hooks_.log) hooks_.log(progress_.steps, std::move(record));
        const bool asked = hooks_.stop && hooks_.stop();
        const bool due = config_.checkpoint_every > 0 ? progress_.steps % config_.checkpoint_every == 0 : epoch_ends;
        if (asked || due || progress_.finished) save();
        if (asked && !progress_.finished) {
          throw InterruptedError(fmt::format("{}: stopped after step {}", hooks_.label, progress_.steps),
                                 "the same command goes on from there");
        }
        if (epoch_ends) break;
      }
    }
    if (!progress_.best.empty()) restore(model_.state(), progress_.best);
    return {model_, progress_.steps, progress_.best_epoch, progress_.epoch, progress_.best_auc, rows_seen_, seconds_};
  }

 private:
  json step(std::span<const std::int32_t> places) {
    const auto begin = Clock::now();
    rows_.clear();
    for (const std::int32_t place : places) rows_.push_back(data_.train[static_cast<std::size_t>(place)]);
    data_.dataset->fill(rows_, ids_);
    const std::vector<std::int32_t> text_of_row = data_.texts == nullptr ? std::vector<std::int32_t>() : data_.texts->of(rows_);
    const DinBatch batch =
        din_batch(ids_, model_.options(), data_.texts == nullptr ? std::span<const float>() : std::span<const float>(data_.texts->values),
                  text_of_row, DType::f32, hooks_.device);
    const Tensor labels = Tensor::of(ids_.label, {ids_.rows}, hooks_.device);

    adam_.clear_gradients();
    double loss = 0;
    {
      Tape tape;
      const CtrMode mode{true, {}, {seed_, static_cast<std::uint32_t>(progress_.steps), 0}};
      const Tensor mean = mean_all(bce_with_logits(model_.forward(batch, mode).logit, labels));
      tape.backward(mean);
      loss = mean.item();
    }
    if (!std::isfinite(loss)) {
      throw Error(fmt::format("{}: the loss of step {} is not finite", hooks_.label, progress_.steps + 1),
                  "lower ctr.lr, or switch clipping on with ctr.clip");
    }
    const double norm = adam_.gradient_norm(), rate = config_.lr * schedule_.factor(progress_.steps);
    adam_.step(rate, clip_factor(norm, config_.clip));
    ++progress_.steps;
    ++progress_.position;
    progress_.loss_sum += loss;
    rows_seen_ += ids_.rows;
    seconds_ += std::chrono::duration<double>(Clock::now() - begin).count();
    return {{"epoch", progress_.epoch + 1}, {"loss", loss}, {"lr", rate}, {"gradient_norm", norm}};
  }

  void end_epoch(json& record) {
    record["train_loss"] = progress_.loss_sum / static_cast<double>(batches_);
    double value = -1;
    if (!data_.valid.empty()) {
      const std::vector<double> p = data_.texts == nullptr ? predict_clicks(model_, *data_.dataset, data_.valid)
                                                           : predict_clicks(model_, *data_.dataset, data_.valid, *data_.texts);
      const auto labels = labels_of(*data_.dataset, data_.valid);
      const auto measured = auc(p, labels);
      if (!measured)
        throw UsageError("all validation labels are equal", "AUC decides when to stop: choose another data.split or data.label_rule");
      value = *measured;
      record["valid_auc"] = value;
      record["valid_logloss"] = logloss(p, labels);
    }
    ++progress_.epoch;
    progress_.position = 0;
    progress_.loss_sum = 0;
    // Without validation rows the last epoch counts as the best.
    if (data_.valid.empty() || value > progress_.best_auc) {
      progress_.best_auc = value;
      progress_.best_epoch = progress_.epoch;
      progress_.best = snapshot(model_.state());
    }
    progress_.finished = progress_.epoch >= config_.epochs || progress_.epoch - progress_.best_epoch >= config_.patience;
  }

  void save() {
    if (hooks_.checkpoints.empty()) return;
    if (hooks_.before_checkpoint) hooks_.before_checkpoint();
    CheckpointWriter writer(hooks_.checkpoints, fmt::format("{}-step{}", hooks_.label, progress_.steps));
    write_tensors(writer, "model/", model_.state());
    write_tensors(writer, "", adam_.state("adam/"));
    write_tensors(writer, "best/", progress_.best);
    json state = progress_.state();
    state["rows"] = data_.train.size();
    state["seed"] = seed_;
    writer.set_state(std::move(state));
    writer.set_config(hooks_.config_yaml);
    writer.commit();
  }

  void load(const Checkpoint& checkpoint) {
    const json& state = checkpoint.state();
    const auto differs = [&](const char* what) {
      throw UsageError(fmt::format("{}: the checkpoint belongs to a run with other {}", checkpoint.folder().string(), what),
                       "start anew with --resume never");
    };
    try {
      if (state.at("rows").get<std::size_t>() != data_.train.size()) differs("training rows");
      if (state.at("seed").get<std::uint64_t>() != seed_) differs("seed");
      progress_.epoch = state.at("epoch");
      progress_.position = state.at("position");
      progress_.steps = state.at("step");
      progress_.loss_sum = state.at("loss_sum");
      progress_.best_auc = state.at("best_auc");
      progress_.best_epoch = state.at("best_epoch");
      progress_.finished = state.at("finished");
    } catch (const json::exception& error) {
      throw InputError(fmt::format("{}: not a checkpoint of a click model: {}", checkpoint.folder().string(), error.what()));
    }
    read_tensors(checkpoint, "model/", model_.state());
    read_tensors(checkpoint, "", adam_.state("adam/"));
    adam_.set_steps(progress_.steps);
    if (progress_.best_epoch > 0) {
      progress_.best = snapshot(model_.state());
      read_tensors(checkpoint, "best/", progress_.best);
    }
    // A finished run stays finished; one that was given more epochs or patience since goes on.
    progress_.finished =
        progress_.epoch >= config_.epochs || (progress_.best_epoch > 0 && progress_.epoch - progress_.best_epoch >= config_.patience);
  }

  const CtrConfig& config_;
  const CtrTrainingData& data_;
  std::uint64_t seed_;
  const CtrTrainingHooks& hooks_;
  Din model_;
  Adam adam_;
  LearningRateSchedule schedule_;
  std::int64_t batches_ = 0;
  Progress progress_;
  std::vector<std::int32_t> rows_;
  CtrBatch ids_;
  std::int64_t rows_seen_ = 0;
  double seconds_ = 0;
};

}  // namespace

CtrTrainingData all_rows(const CtrDataset& dataset, const CtrFeatures& features, const TextVectors* texts) {
  return {&dataset, ctr_fields(features), dataset.rows_of(Split::train), dataset.rows_of(Split::valid), texts};
}

CtrTraining train_ctr(const CtrConfig& config, const CtrTrainingData& data, std::uint64_t seed, const CtrTrainingHooks& hooks) {
  return Training(config, data, seed, hooks).run();
}

std::int64_t ctr_checkpoint_step(const Checkpoint& checkpoint) { return checkpoint.state().value("step", std::int64_t{0}); }

}  // namespace expctr
