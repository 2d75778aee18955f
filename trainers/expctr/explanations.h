// Writing explanations for many pairs: each by the policy of its user's other fold, greedily (specs expctr.md, sections 4 and 7).
#pragma once

#include <string>
#include <vector>

#include "inference/explanation_store.h"
#include "trainers/expctr/policies.h"

namespace expctr {

/// Explains `pairs` in their order by the policy that each pair names; without policies by the untrained base model. What the store has already is left alone. A record depends
/// on its pair alone, so it can be reproduced alone.
void write_explanations(ExpctrSession& session, ExplanationStore& store, const std::vector<Policy>* policies, std::span<const TextPair* const> pairs, const std::string& label);

/// One explanation, not stored.
Explanation explain_pair(ExpctrSession& session, const Policy* policy, const TextPair& pair);

/// <out>/<stage>/<name>.jsonl
std::filesystem::path explanation_file(const ExpctrSession& session, std::string_view stage, std::string_view name = "explanations");

/// Vectors e(z) of stored explanations, by row of the data set; an empty text has a vector too. Needs the encoder's folder.
TextVectors embed_explanations(ExpctrSession& session, std::span<const Explanation> explanations);

/// All sampled pairs: train, valid, test; and those that no training touches.
std::vector<const TextPair*> all_pairs(ExpctrSession& session);
std::vector<const TextPair*> held_out_pairs(ExpctrSession& session);

}  // namespace expctr
