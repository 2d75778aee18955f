// A PPO step of the reference values as decoder, policy and rollouts.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "trainers/rl/ppo.h"

namespace expctr::test {

struct PpoCase {
  Decoder decoder;
  Policy policy;
  PpoConfig config;
  std::vector<Rollout> rollouts;  ///< without log-probabilities, values and reference
  std::vector<std::vector<std::size_t>> permutations;
  std::vector<std::int64_t> response_lengths;
  std::int64_t most_response = 0;
};

/// Folder ppo_step or ppo_step_large_lr (whose base weights lie in ppo_step). `packed`: frozen packed weights, float32 only; otherwise
/// dense ones of `dtype`.
PpoCase load_ppo_case(const std::filesystem::path& folder, DType dtype, bool packed);

/// Our name of an adapter or value-head parameter -> the oracle's, "lora.layer.0.q.A".
std::string oracle_name(const std::string& name);

/// The first lengths[i] values of each row of a padded [rows, columns].
std::vector<std::vector<double>> ragged_rows(const std::vector<double>& padded, const std::vector<std::int64_t>& lengths,
                                             std::int64_t columns);

std::vector<const Rollout*> pointers(const std::vector<Rollout>& rollouts);

/// Log-probabilities and values of the sampling policy from an evaluation of all rollouts.
void assign_evaluation(std::vector<Rollout>& rollouts, const TokenEvaluation& evaluation);

}  // namespace expctr::test
