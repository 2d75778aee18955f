// Training of a click model with early stopping: for `run ctr`, and for stage 2 of ExpCTR with and without texts.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "engine/io/checkpoint.h"
#include "inference/ctr_scorer.h"
#include "trainers/ctr/config.h"

namespace expctr {

/// What is trained on and what decides when to stop.
struct CtrTrainingData {
  const CtrDataset* dataset = nullptr;
  std::vector<CtrField> fields;            ///< ctr_fields
  std::vector<std::int32_t> train, valid;  ///< rows of the data set; usually those of the two splits
  const TextVectors* texts = nullptr;      ///< none: a text-free model
};
CtrTrainingData all_rows(const CtrDataset& dataset, const CtrFeatures& features, const TextVectors* texts = nullptr);

/// What surrounds the loop. All members are optional.
struct CtrTrainingHooks {
  Device device;
  std::function<void(std::int64_t step, nlohmann::json record)>
      log;                                  ///< after each step; the last of an epoch carries valid_auc, valid_logloss
  std::function<void()> before_checkpoint;  ///< e.g. RunDirectory::sync_log
  std::filesystem::path checkpoints;        ///< folder of checkpoints; empty: none are written
  std::string label = "ctr";                ///< begins the names of checkpoints
  std::string config_yaml;                  ///< stored in checkpoints
  std::optional<Checkpoint> resume;         ///< go on from here
  std::function<bool()> stop;               ///< asked after each step: true writes a checkpoint and throws InterruptedError
};

struct CtrTraining {
  Din model;                                           ///< with the parameters of the best epoch
  std::int64_t steps = 0, best_epoch = 0, epochs = 0;  ///< epochs counted from 1
  double best_auc = 0;
  std::int64_t rows_seen = 0;  ///< by this process
  double seconds = 0;          ///< of this process, training steps only
};

/// Adam on the mean binary cross-entropy, the order of rows a function of (seed, epoch); after each epoch AUC on the validation rows in
/// evaluation mode; ends after `patience` epochs without a better one or after `epochs`; the best epoch's parameters are restored. Stopped
/// at any step and resumed it ends with the same bits. Throws Error when the loss is not finite, InterruptedError on request.   Source:
/// specs/ctr-models.md section 1.
CtrTraining train_ctr(const CtrConfig& config, const CtrTrainingData& data, std::uint64_t seed, const CtrTrainingHooks& hooks = {});

/// Step of the checkpoint, for RunDirectory::begin_log.
std::int64_t ctr_checkpoint_step(const Checkpoint& checkpoint);

/// The model as a safetensors file with its options in the metadata, and back. load_din throws InputError.
void save_din(const Din& model, const std::filesystem::path& file);
Din load_din(const std::filesystem::path& file, Device device = {});

}  // namespace expctr
