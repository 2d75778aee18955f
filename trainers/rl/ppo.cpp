#include "trainers/rl/ppo.h"

#include <fmt/format.h>

#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/philox.h"
#include "engine/autograd/tape.h"
#include "engine/ops/elementwise.h"
#include "engine/ops/embedding.h"
#include "engine/ops/loss.h"
#include "engine/ops/matmul.h"
#include "engine/ops/reduce.h"

namespace expctr {

Policy Policy::fresh(const Decoder& decoder, const LoraConfig& lora, const PpoConfig& config, std::uint64_t seed) {
  const std::int64_t width = decoder.config().width;
  const double bound = 1.0 / std::sqrt(static_cast<double>(width));
  const RandomKey key = random_key(seed, "value head");
  std::vector<float> weight;
  const auto draw = [&](std::int64_t i) {
    const RandomBits bits = philox(key, {static_cast<std::uint32_t>(i), 0, 0, 0});
    return static_cast<float>(bound * (2.0 * uniform_double(bits.word[0], bits.word[1]) - 1.0));
  };
  for (std::int64_t i = 0; i < width; ++i) weight.push_back(draw(i));
  Tensor w = Tensor::of(weight, {1, width}, decoder.device()), b = Tensor::of(std::vector<float>{draw(width)}, {1}, decoder.device());
  w.require_gradient();
  b.require_gradient();
  return Policy(LoraAdapter(decoder.config(), lora, seed, DType::f32, decoder.device(), true), w, b, config);
}

namespace {

std::vector<NamedTensor> policy_parameters(const LoraAdapter& adapter, const Tensor& weight, const Tensor& bias) {
  std::vector<NamedTensor> parameters = adapter.parameters();
  parameters.push_back({"value_head.weight", weight});
  parameters.push_back({"value_head.bias", bias});
  return parameters;
}

}  // namespace

Policy::Policy(LoraAdapter a, Tensor weight, Tensor bias, const PpoConfig& config)
    : adapter(std::move(a)), value_weight(std::move(weight)), value_bias(std::move(bias)),
      kl(config.kl_coefficient, config.kl_adaptive, config.kl_target, config.kl_horizon),
      optimiser(policy_parameters(adapter, value_weight, value_bias), AdamOptions{config.learning_rate, 0.9, 0.999, 1e-8, 0.0}) {}

std::vector<NamedTensor> Policy::parameters() const { return policy_parameters(adapter, value_weight, value_bias); }

Tensor Policy::values(const Tensor& normalised) const {
  return add(matmul(normalised, value_weight, false, true), value_bias).reshape({normalised.dim(0)});
}

TokenEvaluation evaluate_responses(const Decoder& decoder, std::int64_t split, const Policy* policy, std::span<const Rollout* const> rollouts, double temperature, bool entropy) {
  if (policy != nullptr && policy->adapter.config().first_layer < split) {
    throw UsageError(fmt::format("PPO: the adapter starts at layer {}, the adapted blocks at {}", policy->adapter.config().first_layer, split), "split the model at lora.layers");
  }
  const std::int64_t width = decoder.config().width;
  const Device device = decoder.device();
  std::vector<std::int64_t> lengths;
  std::vector<std::int32_t> rows, targets;
  std::int64_t total = 0;
  for (const Rollout* rollout : rollouts) {
    const std::int64_t inputs = rollout->prompt_tokens + static_cast<std::int64_t>(rollout->response.size()) - 1;
    if (rollout->prompt_tokens < 1 || !rollout->split_hidden.defined() || rollout->split_hidden.dim(0) != inputs) {
      throw UsageError(fmt::format("PPO: a rollout of {} + {} tokens has states of shape {}", rollout->prompt_tokens, rollout->response.size(), rollout->split_hidden.shape().text()),
                       "generate with keep_states");
    }
    for (std::size_t t = 0; t < rollout->response.size(); ++t) {
      rows.push_back(static_cast<std::int32_t>(total + rollout->prompt_tokens - 1 + static_cast<std::int64_t>(t)));
      targets.push_back(rollout->response[t]);
    }
    lengths.push_back(rollout->split_hidden.dim(0));
    total += lengths.back();
  }
  Tensor hidden = Tensor::empty({total, width}, decoder.dtype(), device);
  std::int64_t at = 0;
  for (const Rollout* rollout : rollouts) {
    hidden.slice_rows(at, rollout->split_hidden.dim(0)).copy_from(rollout->split_hidden);
    at += rollout->split_hidden.dim(0);
  }
  const auto n = static_cast<std::int64_t>(rows.size());
  const Tensor states = decoder.blocks(split, decoder.config().layers, hidden, whole_sequences(lengths, device), AdapterPlan(policy == nullptr ? nullptr : &policy->adapter));
  const Tensor normalised = decoder.normalise(gather(states, Tensor::of(rows, {n}, device)));
  const TokenScores scores = decoder.score(normalised, Tensor::of(targets, {n}, device), temperature, entropy);
  return {scores.log_probability, policy == nullptr ? Tensor() : policy->values(normalised), scores.entropy};
}

namespace {

std::vector<double> host(const Tensor& tensor) {
  if (tensor.dtype() == DType::f64) return tensor.to_vector<double>();
  const std::vector<float> values = tensor.to_vector<float>();
  return {values.begin(), values.end()};
}

Tensor device_values(std::span<const double> values, DType dtype, Device device) {
  const Shape shape{static_cast<std::int64_t>(values.size())};
  return dtype == DType::f64 ? Tensor::of(values, shape, device) : Tensor::of(std::vector<float>(values.begin(), values.end()), shape, device);
}

// Consecutive rollouts whose tokens fit one pass.
std::vector<std::vector<std::size_t>> micro_batches(std::span<const Rollout> rollouts, std::span<const std::size_t> order, std::int64_t token_budget) {
  std::vector<std::vector<std::size_t>> batches;
  std::int64_t tokens = 0;
  for (const std::size_t i : order) {
    const std::int64_t own = rollouts[i].split_hidden.dim(0);
    if (batches.empty() || tokens + own > token_budget) {
      batches.emplace_back();
      tokens = 0;
    }
    batches.back().push_back(i);
    tokens += own;
  }
  return batches;
}

void require_finite(double value, const char* what, std::uint64_t step) {
  if (!std::isfinite(value)) {
    throw Error(fmt::format("PPO step {}: {} is {}", step, what, value), "the last checkpoint is good: resume from it with a smaller ppo.lr");
  }
}

}  // namespace

void score_reference(const Decoder& decoder, std::int64_t split, std::span<Rollout> rollouts, const PpoConfig& config) {
  const NoGradient no_gradient;
  std::vector<std::size_t> order(rollouts.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  for (const auto& batch : micro_batches(rollouts, order, config.micro_batch_tokens)) {
    std::vector<const Rollout*> chosen;
    for (const std::size_t i : batch) chosen.push_back(&rollouts[i]);
    const std::vector<double> scores = host(evaluate_responses(decoder, split, nullptr, chosen, config.temperature, false).log_probability);
    std::size_t at = 0;
    for (const std::size_t i : batch) {
      const std::size_t n = rollouts[i].response.size();
      rollouts[i].reference_log_probabilities.assign(scores.begin() + static_cast<std::ptrdiff_t>(at), scores.begin() + static_cast<std::ptrdiff_t>(at + n));
      at += n;
    }
  }
}

std::vector<std::size_t> epoch_permutation(std::uint64_t seed, std::uint64_t step, std::int64_t epoch, std::size_t count) {
  std::vector<std::size_t> order(count);
  std::iota(order.begin(), order.end(), std::size_t{0});
  const RandomKey key = random_key(seed, "ppo permutation");
  for (std::size_t i = count; i > 1; --i) {
    const RandomBits bits = philox(key, {static_cast<std::uint32_t>(step), static_cast<std::uint32_t>(epoch), static_cast<std::uint32_t>(i), 0});
    const std::uint64_t wide = (std::uint64_t{bits.word[0]} << 32) | bits.word[1];
    std::swap(order[i - 1], order[wide % i]);
  }
  return order;
}

PpoStatistics ppo_update(const Decoder& decoder, std::int64_t split, Policy& policy, std::span<const Rollout> rollouts, const PpoConfig& config, std::uint64_t seed, std::uint64_t step,
                         double first_ratio_tolerance, std::span<const std::vector<std::size_t>> permutations) {
  if (rollouts.empty()) throw UsageError("PPO: no rollouts", "sample at least one response a step");
  if (config.mini_batch < 1 || config.epochs < 1) throw UsageError("PPO: mini_batch and epochs are at least 1", "set ppo.mini_batch and ppo.epochs");
  for (const Rollout& r : rollouts) {
    const std::size_t n = r.response.size();
    if (n == 0 || r.log_probabilities.size() != n || r.reference_log_probabilities.size() != n || r.values.size() != n) {
      throw UsageError(fmt::format("PPO: a rollout of {} tokens has {} log-probabilities, {} of the reference and {} values", n, r.log_probabilities.size(),
                                   r.reference_log_probabilities.size(), r.values.size()),
                       "sample at least one token and call score_reference first");
    }
  }
  PpoStatistics s;
  const auto count = static_cast<double>(rollouts.size());
  Ragged old_lp, reference, values, kl;
  std::vector<double> scores;
  std::size_t all_tokens = 0;
  for (const Rollout& r : rollouts) {
    old_lp.push_back(r.log_probabilities);
    reference.push_back(r.reference_log_probabilities);
    values.push_back(r.values);
    scores.push_back(r.score - (r.ended ? 0.0 : config.missing_end_penalty));
    kl.emplace_back();
    for (std::size_t t = 0; t < r.response.size(); ++t) {
      kl.back().push_back(kl_estimate(config.kl_estimator, r.log_probabilities[t], r.reference_log_probabilities[t]));
      s.entropy -= r.log_probabilities[t] / count;
    }
    all_tokens += r.response.size();
    s.end_tokens += r.ended ? 1 : 0;
  }
  s.score_mean = std::accumulate(scores.begin(), scores.end(), 0.0) / count;
  for (const double score : scores) s.score_deviation += (score - s.score_mean) * (score - s.score_mean);
  s.score_deviation = scores.size() > 1 ? std::sqrt(s.score_deviation / (count - 1.0)) : 0.0;
  s.score_least = *std::min_element(scores.begin(), scores.end());
  s.score_most = *std::max_element(scores.begin(), scores.end());
  s.kl = mean_sequence_sum(kl);
  s.kl_coefficient = policy.kl.coefficient();
  s.non_score_reward = -s.kl_coefficient * s.kl;
  s.response_length = static_cast<double>(all_tokens) / count;
  require_finite(s.score_mean, "the mean score", step);
  require_finite(s.kl, "the KL divergence", step);

  Ragged rewards = token_rewards(old_lp, reference, scores, s.kl_coefficient, config.kl_estimator);
  if (config.whiten_rewards) rewards = whiten(rewards, {false, config.whiten_unbiased});
  const Advantages computed = generalised_advantages(rewards, values, config.gamma, config.lambda);
  const Ragged advantages = config.whiten_advantages ? whiten(computed.advantages, {true, config.whiten_unbiased}) : computed.advantages;

  const DType dtype = decoder.dtype();
  const Device device = decoder.device();
  std::vector<double> first_values, first_returns;  // of the first epoch
  for (std::int64_t epoch = 0; epoch < config.epochs && !s.stopped_early; ++epoch) {
    const std::vector<std::size_t> order =
        permutations.empty() ? epoch_permutation(seed, step, epoch, rollouts.size()) : permutations[static_cast<std::size_t>(epoch)];
    for (std::size_t begin = 0; begin < order.size(); begin += static_cast<std::size_t>(config.mini_batch)) {
      const std::size_t end = std::min(order.size(), begin + static_cast<std::size_t>(config.mini_batch));
      std::size_t tokens = 0;
      for (std::size_t i = begin; i < end; ++i) tokens += rollouts[order[i]].response.size();
      const double per_token = 1.0 / static_cast<double>(tokens);
      policy.optimiser.clear_gradients();
      double ratio_sum = 0.0, approximate_kl = 0.0, policy_sum = 0.0, value_sum = 0.0, clipped_sum = 0.0, value_clipped_sum = 0.0, ratio_error = 0.0;
      for (const auto& batch : micro_batches(rollouts, std::span(order).subspan(begin, end - begin), config.micro_batch_tokens)) {
        std::vector<const Rollout*> chosen;
        std::vector<double> lp, adv, ret, val;
        for (const std::size_t i : batch) {
          chosen.push_back(&rollouts[i]);
          lp.insert(lp.end(), old_lp[i].begin(), old_lp[i].end());
          adv.insert(adv.end(), advantages[i].begin(), advantages[i].end());
          ret.insert(ret.end(), computed.returns[i].begin(), computed.returns[i].end());
          val.insert(val.end(), values[i].begin(), values[i].end());
        }
        Tape tape;
        const TokenEvaluation now = evaluate_responses(decoder, split, &policy, chosen, config.temperature, false);
        const PolicyLoss surrogate = policy_loss(now.log_probability, device_values(lp, dtype, device), device_values(adv, dtype, device), config.clip);
        const Tensor error = value_loss(now.value, device_values(val, dtype, device), device_values(ret, dtype, device), config.value_clip);
        const Tensor loss = add(sum_all(surrogate.loss, per_token), sum_all(error, config.value_coefficient * per_token));
        const std::vector<double> new_lp = host(now.log_probability), new_value = host(now.value), pg = host(surrogate.loss), vl = host(error), clipped = host(surrogate.clipped);
        for (std::size_t t = 0; t < new_lp.size(); ++t) {
          const double difference = new_lp[t] - lp[t], ratio = std::exp(difference);
          ratio_sum += ratio;
          ratio_error = std::max(ratio_error, std::abs(ratio - 1.0));
          approximate_kl += 0.5 * difference * difference;
          policy_sum += pg[t];
          value_sum += vl[t];
          clipped_sum += clipped[t];
          const double near_old = std::clamp(new_value[t], val[t] - config.value_clip, val[t] + config.value_clip);
          value_clipped_sum += std::abs(near_old - ret[t]) > std::abs(new_value[t] - ret[t]) ? 1.0 : 0.0;
        }
        if (epoch == 0) {
          first_values.insert(first_values.end(), new_value.begin(), new_value.end());
          first_returns.insert(first_returns.end(), ret.begin(), ret.end());
        }
        require_finite(policy_sum, "the policy loss", step);
        require_finite(value_sum, "the value loss", step);
        tape.backward(loss);
      }
      const double ratio = ratio_sum * per_token;
      if (s.mini_batches.empty()) {
        s.first_ratio = ratio;
        s.first_ratio_error = ratio_error;
        if (!(ratio_error <= first_ratio_tolerance)) {
          throw Error(fmt::format("PPO step {}: ratios of an untouched policy are off 1 by {:.3g}", step, ratio_error),
                      "sampling and training must run the same forward: check that llm.compute and the adapter are the same for both");
        }
      }
      MiniBatchRecord record;
      record.policy_loss = policy_sum * per_token;
      record.value_loss = value_sum * per_token;
      record.loss = record.policy_loss + config.value_coefficient * record.value_loss;
      record.clip_fraction = clipped_sum * per_token;
      record.value_clip_fraction = value_clipped_sum * per_token;
      record.ratio = ratio;
      record.approximate_kl = approximate_kl * per_token;
      record.skipped = config.ratio_guard > 0.0 && ratio > config.ratio_guard;
      if (record.skipped) {
        ++s.skipped_mini_batches;
        s.mini_batches.push_back(record);
        continue;
      }
      record.gradient_norm = gradient_norm(policy.optimiser.parameters());
      require_finite(record.gradient_norm, "the gradient norm", step);
      s.gradient_norm = record.gradient_norm;
      s.mini_batches.push_back(record);
      policy.optimiser.step(config.learning_rate, clip_factor(record.gradient_norm, config.gradient_clip));
      if (config.early_stop && record.approximate_kl > 1.5 * config.target_kl) {
        s.stopped_early = true;
        break;
      }
    }
  }
  const double share = 1.0 / static_cast<double>(s.mini_batches.size());
  s.ratio = 0.0;
  for (const MiniBatchRecord& record : s.mini_batches) {
    s.ratio += record.ratio * share;
    s.approximate_kl += record.approximate_kl * share;
    s.clip_fraction += record.clip_fraction * share;
    s.policy_loss += record.policy_loss * share;
    s.value_loss += record.value_loss * share;
  }
  s.explained_variance = explained_variance(first_values, first_returns);
  policy.kl.update(s.kl, static_cast<std::int64_t>(rollouts.size()));
  return s;
}

}  // namespace expctr
