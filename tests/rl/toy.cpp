// Whole runs on toy tasks, through generate, score_reference and ppo_update as a trainer makes them (specs rl.md 11.7, 11.9 to 11.11;
// expctr.md section 13, check 10).
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "base/philox.h"
#include "engine/io/checkpoint.h"
#include "models/parameters.h"
#include "tests/rl/rollouts.h"
#include "tests/support/paths.h"
#include "trainers/rl/reward.h"

using namespace expctr;
using namespace expctr::test;

namespace {

constexpr std::int32_t end_token = 0, begin_token = 1, separator = 2, love = 3, hate = 4, first_genre = 5, genres = 6;
constexpr std::size_t batch = 64;

TinyShape toy_shape() {
  TinyShape shape;
  shape.width = 24;
  shape.heads = 3;
  shape.kv_heads = 1;
  shape.ffn_width = 32;
  shape.vocabulary = 16;
  shape.weight_deviation = 0.1;
  shape.embedding_deviation = 0.3;  // the untrained policy speaks nearly uniformly: every token can be found
  return shape;
}

LoraConfig toy_lora() {
  LoraConfig lora;
  lora.rank = 4;
  lora.alpha = 8.0;
  lora.targets = {Projection::q, Projection::v, Projection::o, Projection::gate, Projection::up, Projection::down};
  lora.first_layer = 1;
  lora.last_layer = 2;
  return lora;
}

PpoConfig toy_config() {
  PpoConfig config;
  config.learning_rate = 5e-3;
  config.batch = batch;
  config.mini_batch = batch;
  config.kl_coefficient = 0.05;
  config.kl_adaptive = false;
  config.max_new_tokens = 6;
  return config;
}

/// What a run needs from step to step.
struct Toy {
  std::uint64_t seed;
  PpoConfig config;
  Decoder decoder = tiny_decoder(toy_shape(), seed);
  PrefixStore store{decoder, 1, 1 << 20, working_pages(batch, 32)};
  Policy policy;

  Toy(const PpoConfig& c, std::uint64_t s) : seed(s), config(c), policy(Policy::fresh(decoder, toy_lora(), c, seed)) {}

  template <class Prompts, class Score>
  PpoStatistics step(std::uint32_t step, const Prompts& prompts_of, const Score& score) {
    const std::vector<Tokens> prompts = prompts_of(step);
    std::vector<Rollout> rollouts = sample_rollouts(store, policy, prompts, config, seed, step, {end_token});
    for (std::size_t i = 0; i < rollouts.size(); ++i) rollouts[i].score = score(prompts[i], rollouts[i].response);
    return ppo_update(decoder, store.split(), policy, rollouts, config, seed, step);
  }
};

std::vector<Tokens> same_prompts(std::uint32_t) { return std::vector<Tokens>(batch, Tokens{begin_token, 7, 9}); }

double has_token(const Tokens&, const Tokens& response) {
  return std::find(response.begin(), response.end(), 11) != response.end() ? 1.0 : 0.0;
}

/// begin, genres of three liked titles, separator, target genre. The label: target genre among the first three genres.
std::vector<Tokens> pairs(std::uint64_t purpose, std::uint32_t step, std::size_t count) {
  const RandomKey key = random_key(purpose, "toy pairs");
  std::vector<Tokens> prompts;
  for (std::size_t i = 0; i < count; ++i) {
    const RandomBits bits = philox(key, {step, static_cast<std::uint32_t>(i), 0, 0});
    const auto genre = [&](int k) { return first_genre + static_cast<std::int32_t>(bits.word[static_cast<std::size_t>(k)] % genres); };
    prompts.push_back({begin_token, genre(0), genre(1), genre(2), separator, genre(3)});
  }
  return prompts;
}

int label_of(const Tokens& prompt) { return prompt.back() < first_genre + genres / 2 ? 1 : 0; }

/// +1 love, -1 hate, 0 neither: the first polarity word counts.
int polarity(const Tokens& response) {
  for (const std::int32_t token : response) {
    if (token == love) return 1;
    if (token == hate) return -1;
  }
  return 0;
}

/// The scorer knows nothing without a polarity word and believes one that is there.
double delta(const Tokens& prompt, const Tokens& response) {
  return lc_reward(LcForm::delta, label_of(prompt), 3.0 * polarity(response), 0.0, 5.0);
}

}  // namespace

TEST_CASE("toy task: PPO learns to say one token") {
  Toy toy(toy_config(), 17);
  const std::string base = hash_of(toy.decoder.weights()), adapter = hash_of(toy.policy.parameters());
  std::string after_ten;
  PpoStatistics s;
  double start = 0.0, reward = 0.0, kl = 0.0;
  std::uint32_t steps = 0;
  for (; steps < 200 && reward <= 0.95; ++steps) {
    s = toy.step(steps, same_prompts, has_token);
    if (steps == 0) {
      start = s.score_mean;
      CHECK(s.kl == 0.0);
    }
    CHECK(s.first_ratio_error == 0.0);
    if (steps == 9) {  // frozen base
      CHECK(hash_of(toy.decoder.weights()) == base);
      CHECK(hash_of(toy.policy.parameters()) != adapter);
    }
    reward += (s.score_mean - reward) * (steps == 0 ? 1.0 : 0.2);  // a running mean: one lucky batch does not count
    kl = s.kl;
  }
  std::printf("toy token: reward %.3f -> %.3f, sequence KL %.2f after %u steps\n", start, reward, kl, steps);
  CHECK(start < 0.6);
  CHECK(reward > 0.95);
  CHECK(kl < 10.0);
  CHECK(steps > 10);
  CHECK(hash_of(toy.decoder.weights()) == base);
}

TEST_CASE("toy task: a coefficient ten times larger ends at a smaller sequence KL") {
  double kl[2] = {};
  for (const int i : {0, 1}) {
    PpoConfig config = toy_config();
    config.kl_coefficient = i == 0 ? 0.05 : 0.5;
    Toy toy(config, 17);
    for (std::uint32_t step = 0; step < 60; ++step) {
      const PpoStatistics s = toy.step(step, same_prompts, has_token);
      if (step >= 50) kl[i] += 0.1 * s.kl;
    }
  }
  std::printf("toy token: sequence KL %.3f with coefficient 0.05, %.3f with 0.5\n", kl[0], kl[1]);
  CHECK(kl[1] < 0.8 * kl[0]);
}

namespace {

void learn_taste(std::uint64_t seed) {
  PpoConfig config = toy_config();
  config.max_new_tokens = 4;
  config.mini_batch = 32;
  Toy toy(config, seed);
  const std::vector<Tokens> held_out = pairs(1001, 0, 128);
  const auto evaluate = [&](double& accuracy, double& mean_delta) {
    std::vector<GenerationRequest> requests;
    for (const Tokens& prompt : held_out) requests.push_back({prompt, static_cast<std::uint32_t>(requests.size())});
    GenerationOptions options;
    options.max_new_tokens = config.max_new_tokens;
    options.sampling.temperature = 0.0;  // explanations of the store are decoded greedily
    options.stop_tokens = {end_token};
    const std::vector<Generation> texts = generate(toy.store, &toy.policy.adapter, requests, options);
    accuracy = mean_delta = 0.0;
    for (std::size_t i = 0; i < texts.size(); ++i) {
      accuracy += polarity(texts[i].tokens) == (label_of(held_out[i]) ? 1 : -1) ? 1.0 / 128 : 0.0;
      mean_delta += delta(held_out[i], texts[i].tokens) / 128;
    }
  };
  double accuracy = 0.0, mean_delta = 0.0, first_accuracy = 0.0, kl = 0.0, score = 0.0;
  evaluate(first_accuracy, mean_delta);
  std::uint32_t steps = 0;
  while (steps < 200 && !(accuracy >= 0.95 && score > 0.4)) {
    const PpoStatistics s = toy.step(
        steps, [](std::uint32_t step) { return pairs(1000, step, batch); }, delta);
    CHECK(s.first_ratio_error == 0.0);
    kl = s.kl;
    score = s.score_mean;
    ++steps;
    if (steps % 10 == 0) evaluate(accuracy, mean_delta);
  }
  std::printf("toy ExpCTR, seed %d: polarity accuracy %.3f -> %.3f, mean delta %.3f, sampled score %.3f, sequence KL %.2f after %u steps\n",
              static_cast<int>(seed), first_accuracy, accuracy, mean_delta, score, kl, steps);
  CHECK(first_accuracy < 0.8);
  CHECK(accuracy >= 0.95);
  CHECK(mean_delta > 0.0);
  CHECK(kl < 10.0);
}

}  // namespace

TEST_CASE("toy ExpCTR: explanations learn to carry the taste") {
  for (const std::uint64_t seed : {17, 1, 2}) learn_taste(seed);
}

TEST_CASE("a run that stops and resumes from a checkpoint has the bits of one that did not stop") {
  PpoConfig config = toy_config();
  config.kl_adaptive = true;
  config.kl_target = 0.5;
  config.kl_horizon = 500.0;
  config.mini_batch = 16;
  const auto prompts = [](std::uint32_t step) { return pairs(1000, step, batch); };
  const TemporaryFolder folder;
  constexpr std::uint32_t stop = 5, end = 15;
  Toy whole(config, 17);
  for (std::uint32_t step = 0; step < end; ++step) {
    whole.step(step, prompts, delta);
    if (step + 1 != stop) continue;
    CheckpointWriter checkpoint(folder.path(), "step5");
    write_tensors(checkpoint, "policy/", whole.policy.parameters());
    write_tensors(checkpoint, "", whole.policy.optimiser.state());
    checkpoint.set_state(
        {{"optimiser_steps", whole.policy.optimiser.steps()}, {"kl_coefficient", whole.policy.kl.coefficient()}, {"step", stop}});
    checkpoint.commit();
  }
  const auto loaded = Checkpoint::open_latest(folder.path(), [](const std::string& message) { FAIL(message); });
  REQUIRE(loaded.has_value());
  const auto resume = [&](bool with_optimiser, bool with_kl) {
    auto toy = std::make_unique<Toy>(config, 17);
    read_tensors(*loaded, "policy/", toy->policy.parameters());
    if (with_optimiser) {
      read_tensors(*loaded, "", toy->policy.optimiser.state());
      toy->policy.optimiser.set_steps(loaded->state().at("optimiser_steps").get<std::int64_t>());
    }
    if (with_kl) toy->policy.kl.set_coefficient(loaded->state().at("kl_coefficient").get<double>());
    for (auto step = loaded->state().at("step").get<std::uint32_t>(); step < end; ++step) toy->step(step, prompts, delta);
    return toy;
  };
  const auto resumed = resume(true, true);
  CHECK(hash_of(resumed->policy.parameters()) == hash_of(whole.policy.parameters()));
  CHECK(hash_of(resumed->policy.optimiser.state()) == hash_of(whole.policy.optimiser.state()));
  CHECK(resumed->policy.optimiser.steps() == whole.policy.optimiser.steps());
  CHECK(resumed->policy.kl.coefficient() == whole.policy.kl.coefficient());
  // Each part of the state matters, or the comparison says nothing.
  CHECK(hash_of(resume(false, true)->policy.parameters()) != hash_of(whole.policy.parameters()));
  CHECK(hash_of(resume(true, false)->policy.parameters()) != hash_of(whole.policy.parameters()));
}
