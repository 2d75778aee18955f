// Configuration of click models, shared by `run ctr` and by stage 2 of ExpCTR.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/split.h"
#include "engine/config/config_reader.h"
#include "engine/optim/adam.h"
#include "engine/optim/schedule.h"
#include "inference/ctr_scorer.h"

namespace expctr {

struct CtrConfig {
  std::string model = "din";
  std::string conventions = "kar";  ///< kar: map layer, interest first; fuxictr: neither
  std::int64_t embedding = 32;
  double embedding_deviation = 1e-4;
  std::vector<std::int64_t> attention = {32, 16}, mlp = {200, 80};
  std::string attention_activation = "dice", mlp_activation = "relu";
  bool softmax = true;  ///< over the attention scores; without it MovieLens-100K lost .007 test AUC
  double dropout = 0.2;
  double embedding_regularizer = 3e-3, net_regularizer = 0.0;  ///< lambda of (lambda / 2) |parameters|^2, whole tables at every step
  bool sparse =
      false;  ///< rows of tables that a batch does not read stay as they are, and so do their moments; without embedding_regularizer
  double lr = 1e-3, weight_decay = 0.0;
  std::string schedule = "constant";
  std::int64_t warm_up = 0;  ///< steps
  double clip = 10.0;        ///< norm of all gradients; 0: off
  std::int64_t batch = 2048, epochs = 20, patience = 3;
  std::int64_t checkpoint_every = 0;  ///< steps; 0: at the end of each epoch
  std::vector<std::int64_t> adapter = {128, 32};
  std::int64_t history = 50;   ///< most rows of a history
  std::int64_t min_count = 1;  ///< rarer values are out of vocabulary
};

/// Reads the section `ctr` and the keys adapter, data.history.max and data.min_count; the reader stands at the root. Throws UsageError.
CtrConfig read_ctr_config(ConfigReader reader);

/// The model's options for these fields; text_width 0: text-free. Tables have gradients by rows.
DinOptions din_options(const CtrConfig& config, const std::vector<CtrField>& fields, std::int64_t text_width);

/// How the optimiser treats the parameters of a model with `tables` embedding tables in front, `parameters` in all.
std::vector<AdamRule> adam_rules(const CtrConfig& config, std::size_t tables, std::size_t parameters);

struct CtrDataConfig {
  std::string path = "ml-100k", label_rule = "rating >= 4";
  SplitOptions split;
  HistoryScope scope = HistoryScope::all_earlier;
};

/// Reads path, label_rule, split.{kind, test, valid} and history.scope of the section `data` (the reader stands on it). Throws UsageError.
CtrDataConfig read_ctr_data_config(ConfigReader reader);

}  // namespace expctr
