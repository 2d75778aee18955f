// Stage 1 of ExpCTR: one policy per fold learns, by PPO, explanations that make the scorer predict the click (specs expctr.md, section 7).
#include <fmt/format.h>

#include "base/error.h"
#include "models/parameters.h"
#include "trainers/expctr/explanations.h"
#include "trainers/expctr/policies.h"
#include "trainers/expctr/stages.h"

namespace expctr {

void run_stage1(ExpctrSession& session) {
  if (!session.begin_stage("stage1")) return;
  const LoraAdapter* scorer = session.scorer_adapter();
  const std::string scorer_hash = scorer == nullptr ? "" : hash_of(scorer->parameters());
  const auto fresh = [&](int fold) {
    return Policy::fresh(session.llm().decoder(), session.lora(), session.config().ppo, session.config().seed + 1 + static_cast<std::uint64_t>(fold));
  };
  const std::vector<Policy> policies = train_policies(session, "stage1", fresh, lc_reward_of(session));

  // What the untrained model writes about held-out pairs: the baseline of the evaluation.
  ExplanationStore untrained(explanation_file(session, "stage1", "untrained"));
  write_explanations(session, untrained, nullptr, held_out_pairs(session), "explain  untrained");
  ExplanationStore store(explanation_file(session, "stage1"));
  write_explanations(session, store, &policies, all_pairs(session), "explain  stage1");

  session.check_frozen();
  if (scorer != nullptr && hash_of(scorer->parameters()) != scorer_hash) throw Error("the scorer's adapter changed during stage1", "this is a bug: please report it");
  nlohmann::json hashes = nlohmann::json::array(), fresh_hashes = nlohmann::json::array();
  for (int fold = 0; fold < static_cast<int>(policies.size()); ++fold) {
    hashes.push_back(hash_of(policies[static_cast<std::size_t>(fold)].parameters()));
    fresh_hashes.push_back(hash_of(fresh(fold).parameters()));
  }
  session.mark_complete("stage1", {{"base_hash", session.base_hash()}, {"scorer_hash", scorer_hash}, {"fresh_hashes", fresh_hashes}, {"policy_hashes", hashes}, {"explanations", store.size()}});
}

}  // namespace expctr
