// Policies of ExpCTR: training one by PPO with any reward, and keeping it.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "trainers/expctr/session.h"

namespace expctr {

/// What a text earned, by term. `total` is the score of PPO.
struct RewardTerms {
  double lc = 0.0, ic = 0.0, total = 0.0;
};
using PolicyReward = std::function<std::vector<RewardTerms>(std::span<const TextPair* const> pairs, std::span<const std::string> texts)>;

/// Trains the policy of one fold for ppo.steps steps, from where the stage's newest checkpoint stands; writes log and checkpoints. `initial` makes the policy of step 0.
/// Folds are trained one after the other in one log: step = fold * ppo.steps + step of the fold.
Policy train_policy(ExpctrSession& session, const std::string& stage, int fold, const std::optional<Checkpoint>& checkpoint, const std::function<Policy()>& initial,
                    const PolicyReward& reward);

/// Trains all folds of a stage and saves each policy under <out>/<stage>/policy<f>; folds that are saved already are loaded.
std::vector<Policy> train_policies(ExpctrSession& session, const std::string& stage, const std::function<Policy(int fold)>& initial, const PolicyReward& reward);

/// Folder with the adapter in PEFT's form, value_head.safetensors and policy.json (KL coefficient, hashes; written last).
void save_policy(ExpctrSession& session, const std::string& stage, int fold, const Policy& policy);
Policy load_policy(ExpctrSession& session, const std::string& stage, int fold);

/// The scorer's reward alone (reward.lc): stage 1, and the first term of stage 3.
PolicyReward lc_reward_of(ExpctrSession& session);

}  // namespace expctr
