#include "trainers/expctr/policies.h"

#include <fmt/format.h>

#include <chrono>

#include "base/error.h"
#include "base/hash.h"
#include "data/ctr_batches.h"
#include "engine/autograd/tape.h"
#include "engine/io/durable_file.h"
#include "engine/io/phase.h"
#include "engine/io/safetensors.h"
#include "engine/log/logger.h"
#include "engine/log/process.h"
#include "engine/log/progress.h"
#include "inference/generator.h"
#include "inference/metrics/text_quality.h"
#include "models/parameters.h"
#include "models/peft.h"
#include "trainers/rl/reward.h"

namespace expctr {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Streams of random numbers of different stages and folds never meet.
std::uint64_t policy_seed(std::uint64_t seed, std::string_view stage, int fold) { return splitmix64(seed ^ fnv1a(stage)) + static_cast<std::uint64_t>(fold); }

// The pairs of step `step`: batches of a fresh permutation of the fold's pairs per pass, a function of seed and step alone.
std::vector<const TextPair*> pairs_of_step(const std::vector<const TextPair*>& pairs, std::uint64_t seed, std::int64_t step, std::int64_t batch) {
  const auto n = static_cast<std::int64_t>(pairs.size());
  std::vector<const TextPair*> chosen;
  std::optional<BatchOrder> order;
  for (std::int64_t i = step * batch; i < (step + 1) * batch; ++i) {
    if (!order || i % n == 0) order.emplace(seed, static_cast<std::uint32_t>(i / n), n);
    chosen.push_back(pairs[static_cast<std::size_t>(order->indices()[static_cast<std::size_t>(i % n)])]);
  }
  return chosen;
}

std::vector<Rollout> roll_out(ExpctrSession& session, const Policy& policy, std::span<const TextPair* const> pairs, std::uint64_t seed, std::int64_t step) {
  const PpoConfig& ppo = session.config().ppo;
  std::vector<GenerationRequest> requests;
  // Random numbers go by the pair; where a fold has fewer pairs than the batch, by how often the pair came before as well.
  std::map<std::int32_t, std::uint32_t> occurrences;
  for (const TextPair* pair : pairs) {
    const std::uint32_t sample = static_cast<std::uint32_t>(pair->pair.row) + 0x9E3779B9u * occurrences[pair->pair.row]++;
    requests.push_back({pair->policy_prompt, sample});
  }
  GenerationOptions options;
  options.max_new_tokens = ppo.max_new_tokens;
  options.sampling = {ppo.temperature, ppo.top_k, ppo.top_p, 0.0};
  options.seed = seed;
  options.step = static_cast<std::uint32_t>(step);
  options.stop_tokens = session.llm().end_tokens();
  options.batch = std::max<std::int64_t>(ppo.batch, 1);
  options.keep_states = true;
  std::vector<Generation> generations = generate(session.store(), &policy.adapter, requests, options);
  std::vector<Rollout> rollouts;
  const NoGradient no_gradient;
  for (std::size_t i = 0; i < generations.size(); ++i) {
    Generation& g = generations[i];
    Rollout r;
    r.prompt_tokens = static_cast<std::int64_t>(requests[i].prompt.size());
    r.log_probabilities.assign(g.log_probabilities.begin(), g.log_probabilities.end());
    const std::vector<float> values = policy.values(g.final_hidden).to_vector<float>();
    r.values.assign(values.begin(), values.end());
    r.response = std::move(g.tokens);
    r.ended = g.ended;
    r.split_hidden = g.split_hidden;
    rollouts.push_back(std::move(r));
  }
  return rollouts;
}

void save_checkpoint(ExpctrSession& session, const std::string& stage, int fold, std::int64_t step, const Policy& policy) {
  session.run().sync_log();
  CheckpointWriter writer(session.run().checkpoints(stage), fmt::format("policy{}-step{}", fold, step));
  write_tensors(writer, "policy/", policy.parameters());
  write_tensors(writer, "", policy.optimiser.state());
  writer.set_state({{"fold", fold}, {"step", step}, {"kl_coefficient", policy.kl.coefficient()}, {"adam_steps", policy.optimiser.steps()}});
  writer.set_config(session.config().resolved);
  writer.commit();
}

}  // namespace

Policy train_policy(ExpctrSession& session, const std::string& stage, int fold, const std::optional<Checkpoint>& checkpoint, const std::function<Policy()>& initial,
                    const PolicyReward& reward) {
  const PpoConfig& ppo = session.config().ppo;
  const Decoder& decoder = session.llm().decoder();
  const std::int64_t split = session.store().split();
  std::vector<const TextPair*> pairs;
  for (const TextPair& pair : session.train_pairs()) {
    if (pair.pair.fold == fold) pairs.push_back(&pair);
  }
  if (pairs.empty()) throw UsageError(fmt::format("{}: fold {} has no training pairs with text", stage, fold), "raise pairs.train");

  Policy policy = initial();
  std::int64_t step = 0;
  if (checkpoint && checkpoint->state().value("fold", -1) == fold) {
    read_tensors(*checkpoint, "policy/", policy.parameters());
    read_tensors(*checkpoint, "", policy.optimiser.state());
    policy.kl.set_coefficient(checkpoint->state().at("kl_coefficient"));
    policy.optimiser.set_steps(checkpoint->state().at("adam_steps"));
    step = checkpoint->state().at("step");
  }
  const std::uint64_t seed = policy_seed(session.config().seed, stage, fold);
  // One setting of compute for sampling and training: on the CPU a row's products are the same bits in any batch, so the ratios of an untouched policy are 1 to rounding.
  const double first_ratio_tolerance = session.device().is_cuda() ? 2e-2 : 1e-5;
  Progress progress(fmt::format("{}  policy {}", stage, fold), "step", ppo.steps, step);
  for (; step < ppo.steps; ++step) {
    const auto begin = Clock::now();
    phase("rollout");
    const std::vector<const TextPair*> batch = pairs_of_step(pairs, seed, step, ppo.batch);
    std::vector<Rollout> rollouts = roll_out(session, policy, batch, seed, step);
    const double rollout_seconds = seconds_since(begin);

    const auto score_begin = Clock::now();
    phase("scoring");
    std::vector<std::string> texts;
    for (const Rollout& rollout : rollouts) texts.push_back(session.llm().answer_text(rollout.response));
    const std::vector<RewardTerms> rewards = reward(batch, texts);
    double lc = 0.0, ic = 0.0;
    for (std::size_t i = 0; i < rollouts.size(); ++i) {
      rollouts[i].score = rewards[i].total;
      lc += rewards[i].lc / static_cast<double>(rollouts.size());
      ic += rewards[i].ic / static_cast<double>(rollouts.size());
    }
    score_reference(decoder, split, rollouts, ppo);
    const double score_seconds = seconds_since(score_begin);

    const auto update_begin = Clock::now();
    phase("update");
    const PpoStatistics s = ppo_update(decoder, split, policy, rollouts, ppo, seed, static_cast<std::uint64_t>(step), first_ratio_tolerance);
    const double update_seconds = seconds_since(update_begin);

    nlohmann::json samples = nlohmann::json::array();
    for (std::size_t i = 0; i < std::min<std::size_t>(3, texts.size()); ++i) {
      samples.push_back({{"target", batch[i]->context.target}, {"text", texts[i]}, {"reward_lc", rewards[i].lc}, {"reward_ic", rewards[i].ic}});
    }
    std::vector<std::int32_t> rows;
    for (const TextPair* pair : batch) rows.push_back(pair->pair.row);
    session.run().log(fold * ppo.steps + step + 1,
                      {{"fold", fold}, {"policy_step", step + 1}, {"rows", rows}, {"objective/kl", s.kl}, {"objective/scores", s.score_mean}, {"objective/scores_std", s.score_deviation},
                       {"objective/scores_min", s.score_least}, {"objective/scores_max", s.score_most}, {"objective/entropy", s.entropy},
                       {"objective/non_score_reward", s.non_score_reward}, {"objective/rlhf_reward", s.non_score_reward + s.score_mean}, {"reward/lc", lc}, {"reward/ic", ic},
                       {"policy/approxkl_avg", s.approximate_kl}, {"policy/clipfrac_avg", s.clip_fraction}, {"loss/policy_avg", s.policy_loss}, {"loss/value_avg", s.value_loss},
                       {"val/explained_variance", s.explained_variance}, {"val/ratio", s.first_ratio}, {"val/ratio_error", s.first_ratio_error}, {"val/ratio_avg", s.ratio},
                       {"val/num_eos_tokens", s.end_tokens}, {"kl_coef", s.kl_coefficient}, {"skipped_mini_batches", s.skipped_mini_batches},
                       {"tokens/responses_len_mean", s.response_length}, {"grad_norm", s.gradient_norm}, {"text/distinct_1", distinct_n(texts, 1)}, {"text/distinct_2", distinct_n(texts, 2)},
                       {"text/usr", unique_text_ratio(texts)}, {"samples", samples}, {"time/rollout", rollout_seconds}, {"time/score", score_seconds}, {"time/update", update_seconds}});
    const std::int64_t done = step + 1;
    if (done % session.config().checkpoint_every == 0 || done == ppo.steps || interrupt_requested()) save_checkpoint(session, stage, fold, done, policy);
    session.stop_if_interrupted(stage);
    progress.update(done, fmt::format("reward {:+.3f}  kl {:.2f}  ratio {:.3f}  len {:.1f}", s.score_mean, s.kl, s.first_ratio, s.response_length));
  }
  return policy;
}

std::vector<Policy> train_policies(ExpctrSession& session, const std::string& stage, const std::function<Policy(int fold)>& initial, const PolicyReward& reward) {
  const int folds = session.config().pairs.folds.folds;
  const std::optional<Checkpoint> checkpoint = session.resume_point(stage, stage);
  if (checkpoint) {
    session.run().begin_log(stage, checkpoint->state().at("fold").get<std::int64_t>() * session.config().ppo.steps + checkpoint->state().at("step").get<std::int64_t>());
  } else {
    session.run().begin_log(stage);
  }
  std::vector<Policy> policies;
  for (int fold = 0; fold < folds; ++fold) {
    if (checkpoint && fold < checkpoint->state().at("fold").get<int>()) {
      policies.push_back(load_policy(session, stage, fold));
      continue;
    }
    policies.push_back(train_policy(session, stage, fold, checkpoint, [&] { return initial(fold); }, reward));
    save_policy(session, stage, fold, policies.back());
  }
  return policies;
}

namespace {

std::filesystem::path policy_folder(const ExpctrSession& session, const std::string& stage, int fold) { return session.stage_folder(stage) / fmt::format("policy{}", fold); }

}  // namespace

void save_policy(ExpctrSession& session, const std::string& stage, int fold, const Policy& policy) {
  const std::filesystem::path folder = policy_folder(session, stage, fold);
  const PhaseScope scope("checkpoint");
  save_peft(folder, policy.adapter, session.llm().name(), session.base_hash());
  const Tensor weight = policy.value_weight.detached().to(cpu_device), bias = policy.value_bias.detached().to(cpu_device);
  const TensorBytes head[] = {{"value_head.weight", DType::f32, {1, weight.dim(1)}, weight.data()}, {"value_head.bias", DType::f32, {1}, bias.data()}};
  write_file_atomically(folder / "value_head.safetensors", serialise_safetensors(head));
  const nlohmann::json state = {{"fold", fold}, {"kl_coefficient", policy.kl.coefficient()}, {"hash", hash_of(policy.parameters())}, {"base_hash", session.base_hash()}};
  write_file_atomically(folder / "policy.json", state.dump(2) + "\n");
}

Policy load_policy(ExpctrSession& session, const std::string& stage, int fold) {
  const std::filesystem::path folder = policy_folder(session, stage, fold);
  std::ifstream file(folder / "policy.json");
  nlohmann::json state;
  try {
    state = nlohmann::json::parse(file);
  } catch (const nlohmann::json::exception&) {
    throw InputError(fmt::format("{}: cannot be read", (folder / "policy.json").string()), fmt::format("run the stage again: expctr_engine run {} --resume never", stage));
  }
  LoraAdapter adapter = load_peft(folder, session.llm().decoder().config(), DType::f32, session.device(), true);
  const SafetensorsFile head = SafetensorsFile::open(folder / "value_head.safetensors");
  const auto tensor = [&](const char* name, const Shape& shape) {
    const TensorInfo& info = head.required_tensor(name);
    if (!(Shape(info.shape) == shape) || info.dtype != DType::f32) throw InputError(fmt::format("{}: {} has another shape", head.path(), name), "the file is damaged: run the stage again");
    Tensor t = Tensor::of_bytes({info.data, info.bytes}, shape, DType::f32, session.device());
    t.require_gradient();
    return t;
  };
  Policy policy(std::move(adapter), tensor("value_head.weight", {1, session.llm().decoder().config().width}), tensor("value_head.bias", {1}), session.config().ppo);
  policy.kl.set_coefficient(state.value("kl_coefficient", session.config().ppo.kl_coefficient));
  if (hash_of(policy.parameters()) != state.value("hash", "")) {
    throw InputError(fmt::format("{}: the policy is not the one that was saved", folder.string()), fmt::format("run the stage again: expctr_engine run {} --resume never", stage));
  }
  return policy;
}

PolicyReward lc_reward_of(ExpctrSession& session) {
  return [&session](std::span<const TextPair* const> pairs, std::span<const std::string> texts) {
    const RewardConfig& config = session.config().reward;
    const std::vector<double> base = session.base_margins(pairs), with = session.margins(pairs, texts);
    std::vector<RewardTerms> rewards;
    for (std::size_t i = 0; i < pairs.size(); ++i) {
      const double lc = lc_reward(config.lc_form, pairs[i]->pair.label, with[i], base[i], config.lc_clip);
      rewards.push_back({lc, 0.0, lc});
    }
    return rewards;
  };
}

}  // namespace expctr
