// Proximal policy optimisation of a LoRA policy with a value head on the same trunk (specs rl.md).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/optim/adam.h"
#include "inference/prefix_store.h"
#include "models/lora.h"
#include "trainers/rl/advantage.h"
#include "trainers/rl/kl_control.h"

namespace expctr {

/// Defaults: the classic TRL column of rl.md, section 3.
struct PpoConfig {
  double learning_rate = 1.41e-5;
  std::int64_t batch = 128, mini_batch = 128, epochs = 4, steps = 100, max_new_tokens = 64;
  std::int64_t micro_batch_tokens = 2048;  ///< a mini-batch is split into passes of at most this many tokens; the gradient does not change
  double gamma = 1.0, lambda = 0.95, clip = 0.2, value_clip = 0.2, value_coefficient = 0.1;
  double kl_coefficient = 0.2, kl_target = 6.0, kl_horizon = 10000.0;
  bool kl_adaptive = true;
  KlEstimator kl_estimator = KlEstimator::k1;
  bool whiten_rewards = false, whiten_advantages = true, whiten_unbiased = true;
  double ratio_guard = 10.0;         ///< skip a mini-batch whose mean ratio is above; 0: off
  bool early_stop = false;           ///< leave the epoch loop when KL(old, new) > 1.5 target_kl
  double target_kl = 1.0;
  double gradient_clip = 0.0;        ///< global norm; 0: off
  double missing_end_penalty = 0.0;  ///< subtracted from the score of a response without end token
  double temperature = 1.0, top_p = 1.0;
  std::int64_t top_k = 0;
};

/// What PPO trains: an adapter and a linear value head, with their optimiser and KL coefficient.
struct Policy {
  LoraAdapter adapter;
  Tensor value_weight;  ///< [1, width]
  Tensor value_bias;    ///< [1]
  KlController kl;
  Adam optimiser;

  /// Fresh adapter (B = 0) and a value head with torch's default linear initialisation; a function of the seed alone.
  static Policy fresh(const Decoder& decoder, const LoraConfig& lora, const PpoConfig& config, std::uint64_t seed);
  Policy(LoraAdapter adapter, Tensor value_weight, Tensor value_bias, const PpoConfig& config);
  std::vector<NamedTensor> parameters() const;
  /// normalised [rows, width] -> values [rows].
  Tensor values(const Tensor& normalised) const;
};

/// One finished response. `split_hidden` [prompt + response - 1, width] feeds the adapted blocks.
struct Rollout {
  std::int64_t prompt_tokens = 0;
  Tokens response;
  bool ended = false;
  Tensor split_hidden;
  std::vector<double> log_probabilities, values;      ///< of the policy that sampled, per response token
  std::vector<double> reference_log_probabilities;
  double score = 0.0;
};

struct TokenEvaluation {
  Tensor log_probability, value, entropy;  ///< [response tokens], all rollouts in order; value only with a policy
};
/// Adapted blocks, log-probabilities and values of the response tokens of some rollouts. `policy` null: the reference, i.e. the base weights.
/// Throws UsageError when a rollout's states do not fit its tokens, or the adapter has layers below `split`.
TokenEvaluation evaluate_responses(const Decoder& decoder, std::int64_t split, const Policy* policy, std::span<const Rollout* const> rollouts, double temperature, bool entropy);

/// Fills reference_log_probabilities of all rollouts.
void score_reference(const Decoder& decoder, std::int64_t split, std::span<Rollout> rollouts, const PpoConfig& config);

/// One optimiser step, means over the response tokens of its mini-batch; losses and ratios are those before the step.
struct MiniBatchRecord {
  double policy_loss = 0, value_loss = 0, loss = 0;   ///< loss = policy_loss + value_coefficient value_loss
  double clip_fraction = 0, value_clip_fraction = 0;  ///< share of tokens whose clipped term is the larger one
  double ratio = 1, approximate_kl = 0;
  double gradient_norm = 0;  ///< before clipping; 0 when skipped
  bool skipped = false;      ///< by the ratio guard
};

struct PpoStatistics {
  double score_mean = 0, score_deviation = 0, score_least = 0, score_most = 0;
  double kl = 0, entropy = 0, non_score_reward = 0, kl_coefficient = 0;
  double approximate_kl = 0, clip_fraction = 0, policy_loss = 0, value_loss = 0, explained_variance = 0;
  double first_ratio = 1, first_ratio_error = 0;  ///< mean ratio and largest |ratio - 1| of the first mini-batch of the first epoch
  double ratio = 1;                               ///< mean over all mini-batches
  double gradient_norm = 0, response_length = 0;
  std::int64_t end_tokens = 0, skipped_mini_batches = 0;
  bool stopped_early = false;
  std::vector<MiniBatchRecord> mini_batches;  ///< in the order of the steps
};

/// The order of rollouts in each epoch: a function of seed, step and epoch alone.
std::vector<std::size_t> epoch_permutation(std::uint64_t seed, std::uint64_t step, std::int64_t epoch, std::size_t count);

/// Rewards, advantages, `epochs` passes of mini-batches, one Adam step each, and the KL coefficient. Throws Error with a diagnosis when the ratios of the very first
/// mini-batch differ from 1 by more than `first_ratio_tolerance`: the forward that sampled is then not the forward that trains. Throws Error when a loss is not finite,
/// UsageError when there is no rollout or one lacks a value per response token.
/// `permutations`: given orders instead of epoch_permutation, for comparisons.
PpoStatistics ppo_update(const Decoder& decoder, std::int64_t split, Policy& policy, std::span<const Rollout> rollouts, const PpoConfig& config, std::uint64_t seed, std::uint64_t step,
                         double first_ratio_tolerance = 1e-5, std::span<const std::vector<std::size_t>> permutations = {});

}  // namespace expctr
