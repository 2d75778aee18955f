// Configuration of ExpCTR's jobs: every key of configs/expctr/*.yaml and configs/quickstart.yaml.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/kernels/linear.h"
#include "data/pairs.h"
#include "engine/config/config_reader.h"
#include "models/lora.h"
#include "trainers/ctr/config.h"
#include "trainers/rl/ppo.h"
#include "trainers/rl/reward.h"

namespace expctr {

/// Supervised fine-tuning of the Yes/No scorer.
struct SftConfig {
  double learning_rate = 1e-4;
  std::int64_t batch = 128, epochs = 3, patience = 10, evaluations_per_epoch = 4;
};

struct PairCounts {
  std::int64_t train = 0, valid = 0, test = 0, sft = 0;  ///< pairs with text; 0: all there are
};

struct RewardConfig {
  LcForm lc_form = LcForm::delta;
  double lc_clip = 5.0;
  IcForm ic_form = IcForm::prob;
  double ic_clip = 5.0, ic_weight = 1.0;
};

struct ExpctrConfig {
  std::uint64_t seed = 2024;
  std::string device = "cpu";
  std::string data_path, llm_path, encoder_path;
  PairOptions pairs;
  PairCounts counts;
  ComputeMode compute = ComputeMode::f32;
  std::int64_t lora_rank = 8;
  double lora_alpha = 16.0, lora_dropout = 0.05;
  std::vector<std::string> lora_targets;
  std::string lora_layers;
  bool scorer_base = false;  ///< scorer.type: base (untuned) instead of sft
  SftConfig sft;
  PpoConfig ppo;
  RewardConfig reward;
  std::int64_t encoder_max_tokens = 128;
  CtrConfig ctr;
  CtrDataConfig ctr_data;
  bool stage2_rows_with_text = false;  ///< stage2.rows: with_text instead of all
  bool explain_greedy = true;
  std::int64_t explain_batch = 16;
  std::string explain_user, explain_item;  ///< what `run explain` explains
  std::string refresh;  ///< what stage 3 explains again: all, eval or none
  std::size_t cache_bytes = 0;
  std::int64_t checkpoint_every = 1;

  std::string resolved;  ///< the whole configuration as YAML, runnable

  /// LoRA of a decoder: layers and targets by name.
  LoraConfig lora(const DecoderConfig& decoder) const;
  /// SHA-256 over the values of the keys in these sections: what a finished stage depends on.
  std::string identity(std::span<const std::string_view> sections) const;
};

/// Reads and checks all keys; unknown ones are errors.
ExpctrConfig read_expctr_config(const Config& config);

/// The sections that the result of each stage depends on.
std::span<const std::string_view> stage_sections(std::string_view stage);

/// The built-in configuration of `run expctr` and its stages: configs/quickstart.yaml.
std::string_view quickstart_yaml();

}  // namespace expctr
