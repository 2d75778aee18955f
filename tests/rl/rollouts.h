// Rollouts of a tiny model, made as a trainer makes them: generate, values of the sampled states, reference scores.
#pragma once

#include "engine/autograd/tape.h"
#include "inference/generator.h"
#include "tests/rl/tiny_decoder.h"
#include "tests/support/oracle.h"
#include "trainers/rl/ppo.h"

namespace expctr::test {

/// One response per prompt, sample ids in order; log-probabilities, values and reference are filled, the score is 0.
inline std::vector<Rollout> sample_rollouts(PrefixStore& store, const Policy& policy, std::span<const Tokens> prompts,
                                            const PpoConfig& config, std::uint64_t seed, std::uint32_t step,
                                            std::vector<std::int32_t> stop_tokens = {0}) {
  std::vector<GenerationRequest> requests;
  for (const Tokens& prompt : prompts) requests.push_back({prompt, static_cast<std::uint32_t>(requests.size())});
  GenerationOptions options;
  options.max_new_tokens = config.max_new_tokens;
  options.sampling.temperature = config.temperature;
  options.seed = seed;
  options.step = step;
  options.stop_tokens = std::move(stop_tokens);
  options.batch = static_cast<std::int64_t>(prompts.size());
  options.keep_states = true;
  std::vector<Generation> generations = generate(store, &policy.adapter, requests, options);
  const NoGradient no_gradient;
  std::vector<Rollout> rollouts;
  for (std::size_t i = 0; i < generations.size(); ++i) {
    Generation& g = generations[i];
    Rollout rollout;
    rollout.prompt_tokens = static_cast<std::int64_t>(prompts[i].size());
    rollout.response = g.tokens;
    rollout.ended = g.ended;
    rollout.split_hidden = g.split_hidden;
    rollout.log_probabilities.assign(g.log_probabilities.begin(), g.log_probabilities.end());
    rollout.values = doubles(policy.values(g.final_hidden));
    rollouts.push_back(std::move(rollout));
  }
  score_reference(store.decoder(), store.split(), rollouts, config);
  return rollouts;
}

/// Pages for `sequences` in flight of at most `tokens` tokens each.
inline std::int64_t working_pages(std::int64_t sequences, std::int64_t tokens) { return sequences * (KvCache::pages_for(tokens) + 1); }

}  // namespace expctr::test
