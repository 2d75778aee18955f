// One PPO step of a LoRA policy: rollout, reference, update. Batch 16, prompts of 160 tokens, 48 new ones, mini-batches of 4, 4 epochs,
// rank 8 on q and v.
#include "trainers/rl/ppo.h"

#include <fmt/format.h>

#include "base/error.h"
#include "bench/suite/language.h"
#include "bench/suite/measure.h"
#include "engine/autograd/tape.h"
#include "inference/generator.h"

namespace expctr {

namespace {

constexpr std::int64_t batch = 16, prompt_tokens = 160, new_tokens = 48;

// Step `number` of the policy; returns what the update says.
PpoStatistics ppo_step(const Decoder& decoder, Policy& policy, const PpoConfig& config, std::uint32_t number) {
  const std::int64_t split = policy.adapter.config().first_layer;
  PrefixStore store(decoder, split, 0, bench_pages(batch, prompt_tokens + new_tokens));
  std::vector<GenerationRequest> requests;
  for (std::int64_t i = 0; i < batch; ++i)
    requests.push_back(
        {random_ids(fmt::format("prompt {}", i), prompt_tokens, decoder.config().vocabulary), static_cast<std::uint32_t>(i)});
  GenerationOptions generation;
  generation.max_new_tokens = new_tokens;
  generation.batch = batch;
  generation.step = number;
  generation.keep_states = true;
  generation.remember_prompts = false;
  std::vector<Generation> generations = generate(store, &policy.adapter, requests, generation);
  std::vector<Rollout> rollouts;
  for (std::size_t i = 0; i < generations.size(); ++i) {
    const NoGradient off;
    Rollout rollout;
    rollout.prompt_tokens = prompt_tokens;
    rollout.response = generations[i].tokens;
    rollout.split_hidden = generations[i].split_hidden;
    rollout.log_probabilities.assign(generations[i].log_probabilities.begin(), generations[i].log_probabilities.end());
    const std::vector<float> values = policy.values(generations[i].final_hidden).to(cpu_device).to_vector<float>();
    rollout.values.assign(values.begin(), values.end());
    rollout.score = static_cast<double>(7 * i % 5) / 4 - 0.5;
    rollouts.push_back(std::move(rollout));
  }
  score_reference(decoder, split, rollouts, config);
  return ppo_update(decoder, split, policy, rollouts, config, 0, number, decoder.device().is_cuda() ? 5e-2 : 1e-5);
}

ReadyBench prepare_ppo(const BenchOptions& options, std::int64_t adapted_layers) {
  const std::shared_ptr<const Decoder> decoder = load_bench_decoder(options);
  const ModelWork model = count_model(*decoder);
  const std::int64_t layers = decoder->config().layers;
  const std::int64_t adapted = adapted_layers == 0 ? layers : std::min(adapted_layers, layers);
  PpoConfig config;
  config.batch = batch;
  config.mini_batch = 4;
  config.max_new_tokens = new_tokens;
  LoraConfig lora;
  lora.first_layer = layers - adapted;
  lora.last_layer = layers;
  const auto policy = std::make_shared<Policy>(Policy::fresh(*decoder, lora, config, 0));
  const auto number = std::make_shared<std::uint32_t>(0);
  // The update itself checks that the first ratios are 1: what sampled is what trains. That is the check before the measurement.
  const auto once = [=, device = options.device]() -> Elapsed {
    const StopWatch watch;
    ppo_step(*decoder, *policy, config, (*number)++);
    synchronise(device);
    return watch.elapsed();
  };
  // Rollout: all blocks once; reference: the adapted ones; update: four epochs of these, forward and the gradient of activations. Logits of
  // responses only.
  const double upper = static_cast<double>(adapted) * model.layer_flops, tokens = batch * (prompt_tokens + new_tokens),
               answers = batch * new_tokens;
  const double passes = 1 + 2.0 * static_cast<double>(config.epochs);
  return {{.shape = fmt::format("{}x{}x{}", batch, prompt_tokens, new_tokens),
           .mode = model.mode,
           .dtype = model.dtype,
           .amount = batch,
           .unit = "samples/s",
           .flops = tokens * (model.body_flops + passes * upper) + answers * (1 + passes) * model.head_flops},
          once};
}

}  // namespace

std::vector<Bench> ppo_benches() {
  return {{"ppo/step_16x160x48", "ppo", [](const BenchOptions& options) { return prepare_ppo(options, 0); }},
          {"ppo/step_16x160x48_last6", "ppo", [](const BenchOptions& options) { return prepare_ppo(options, 6); }}};
}

}  // namespace expctr
