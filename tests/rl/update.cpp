// What must hold of every PPO update, whatever the numbers are (specs rl.md, section 11, items 2 to 6; expctr.md, section 13, check 3).
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "models/parameters.h"
#include "tests/rl/draws.h"
#include "tests/rl/ppo_case.h"
#include "tests/rl/rollouts.h"
#include "tests/support/paths.h"

using namespace expctr;
using namespace expctr::test;

namespace {

std::vector<Tokens> random_prompts(std::size_t count, std::int32_t vocabulary, std::uint64_t seed) {
  Draws draws(seed);
  std::vector<Tokens> prompts;
  for (std::size_t i = 0; i < count; ++i) {
    Tokens prompt(static_cast<std::size_t>(1 + draws.below(9)));
    for (std::int32_t& token : prompt) token = 1 + draws.below(vocabulary - 1);
    prompts.push_back(std::move(prompt));
  }
  return prompts;
}

/// A policy whose adapter differs from the base model.
void disturb(const Policy& policy, double deviation) {
  Draws draws(99);
  for (const NamedTensor& p : policy.parameters()) {
    std::vector<float> values = p.tensor.to_vector<float>();
    for (float& v : values) v += static_cast<float>(draws.uniform(-deviation, deviation));
    p.tensor.copy_from(Tensor::of(values, p.tensor.shape()));
  }
}

LoraConfig last_layer(const Decoder& decoder) {
  LoraConfig lora;
  lora.rank = 4;
  lora.alpha = 8.0;
  lora.first_layer = decoder.config().layers - 1;
  lora.last_layer = decoder.config().layers;
  return lora;
}

void score_all(std::vector<Rollout>& rollouts, std::uint64_t seed) {
  Draws draws(seed);
  for (Rollout& r : rollouts) r.score = draws.uniform(-1.0, 1.0);
}

double relative_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double most = 0.0, error = 0.0;
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    most = std::max(most, std::abs(b[i]));
    error = std::max(error, std::abs(a[i] - b[i]));
  }
  return most > 0.0 ? error / most : error;
}

}  // namespace

TEST_CASE("a fresh policy is the reference: KL exactly 0, ratios exactly 1") {
  const Decoder decoder = tiny_decoder({}, 3);
  PpoConfig config;
  config.max_new_tokens = 8;
  config.mini_batch = 4;
  PrefixStore store(decoder, 1, 1 << 20, working_pages(16, 32));
  Policy policy = Policy::fresh(decoder, last_layer(decoder), config, 7);
  const std::vector<Tokens> prompts = random_prompts(16, 32, 11);
  for (const double temperature : {0.7, 1.0}) {
    config.temperature = temperature;
    for (const Rollout& r : sample_rollouts(store, policy, prompts, config, 1, 0)) {
      for (std::size_t t = 0; t < r.response.size(); ++t) CHECK(r.log_probabilities[t] == r.reference_log_probabilities[t]);
    }
  }
  std::vector<Rollout> rollouts = sample_rollouts(store, policy, prompts, config, 1, 0);
  for (const Rollout& r : rollouts) {
    for (std::size_t t = 0; t < r.response.size(); ++t) {
      CHECK(r.log_probabilities[t] == r.reference_log_probabilities[t]);
      CHECK(kl_estimate(KlEstimator::k3, r.log_probabilities[t], r.reference_log_probabilities[t]) == 0.0);
    }
  }
  score_all(rollouts, 4);
  const PpoStatistics s = ppo_update(decoder, 1, policy, rollouts, config, 1, 0, 0.0);
  CHECK(s.kl == 0.0);
  CHECK(s.non_score_reward == 0.0);
  CHECK(s.first_ratio_error == 0.0);
  CHECK(s.first_ratio == 1.0);
  CHECK(s.mini_batches.size() == 16);
}

TEST_CASE("an untouched policy has ratio 1, and a policy that did not sample stops the run with a diagnosis") {
  const Decoder decoder = tiny_decoder({}, 3);
  PpoConfig config;
  config.max_new_tokens = 8;
  PrefixStore store(decoder, 1, 1 << 20, working_pages(16, 32));
  Policy policy = Policy::fresh(decoder, last_layer(decoder), config, 7);
  disturb(policy, 0.3);
  std::vector<Rollout> rollouts = sample_rollouts(store, policy, random_prompts(16, 32, 11), config, 1, 0);
  score_all(rollouts, 4);
  double distance = 0.0;
  for (const Rollout& r : rollouts) {
    for (std::size_t t = 0; t < r.response.size(); ++t)
      distance = std::max(distance, std::abs(r.log_probabilities[t] - r.reference_log_probabilities[t]));
  }
  CHECK(distance > 0.01);  // the adapter matters, or the test says nothing
  Policy other = Policy::fresh(decoder, last_layer(decoder), config, 7);
  const std::string before = hash_of(other.parameters());
  CHECK_THROWS_WITH_AS(ppo_update(decoder, 1, other, rollouts, config, 1, 0), doctest::Contains("off 1"), Error);
  CHECK(hash_of(other.parameters()) == before);
  CHECK(ppo_update(decoder, 1, policy, rollouts, config, 1, 0, 0.0).first_ratio_error == 0.0);
}

TEST_CASE("micro-batches do not change the gradient of a mini-batch") {
  const std::filesystem::path folder = oracle_root() / "rl" / "ppo_step_large_lr";
  for (const bool packed : {false, true}) {
    std::vector<std::vector<std::vector<double>>> gradients;
    for (const std::int64_t budget : {100000, 40, 1}) {  // 8 rollouts in 1, a few, and 8 passes
      PpoCase c = load_ppo_case(folder, packed ? DType::f32 : DType::f64, packed);
      score_reference(c.decoder, 0, c.rollouts, c.config);
      {
        const NoGradient no_gradient;
        assign_evaluation(c.rollouts, evaluate_responses(c.decoder, 0, &c.policy, pointers(c.rollouts), 1.0, false));
      }
      c.config.micro_batch_tokens = budget;
      c.config.mini_batch = 8;
      c.config.epochs = 2;
      c.config.learning_rate = 1e-3;
      ppo_update(c.decoder, 0, c.policy, c.rollouts, c.config, 0, 0, 1e-5, c.permutations);
      gradients.emplace_back();
      for (const NamedTensor& p : c.policy.parameters()) gradients.back().push_back(doubles(p.tensor.gradient()));
    }
    for (std::size_t k : {1, 2}) {
      for (std::size_t i = 0; i < gradients[0].size(); ++i)
        CHECK(relative_difference(gradients[k][i], gradients[0][i]) < (packed ? 1e-6 : 1e-12));
    }
  }
}

TEST_CASE("what else is in the batch changes no log-probability and no value") {
  const Decoder decoder = tiny_decoder({}, 3);
  PpoConfig config;
  config.max_new_tokens = 20;
  PrefixStore store(decoder, 1, 1 << 20, working_pages(16, 64));
  Policy policy = Policy::fresh(decoder, last_layer(decoder), config, 7);
  disturb(policy, 0.3);
  const std::vector<Rollout> rollouts = sample_rollouts(store, policy, random_prompts(16, 32, 12), config, 1, 0);
  const NoGradient no_gradient;
  const TokenEvaluation together = evaluate_responses(decoder, 1, &policy, pointers(rollouts), 1.0, true);
  std::vector<double> lps, values, entropy, sampled;
  for (const Rollout& r : rollouts) {
    const Rollout* one[] = {&r};
    const TokenEvaluation alone = evaluate_responses(decoder, 1, &policy, one, 1.0, true);
    for (const double x : doubles(alone.log_probability)) lps.push_back(x);
    for (const double x : doubles(alone.value)) values.push_back(x);
    for (const double x : doubles(alone.entropy)) entropy.push_back(x);
    sampled.insert(sampled.end(), r.log_probabilities.begin(), r.log_probabilities.end());
  }
  CHECK(doubles(together.log_probability) == lps);
  CHECK(doubles(together.value) == values);
  CHECK(doubles(together.entropy) == entropy);
  CHECK(sampled == lps);
}

TEST_CASE("end token: the score sits on it, nothing comes after it, and its absence costs the penalty") {
  const Decoder decoder = tiny_decoder({}, 5);
  PpoConfig config;
  config.max_new_tokens = 12;
  config.missing_end_penalty = 0.75;
  PrefixStore store(decoder, 1, 1 << 20, working_pages(64, 64));
  Policy policy = Policy::fresh(decoder, last_layer(decoder), config, 7);
  std::vector<std::int32_t> ends = {0, 1, 2, 3};  // frequent enough to see both cases
  std::vector<Rollout> rollouts = sample_rollouts(store, policy, random_prompts(64, 32, 13), config, 1, 0, ends);
  std::int64_t early = 0, missing = 0;
  for (const Rollout& r : rollouts) {
    const auto end = std::find_first_of(r.response.begin(), r.response.end(), ends.begin(), ends.end());
    CHECK(r.ended == (end != r.response.end()));
    if (r.ended) CHECK(end + 1 == r.response.end());
    CHECK(r.split_hidden.dim(0) == r.prompt_tokens + static_cast<std::int64_t>(r.response.size()) - 1);
    early += r.ended && r.response.size() < 12 ? 1 : 0;
    missing += r.ended ? 0 : 1;
    const Ragged rewards = token_rewards({r.log_probabilities}, {r.reference_log_probabilities}, {0.5}, 0.2, KlEstimator::k1);
    for (std::size_t t = 0; t < r.response.size(); ++t) CHECK(rewards[0][t] == (t + 1 == r.response.size() ? 0.5 : 0.0));
  }
  REQUIRE(early > 0);
  REQUIRE(missing > 0);
  for (Rollout& r : rollouts) r.score = 1.0;
  const PpoStatistics s = ppo_update(decoder, 1, policy, rollouts, config, 1, 0);
  CHECK(s.end_tokens == 64 - missing);
  CHECK(std::abs(s.score_mean - (1.0 - 0.75 * static_cast<double>(missing) / 64.0)) < 1e-12);
  CHECK(s.score_least == 0.25);
  CHECK(s.score_most == 1.0);
}

TEST_CASE("ratio guard: a mini-batch far from the sampling policy is counted and not learned from") {
  const Decoder decoder = tiny_decoder({}, 3);
  PpoConfig config;
  config.max_new_tokens = 6;
  PrefixStore store(decoder, 1, 1 << 20, working_pages(16, 32));
  Policy policy = Policy::fresh(decoder, last_layer(decoder), config, 7);
  std::vector<Rollout> rollouts = sample_rollouts(store, policy, random_prompts(16, 32, 11), config, 1, 0);
  score_all(rollouts, 4);
  for (Rollout& r : rollouts) {
    for (double& x : r.log_probabilities) x -= 3.0;  // ratios of e^3
  }
  const std::string before = hash_of(policy.parameters());
  const PpoStatistics s = ppo_update(decoder, 1, policy, rollouts, config, 1, 0, INFINITY);
  CHECK(s.skipped_mini_batches == 4);
  CHECK(s.ratio > 10.0);
  CHECK(hash_of(policy.parameters()) == before);
}

TEST_CASE("gradient clipping scales the step; the early stop leaves the epochs") {
  const Decoder decoder = tiny_decoder({}, 3);
  PpoConfig config;
  config.max_new_tokens = 6;
  config.mini_batch = 16;
  config.learning_rate = 1e-3;
  PrefixStore store(decoder, 1, 1 << 20, working_pages(16, 32));
  const auto update = [&](const PpoConfig& c, PpoStatistics& s) {
    Policy policy = Policy::fresh(decoder, last_layer(decoder), c, 7);
    std::vector<Rollout> rollouts = sample_rollouts(store, policy, random_prompts(16, 32, 11), c, 1, 0);
    score_all(rollouts, 4);
    s = ppo_update(decoder, 1, policy, rollouts, c, 1, 0);
    std::vector<double> second;  // Adam's second moment: the square of the scaled gradient
    for (const NamedTensor& t : policy.optimiser.state()) {
      if (t.name.find("second_moment") == std::string::npos) continue;
      for (const double x : doubles(t.tensor)) second.push_back(x);
    }
    return second;
  };
  config.epochs = 1;
  PpoStatistics plain, clipped;
  const std::vector<double> a = update(config, plain);
  config.gradient_clip = 0.25 * plain.gradient_norm;
  std::vector<double> b = update(config, clipped);
  CHECK(clipped.gradient_norm == plain.gradient_norm);  // reported as it was
  for (double& x : b) x *= 16.0;
  CHECK(relative_difference(b, a) < 1e-4);

  config.gradient_clip = 0.0;
  config.epochs = 6;
  config.early_stop = true;
  config.target_kl = 1e-12;
  PpoStatistics stopped;
  update(config, stopped);
  CHECK(stopped.stopped_early);
  CHECK(stopped.mini_batches.size() == 2);  // the first has KL 0
  config.target_kl = 1e6;
  update(config, stopped);
  CHECK(!stopped.stopped_early);
  CHECK(stopped.mini_batches.size() == 6);
}

TEST_CASE("rollouts that cannot be learned from are errors, not crashes") {
  const Decoder decoder = tiny_decoder({}, 3);
  PpoConfig config;
  config.max_new_tokens = 6;
  PrefixStore store(decoder, 1, 1 << 20, working_pages(16, 32));
  Policy policy = Policy::fresh(decoder, last_layer(decoder), config, 7);
  std::vector<Rollout> rollouts = sample_rollouts(store, policy, random_prompts(4, 32, 11), config, 1, 0);
  CHECK_THROWS_AS(ppo_update(decoder, 1, policy, std::span<const Rollout>(), config, 1, 0), UsageError);
  PpoConfig none = config;
  none.mini_batch = 0;
  CHECK_THROWS_AS(ppo_update(decoder, 1, policy, rollouts, none, 1, 0), UsageError);
  std::vector<Rollout> without = rollouts;
  without[2].reference_log_probabilities.clear();
  CHECK_THROWS_AS(ppo_update(decoder, 1, policy, without, config, 1, 0), UsageError);
  std::vector<Rollout> short_states = rollouts;
  short_states[1].prompt_tokens += 5;
  CHECK_THROWS_AS(ppo_update(decoder, 1, policy, short_states, config, 1, 0), UsageError);
  CHECK_THROWS_AS(score_reference(decoder, 1, short_states, config), UsageError);
  LoraConfig everywhere = last_layer(decoder);
  everywhere.first_layer = 0;
  Policy lower = Policy::fresh(decoder, everywhere, config, 7);
  CHECK_THROWS_AS(ppo_update(decoder, 1, lower, rollouts, config, 1, 0), UsageError);  // its first layer would be left out in silence
  rollouts[1].score = NAN;
  const std::string before = hash_of(policy.parameters());
  CHECK_THROWS_WITH_AS(ppo_update(decoder, 1, policy, rollouts, config, 1, 0), doctest::Contains("the mean score is nan"), Error);
  CHECK(hash_of(policy.parameters()) == before);
}

TEST_CASE("epoch permutations: of all rollouts, another one each epoch and step, a function of the seed") {
  for (const std::size_t n : {1, 2, 7, 128}) {
    std::vector<std::size_t> sorted = epoch_permutation(3, 5, 1, n), all(n);
    std::sort(sorted.begin(), sorted.end());
    std::iota(all.begin(), all.end(), std::size_t{0});
    CHECK(sorted == all);
  }
  CHECK(epoch_permutation(3, 5, 1, 128) == epoch_permutation(3, 5, 1, 128));
  CHECK(epoch_permutation(3, 5, 1, 128) != epoch_permutation(3, 5, 2, 128));
  CHECK(epoch_permutation(3, 5, 1, 128) != epoch_permutation(3, 6, 1, 128));
  CHECK(epoch_permutation(3, 5, 1, 128) != epoch_permutation(4, 5, 1, 128));
}
