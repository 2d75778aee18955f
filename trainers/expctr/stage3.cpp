// Stage 3 of ExpCTR: the policies go on from stage 1 with the click model's reward added (specs expctr.md, sections 6 and 7).
#include <fmt/format.h>

#include "base/error.h"
#include "models/parameters.h"
#include "trainers/expctr/click_models.h"
#include "trainers/expctr/explanations.h"
#include "trainers/expctr/policies.h"
#include "trainers/expctr/stages.h"
#include "trainers/rl/reward.h"

namespace expctr {

void run_stage3(ExpctrSession& session) {
  session.require_stage("stage2");
  if (!session.begin_stage("stage3")) return;
  const LoraAdapter* scorer = session.scorer_adapter();
  const std::string scorer_hash = scorer == nullptr ? "" : hash_of(scorer->parameters()), encoder_hash = session.encoder_hash();
  ClickModels models(session);
  const std::string ctr_hash = hash_of(models.with_text().state());

  const PolicyReward lc = lc_reward_of(session);
  const PolicyReward reward = [&](std::span<const TextPair* const> pairs, std::span<const std::string> texts) {
    const RewardConfig& config = session.config().reward;
    std::vector<RewardTerms> rewards = lc(pairs, texts);
    std::vector<std::int32_t> rows;
    for (const TextPair* pair : pairs) rows.push_back(pair->pair.row);
    const ClickModels::Probabilities p = models.of(rows, texts);
    for (std::size_t i = 0; i < rewards.size(); ++i) {
      rewards[i].ic = ic_reward(config.ic_form, pairs[i]->pair.label, p.p_ic[i], p.p_zero[i], p.p_id[i], config.ic_clip);
      rewards[i].total = rewards[i].lc + config.ic_weight * rewards[i].ic;
    }
    return rewards;
  };
  // The optimiser and the KL controller start anew; adapter and value head come from stage 1.
  const auto from_stage1 = [&](int fold) {
    Policy policy = load_policy(session, "stage1", fold);
    policy.kl.set_coefficient(session.config().ppo.kl_coefficient);
    return policy;
  };
  const std::vector<Policy> policies = train_policies(session, "stage3", from_stage1, reward);

  ExplanationStore store(explanation_file(session, "stage3"));
  if (session.config().refresh != "none") {
    write_explanations(session, store, &policies, session.config().refresh == "all" ? all_pairs(session) : held_out_pairs(session), "explain  stage3");
  }
  session.check_frozen();
  if (scorer != nullptr && hash_of(scorer->parameters()) != scorer_hash) throw Error("the scorer's adapter changed during stage3", "this is a bug: please report it");
  if (session.encoder_hash() != encoder_hash) throw Error("the text encoder changed during stage3", "this is a bug: please report it");
  if (hash_of(models.with_text().state()) != ctr_hash) throw Error("the click model changed during stage3", "this is a bug: please report it");
  nlohmann::json hashes = nlohmann::json::array();
  for (const Policy& policy : policies) hashes.push_back(hash_of(policy.parameters()));
  session.mark_complete("stage3", {{"base_hash", session.base_hash()}, {"scorer_hash", scorer_hash}, {"encoder_hash", encoder_hash}, {"ctr_hash", ctr_hash}, {"policy_hashes", hashes},
                                   {"explanations", store.size()}});
}

}  // namespace expctr
