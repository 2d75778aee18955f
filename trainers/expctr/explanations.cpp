#include "trainers/expctr/explanations.h"

#include <fmt/format.h>

#include "engine/io/phase.h"
#include "engine/log/progress.h"
#include "inference/generator.h"
#include "trainers/rl/reward.h"

namespace expctr {
namespace {

std::vector<Explanation> explain_some(ExpctrSession& session, const LoraAdapter* adapter, int policy, std::span<const TextPair* const> pairs) {
  const ExpctrConfig& config = session.config();
  std::vector<GenerationRequest> requests;
  for (const TextPair* pair : pairs) requests.push_back({pair->policy_prompt, static_cast<std::uint32_t>(pair->pair.row)});
  GenerationOptions options;
  options.max_new_tokens = config.ppo.max_new_tokens;
  options.sampling.temperature = config.explain_greedy ? 0.0 : config.ppo.temperature;
  options.seed = config.seed;
  options.stop_tokens = session.llm().end_tokens();
  options.batch = config.explain_batch;
  const std::vector<Generation> generations = generate(session.store(), adapter, requests, options);
  std::vector<std::string> texts;
  for (const Generation& g : generations) texts.push_back(session.llm().answer_text(g.tokens));
  const std::vector<double> with = session.margins(pairs, texts), base = session.base_margins(pairs);
  std::vector<Explanation> result;
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    Explanation e;
    e.row = pairs[i]->pair.row;
    e.text = texts[i];
    e.tokens = generations[i].tokens;
    for (const float lp : generations[i].log_probabilities) e.log_probability += lp;
    e.margin = with[i];
    e.base_margin = base[i];
    e.reward_lc = lc_reward(config.reward.lc_form, pairs[i]->pair.label, with[i], base[i], config.reward.lc_clip);
    e.policy = policy;
    e.seed = config.seed;
    result.push_back(std::move(e));
  }
  return result;
}

}  // namespace

void write_explanations(ExpctrSession& session, ExplanationStore& store, const std::vector<Policy>* policies, std::span<const TextPair* const> pairs, const std::string& label) {
  const PhaseScope scope("explanation");
  std::vector<const TextPair*> missing;
  for (const TextPair* pair : pairs) {
    if (!store.has(pair->pair.row)) missing.push_back(pair);
  }
  const auto total = static_cast<std::int64_t>(pairs.size());
  std::int64_t done = total - static_cast<std::int64_t>(missing.size());
  Progress progress(label, "pair", total, done);
  // Chunks of one policy each, so that an interruption costs little; the order of the file follows from the pairs alone.
  const auto policy_of = [&](const TextPair* pair) { return policies == nullptr ? -1 : pair->pair.policy; };
  std::stable_sort(missing.begin(), missing.end(), [&](const TextPair* a, const TextPair* b) { return policy_of(a) < policy_of(b); });
  const std::size_t chunk = static_cast<std::size_t>(session.config().explain_batch) * 2;
  for (std::size_t begin = 0; begin < missing.size();) {
    const int policy = policy_of(missing[begin]);
    std::size_t end = begin;
    while (end < missing.size() && end - begin < chunk && policy_of(missing[end]) == policy) ++end;
    const LoraAdapter* adapter = policy < 0 ? nullptr : &(*policies)[static_cast<std::size_t>(policy)].adapter;
    for (Explanation& e : explain_some(session, adapter, policy, std::span(missing).subspan(begin, end - begin))) store.append(std::move(e));
    store.sync();
    done += static_cast<std::int64_t>(end - begin);
    begin = end;
    progress.update(done);
    session.stop_if_interrupted(label);
  }
}

Explanation explain_pair(ExpctrSession& session, const Policy* policy, const TextPair& pair) {
  const TextPair* pairs[] = {&pair};
  return explain_some(session, policy == nullptr ? nullptr : &policy->adapter, policy == nullptr ? -1 : pair.pair.policy, pairs).front();
}

std::filesystem::path explanation_file(const ExpctrSession& session, std::string_view stage, std::string_view name) {
  return session.stage_folder(stage) / fmt::format("{}.jsonl", name);
}

TextVectors embed_explanations(ExpctrSession& session, std::span<const Explanation> explanations) {
  std::vector<std::string> texts;
  TextVectors vectors;
  vectors.of_row.assign(static_cast<std::size_t>(session.data().rows()), -1);
  for (const Explanation& e : explanations) {
    vectors.of_row[static_cast<std::size_t>(e.row)] = static_cast<std::int32_t>(texts.size());
    texts.push_back(e.text);
  }
  EmbedOptions options;
  options.max_pieces = session.config().encoder_max_tokens;
  vectors.width = session.encoder().width();
  vectors.values = session.encoder()(texts, options).to_vector<float>();
  return vectors;
}

std::vector<const TextPair*> all_pairs(ExpctrSession& session) {
  std::vector<const TextPair*> pairs;
  for (const auto* list : {&session.train_pairs(), &session.valid_pairs(), &session.test_pairs()}) {
    for (const TextPair& pair : *list) pairs.push_back(&pair);
  }
  return pairs;
}

std::vector<const TextPair*> held_out_pairs(ExpctrSession& session) {
  std::vector<const TextPair*> pairs;
  for (const auto* list : {&session.valid_pairs(), &session.test_pairs()}) {
    for (const TextPair& pair : *list) pairs.push_back(&pair);
  }
  return pairs;
}

}  // namespace expctr
