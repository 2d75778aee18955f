// PPO and the rewards of ExpCTR against TRL, transformers and torch in float64 (reference values, family rl).
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cmath>
#include <map>
#include <set>

#include "engine/autograd/tape.h"
#include "engine/ops/elementwise.h"
#include "engine/ops/loss.h"
#include "engine/ops/reduce.h"
#include "models/parameters.h"
#include "tests/rl/ppo_case.h"
#include "tests/support/oracle.h"
#include "tests/support/paths.h"
#include "trainers/rl/ppo.h"
#include "trainers/rl/reward.h"

using namespace expctr;
using namespace expctr::test;

namespace {

std::vector<double> flat(const Ragged& rows) {
  std::vector<double> result;
  for (const auto& row : rows) result.insert(result.end(), row.begin(), row.end());
  return result;
}

double at(const nlohmann::json& json, const char* key) { return json.at(key).get<double>(); }

// Estimators, rewards, advantages and whitening are float64 on the host; the losses are ops, in both floating dtypes.
void check_functions(const std::filesystem::path& folder) {
  const SafetensorsFile file = SafetensorsFile::open(folder / "tensors.safetensors");
  const nlohmann::json hyper = read_json(folder / "case.json").at("hyper_parameters");
  const Shape shape = shape_of(file, "in.mask");
  const std::vector<double> mask = doubles(file, "in.mask");
  std::vector<std::int64_t> lengths;
  for (std::int64_t b = 0; b < shape[0]; ++b) {
    std::int64_t n = 0;
    for (std::int64_t t = 0; t < shape[1]; ++t) n += mask[static_cast<std::size_t>(b * shape[1] + t)] != 0.0 ? 1 : 0;
    lengths.push_back(n);
  }
  const auto ragged = [&](const std::string& name) { return ragged_rows(doubles(file, name), lengths, shape[1]); };
  const auto reference = [&](const std::string& name) { return flat(ragged(name)); };
  const KlEstimator estimator = parse_kl_estimator(hyper.at("kl_estimator").get<std::string>());

  OracleReport host(folder, "host f64");
  const Ragged old = ragged("in.logprob_old"), base = ragged("in.logprob_reference"), values = ragged("in.value_old");
  const std::pair<const char*, KlEstimator> estimators[] = {
      {"k1", KlEstimator::k1}, {"abs", KlEstimator::abs}, {"k2", KlEstimator::k2}, {"k3", KlEstimator::k3}};
  for (const auto& [name, kind] : estimators) {
    Ragged kl = old;
    for (std::size_t i = 0; i < kl.size(); ++i) {
      for (std::size_t t = 0; t < kl[i].size(); ++t) kl[i][t] = kl_estimate(kind, old[i][t], base[i][t]);
    }
    host.compare(fmt::format("kl {}", name), flat(kl), reference(fmt::format("out.kl_{}", name)), 1e-12);
    if (kind == KlEstimator::k1)
      host.compare("sequence KL", std::vector<double>{mean_sequence_sum(kl)}, doubles(file, "out.kl_sequence_sum_mean"), 1e-12);
  }
  Ragged negative = old;
  for (auto& row : negative) {
    for (double& v : row) v = -v;
  }
  host.compare("entropy", std::vector<double>{mean_sequence_sum(negative)}, doubles(file, "out.entropy_estimate"), 1e-12);
  const Ragged rewards = token_rewards(old, base, doubles(file, "in.score"), at(hyper, "beta"), estimator);
  host.compare("rewards", flat(rewards), reference("out.rewards"), 1e-12);
  host.compare("rewards whitened, mean kept", flat(whiten(rewards, {false, true})), reference("out.rewards_whitened_keep_mean"), 1e-12);
  const Advantages computed = generalised_advantages(rewards, values, at(hyper, "gamma"), at(hyper, "lam"));
  host.compare("advantages", flat(computed.advantages), reference("out.advantages"), 1e-12);
  host.compare("returns", flat(computed.returns), reference("out.returns"), 1e-12);
  const std::vector<double> whitened = flat(whiten(computed.advantages));
  host.compare("advantages whitened", whitened, reference("out.advantages_whitened"), 1e-12);
  host.compare("advantages whitened, biased", flat(whiten(computed.advantages, {true, false})), reference("out.advantages_whitened_biased"),
               1e-12);
  host.compare("explained variance", std::vector<double>{explained_variance(reference("param.value_new"), flat(computed.returns))},
               doubles(file, "out.explained_variance"), 1e-12);
  CHECK_MESSAGE(host.finish(), folder.string());

  const auto n = static_cast<std::int64_t>(whitened.size());
  for (const DType dtype : {DType::f64, DType::f32}) {
    const double tolerance = dtype == DType::f64 ? 1e-12 : 1e-5;
    OracleReport report(folder, dtype == DType::f64 ? "losses f64" : "losses f32");
    const auto tensor = [&](const std::vector<double>& v) { return tensor_of(v, {n}, dtype); };
    Tensor log_probability = tensor(reference("param.logprob_new")), value = tensor(reference("param.value_new"));
    log_probability.require_gradient();
    value.require_gradient();
    Tape tape;
    const double share = 1.0 / static_cast<double>(n);
    const PolicyLoss surrogate = policy_loss(log_probability, tensor(flat(old)), tensor(whitened), at(hyper, "clip"));
    const Tensor error = value_loss(value, tensor(flat(values)), tensor(flat(computed.returns)), at(hyper, "value_clip"));
    const Tensor policy_mean = sum_all(surrogate.loss, share), value_mean = sum_all(error, share);
    const Tensor loss = add(policy_mean, affine(value_mean, at(hyper, "vf_coef")));
    report.compare("policy loss", doubles(policy_mean), doubles(file, "out.policy_loss"), tolerance);
    report.compare("clip fraction", doubles(sum_all(surrogate.clipped, share)), doubles(file, "out.clip_fraction"), tolerance);
    report.compare("value loss", doubles(value_mean), doubles(file, "out.value_loss"), tolerance);
    report.compare("loss", doubles(loss), doubles(file, "loss"), tolerance);
    tape.backward(loss);
    report.compare("gradient of the log-probabilities", doubles(log_probability.gradient()), reference("grad.param.logprob_new"),
                   tolerance);
    report.compare("gradient of the values", doubles(value.gradient()), reference("grad.param.value_new"), tolerance);
    CHECK_MESSAGE(report.finish(), folder.string());
  }
}

void check_controller(const std::filesystem::path& folder) {
  const SafetensorsFile file = SafetensorsFile::open(folder / "tensors.safetensors");
  const nlohmann::json hyper = read_json(folder / "case.json").at("hyper_parameters");
  KlController controller(at(hyper, "beta"), true, at(hyper, "target"), at(hyper, "horizon"));
  const std::vector<double> kl = doubles(file, "in.kl");
  const std::vector<std::int32_t> samples = integers(file, "in.samples");
  std::vector<double> beta;
  for (std::size_t i = 0; i < kl.size(); ++i) {
    controller.update(kl[i], samples[i]);
    beta.push_back(controller.coefficient());
  }
  OracleReport report(folder);
  report.compare("beta", beta, doubles(file, "out.beta"), 1e-14);
  CHECK_MESSAGE(report.finish(), folder.string());
}

void check_rewards(const std::filesystem::path& folder) {
  const SafetensorsFile file = SafetensorsFile::open(folder / "tensors.safetensors");
  const nlohmann::json hyper = read_json(folder / "case.json").at("hyper_parameters");
  const double clip = at(hyper, "clip");
  const auto in = [&](const char* name) { return doubles(file, std::string("in.") + name); };
  const std::vector<double> yes = in("logit_yes"), no = in("logit_no"), base_yes = in("base_yes"), base_no = in("base_no"),
                            p_ic = in("p_ic"), p_id = in("p_id"), p_zero = in("p_ic_zero");
  const std::vector<std::int32_t> label = integers(file, "in.label");
  std::map<std::string, std::vector<double>> got;
  for (std::size_t i = 0; i < label.size(); ++i) {
    const double margin = yes[i] - no[i], base = base_yes[i] - base_no[i];
    const auto lc = [&](LcForm form, double limit) { return lc_reward(form, label[i], margin, base, limit); };
    const auto ic = [&](IcForm form) { return ic_reward(form, label[i], p_ic[i], p_zero[i], p_id[i], clip); };
    got["p_lc"].push_back(std::exp(log_sigmoid(margin)));
    got["p_lc_base"].push_back(std::exp(log_sigmoid(base)));
    got["lc_delta"].push_back(lc(LcForm::delta, clip));
    got["lc_delta_unclipped"].push_back(lc(LcForm::delta, 1e9));
    got["lc_prob"].push_back(lc(LcForm::prob, clip));
    got["lc_logp"].push_back(lc(LcForm::logp, clip));
    got["ic_prob"].push_back(ic(IcForm::prob));
    got["ic_logp"].push_back(ic(IcForm::logp));
    got["ic_delta"].push_back(ic(IcForm::delta));
    got["ic_consistency"].push_back(ic(IcForm::consistency));
    got["stage3"].push_back(lc(LcForm::delta, clip) + at(hyper, "alpha") * ic(IcForm::prob));
  }
  OracleReport report(folder);
  for (const auto& [name, values] : got) report.compare(name, values, doubles(file, "out." + name), 1e-12);
  for (const std::size_t same : {2, 3}) report.require("equal logits give delta 0", got["lc_delta"][same] == 0.0);
  CHECK_MESSAGE(report.finish(), folder.string());
}

struct StepTolerances {
  double rollout, loss, gradient, change;
};

// One whole step. `packed`: frozen packed weights, as the trainer has them.
void check_step(const std::filesystem::path& folder, DType dtype, bool packed, const StepTolerances& tol) {
  PpoCase c = load_ppo_case(folder, dtype, packed);
  const SafetensorsFile file = SafetensorsFile::open(folder / "tensors.safetensors");
  OracleReport report(folder, packed ? "f32 packed" : dtype == DType::f64 ? "f64" : "f32");
  const auto reference = [&](const std::string& name) {
    return flat(ragged_rows(doubles(file, name), c.response_lengths, c.most_response));
  };
  const auto evaluate = [&](const Policy* policy) {
    const NoGradient no_gradient;
    return evaluate_responses(c.decoder, 0, policy, pointers(c.rollouts), 1.0, false);
  };
  {
    const TokenEvaluation before = evaluate(&c.policy);
    report.compare("log-probabilities", doubles(before.log_probability), reference("out.logprob_old"), tol.rollout);
    report.compare("values", doubles(before.value), reference("out.value_old"), tol.rollout);
    score_reference(c.decoder, 0, c.rollouts, c.config);
    Ragged base, old, values;
    std::vector<double> scores;
    for (const Rollout& r : c.rollouts) {
      base.push_back(r.reference_log_probabilities);
      scores.push_back(r.score);
    }
    report.compare("reference log-probabilities", flat(base), reference("out.logprob_reference"), tol.rollout);
    assign_evaluation(c.rollouts, before);
    for (const Rollout& r : c.rollouts) {
      old.push_back(r.log_probabilities);
      values.push_back(r.values);
    }
    const Ragged rewards = token_rewards(old, base, scores, c.config.kl_coefficient, c.config.kl_estimator);
    const Advantages advantages = generalised_advantages(rewards, values, c.config.gamma, c.config.lambda);
    report.compare("rewards", flat(rewards), reference("out.rewards"), tol.rollout);
    report.compare("advantages", flat(advantages.advantages), reference("out.advantages"), tol.rollout);
    report.compare("returns", flat(advantages.returns), reference("out.returns"), tol.rollout);
    report.compare("whitened advantages", flat(whiten(advantages.advantages)), reference("out.advantages_whitened"), tol.rollout);
  }
  const std::vector<NamedTensor> parameters = c.policy.parameters();
  const std::vector<NamedTensor> before = snapshot(parameters);
  {  // the gradient of the first mini-batch alone; its step is undone
    PpoCase first = load_ppo_case(folder, dtype, packed);
    first.rollouts = c.rollouts;
    PpoConfig config = first.config;
    config.epochs = 1;
    const std::vector<std::vector<std::size_t>> half = {{c.permutations[0].begin(), c.permutations[0].begin() + config.mini_batch}};
    const PpoStatistics statistics = ppo_update(first.decoder, 0, first.policy, first.rollouts, config, 0, 0, 1e-5, half);
    report.require("one mini-batch", statistics.mini_batches.size() == 1);
    for (const NamedTensor& p : first.policy.parameters()) {
      report.compare("first gradient of " + p.name, doubles(p.tensor.gradient()),
                     doubles(file, "grad.first_minibatch." + oracle_name(p.name)), tol.gradient);
    }
  }
  const PpoStatistics s = ppo_update(c.decoder, 0, c.policy, c.rollouts, c.config, 0, 0, 1e-5, c.permutations);
  report.compare("sequence KL", std::vector<double>{s.kl}, doubles(file, "out.kl_sequence_sum_mean"), tol.rollout);
  report.compare("beta", std::vector<double>{c.policy.kl.coefficient()}, doubles(file, "out.beta_after"),
                 dtype == DType::f64 ? 1e-14 : 1e-7);
  report.require("the first ratios are 1", s.first_ratio_error <= 1e-5);
  const std::pair<const char*, double MiniBatchRecord::*> records[] = {{"loss", &MiniBatchRecord::loss},
                                                                       {"policy_loss", &MiniBatchRecord::policy_loss},
                                                                       {"value_loss", &MiniBatchRecord::value_loss},
                                                                       {"clip_fraction", &MiniBatchRecord::clip_fraction},
                                                                       {"value_clip_fraction", &MiniBatchRecord::value_clip_fraction},
                                                                       {"mean_ratio", &MiniBatchRecord::ratio},
                                                                       {"approx_kl", &MiniBatchRecord::approximate_kl},
                                                                       {"gradient_norm", &MiniBatchRecord::gradient_norm}};
  for (const auto& [name, member] : records) {
    std::vector<double> got;
    for (const MiniBatchRecord& record : s.mini_batches) got.push_back(record.*member);
    // 0.5 (difference of two log-probabilities)^2: in float32 nearly all of a small difference is rounding.
    const double tolerance = member == &MiniBatchRecord::approximate_kl && dtype == DType::f32 ? 1e-3 : tol.loss;
    report.compare(fmt::format("mini-batch {}", name), got, doubles(file, fmt::format("out.minibatch.{}", name)), tolerance);
  }
  // Changes, over the largest change of all: an adapter of 1e-1 that moves by 1e-4 would hide any error.
  double most = 0.0;
  std::map<std::string, std::vector<double>> expected, got;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const std::string name = oracle_name(parameters[i].name);
    const std::vector<double> start = doubles(file, "param." + name), end = doubles(file, "out.after." + name),
                              was = doubles(before[i].tensor), is = doubles(parameters[i].tensor);
    for (std::size_t j = 0; j < start.size(); ++j) {
      expected[name].push_back(end[j] - start[j]);
      got[name].push_back(is[j] - was[j]);
      most = std::max(most, std::abs(expected[name].back()));
    }
  }
  for (const auto& [name, change] : expected) report.compare("change of " + name, got[name], change, tol.change, most);
  const TokenEvaluation after = evaluate(&c.policy);
  report.compare("log-probabilities after", doubles(after.log_probability), reference("out.logprob_after"), tol.rollout);
  report.compare("values after", doubles(after.value), reference("out.value_after"), tol.rollout);
  CHECK_MESSAGE(report.finish(), folder.string());
}

}  // namespace

TEST_CASE("oracles: reinforcement learning") {
  const std::vector<std::filesystem::path> folders = case_folders(oracle_root() / "rl", "case.json");
  REQUIRE(!folders.empty());
  std::set<std::string> seen;
  for (const std::filesystem::path& folder : folders) {
    const std::string name = folder.filename().string();
    seen.insert(name);
    if (name == "ppo_functions" || name == "ppo_functions_discounted") {
      check_functions(folder);
    } else if (name == "adaptive_kl") {
      check_controller(folder);
    } else if (name == "expctr_rewards") {
      check_rewards(folder);
    } else if (name == "ppo_step" || name == "ppo_step_large_lr") {
      // Figures of oracles rl/README.md.
      const double change = name == "ppo_step" ? 2e-3 : 1e-3;
      check_step(folder, DType::f64, false, {1e-11, 1e-10, 1e-10, 1e-8});
      check_step(folder, DType::f32, false, {1e-5, 1e-5, 1e-5, change});
      check_step(folder, DType::f32, true, {1e-5, 1e-5, 1e-5, change});
    } else if (name == "reinforce" || name == "reinforce_toy" || name == "mine" || name == "dwa") {
      report_unsupported(folder, "MMI is not part of this version");
    } else {
      report_unsupported(folder, "unknown case");
    }
  }
  for (const char* needed : {"ppo_functions", "ppo_functions_discounted", "adaptive_kl", "expctr_rewards", "ppo_step", "ppo_step_large_lr"})
    CHECK_MESSAGE(seen.contains(needed), needed);
}
