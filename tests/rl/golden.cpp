// Published numbers of rewards, advantages and losses, and their definitions written once more (specs rl.md, sections 8 and 11; expctr.md,
// section 13).
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <tuple>

#include "engine/autograd/tape.h"
#include "engine/ops/loss.h"
#include "engine/ops/reduce.h"
#include "tests/rl/draws.h"
#include "tests/support/oracle.h"
#include "trainers/rl/advantage.h"
#include "trainers/rl/kl_control.h"
#include "trainers/rl/reward.h"

using namespace expctr;
using namespace expctr::test;

namespace {

void check_close(const std::vector<double>& got, const std::vector<double>& expected, double tolerance) {
  REQUIRE(got.size() == expected.size());
  for (std::size_t i = 0; i < got.size(); ++i)
    CHECK_MESSAGE(std::abs(got[i] - expected[i]) <= tolerance, fmt::format("[{}] {} for {}", i, got[i], expected[i]));
}

const std::vector<double> lp = {-1.0, -0.7, -2.0, -0.3}, lr = {-1.2, -0.6, -1.5, -0.3}, v = {0.1, 0.2, 0.3, 0.4};

}  // namespace

TEST_CASE("golden numbers: estimators, rewards, advantages, whitening") {
  const auto all = [](KlEstimator kind) {
    std::vector<double> kl;
    for (std::size_t t = 0; t < 4; ++t) kl.push_back(kl_estimate(kind, lp[t], lr[t]));
    return kl;
  };
  check_close(all(KlEstimator::k1), {0.2, -0.1, -0.5, 0.0}, 1e-12);
  CHECK(std::abs(mean_sequence_sum({all(KlEstimator::k1)}) + 0.4) < 1e-12);
  check_close(all(KlEstimator::abs), {0.2, 0.1, 0.5, 0.0}, 1e-12);
  check_close(all(KlEstimator::k2), {0.02, 0.005, 0.125, 0.0}, 1e-12);
  check_close(all(KlEstimator::k3), {0.0187308, 0.0051709, 0.1487213, 0.0}, 5e-8);
  const Ragged rewards = token_rewards({lp}, {lr}, {0.8}, 0.2, KlEstimator::k1);
  check_close(rewards[0], {-0.04, 0.02, 0.10, 0.80}, 1e-12);
  const Advantages a = generalised_advantages(rewards, {v}, 1.0, 0.95);
  check_close(a.advantages[0], {0.69745, 0.671, 0.58, 0.4}, 1e-12);
  check_close(a.returns[0], {0.79745, 0.871, 0.88, 0.8}, 1e-12);
  check_close(generalised_advantages(rewards, {v}, 1.0, 1.0).advantages[0], {0.78, 0.72, 0.6, 0.4}, 1e-12);
  check_close(whiten(a.advantages)[0], {0.820335, 0.623685, -0.052880, -1.391140}, 5e-7);
  check_close(whiten(a.advantages, {true, false})[0], {0.947241, 0.720170, -0.061060, -1.606350}, 5e-7);
}

TEST_CASE("golden numbers: losses") {
  const std::vector<double> advantage =
      whiten(generalised_advantages(token_rewards({lp}, {lr}, {0.8}, 0.2, KlEstimator::k1), {v}, 1.0, 0.95).advantages)[0];
  const std::vector<double> target = {0.79745, 0.871, 0.88, 0.8}, new_lp = {-0.8, -0.9, -2.0, -0.6}, new_value = {0.5, 0.1, 0.35, 0.9};
  for (const DType dtype : {DType::f64, DType::f32}) {
    const double tolerance = dtype == DType::f64 ? 5e-7 : 1e-5;
    const auto tensor = [&](const std::vector<double>& values) { return tensor_of(values, {4}, dtype); };
    const PolicyLoss surrogate = policy_loss(tensor(new_lp), tensor(lp), tensor(advantage), 0.2);
    const double policy = doubles(mean_all(surrogate.loss))[0],
                 value = doubles(mean_all(value_loss(tensor(new_value), tensor(v), tensor(target), 0.2)))[0];
    CHECK(std::abs(policy + 0.082310) < tolerance);
    CHECK(doubles(mean_all(surrogate.clipped))[0] == 0.5);
    CHECK(std::abs(value - 0.145350) < tolerance);
    CHECK(std::abs(policy + 0.1 * value + 0.0677750) < tolerance);
  }
}

TEST_CASE("golden numbers: adaptive coefficient, and its bounds") {
  for (const auto& [kl, n, expected] : {std::tuple{9.0, 128, 0.200512}, {5.7, 256, 0.199744}, {-1.0, 128, 0.199488}}) {
    KlController controller(0.2, true, 6.0, 10000.0);
    controller.update(kl, n);
    CHECK(std::abs(controller.coefficient() - expected) < 5e-7);
  }
  Draws draws(5);
  KlController adaptive(0.2, true, 6.0, 10000.0), fixed(0.2, false, 6.0, 10000.0);
  for (int i = 0; i < 200; ++i) {
    const double kl = draws.uniform(-5.0, 20.0), before = adaptive.coefficient();
    const std::int64_t n = 1 + draws.below(512);
    adaptive.update(kl, n);
    fixed.update(kl, n);
    const double change = adaptive.coefficient() / before - 1.0;
    CHECK((kl > 6.0 ? change > 0.0 : change < 0.0));
    CHECK(std::abs(change) <= 0.2 * static_cast<double>(n) / 10000.0 * (1.0 + 1e-9));
  }
  CHECK(fixed.coefficient() == 0.2);
}

TEST_CASE("k3 is never negative, and accurate for small differences") {
  for (int i = -400; i <= 400; ++i) {
    const double d = i * 1e-3;
    CHECK(kl_estimate(KlEstimator::k3, -1.0 + d, -1.0) >= 0.0);
  }
  const double small = kl_estimate(KlEstimator::k3, 1e-9, 0.0);
  CHECK(std::abs(small - 5e-19) < 1e-24);  // exp - 1 instead of expm1 would be off by 1e-16
  CHECK(kl_estimate(KlEstimator::k3, -0.7, -0.7) == 0.0);
}

TEST_CASE("advantages of ragged responses against the definition as a double sum") {
  Draws draws(8);
  for (const auto& [gamma, lambda] : {std::pair{1.0, 0.95}, {0.97, 0.9}, {1.0, 1.0}, {0.5, 0.0}}) {
    Ragged rewards, values;
    for (std::int32_t i = 0; i < 16; ++i) {
      const std::size_t n = i == 0 ? 1 : i == 1 ? 64 : static_cast<std::size_t>(1 + draws.below(64));
      std::vector<double> r(n), w(n);
      for (double& x : r) x = draws.uniform(-1.0, 1.0);
      for (double& x : w) x = draws.uniform(-1.0, 1.0);
      rewards.push_back(r);
      values.push_back(w);
    }
    const Advantages a = generalised_advantages(rewards, values, gamma, lambda);
    double sum = 0.0, square = 0.0, n = 0.0;
    for (std::size_t i = 0; i < rewards.size(); ++i) {
      for (std::size_t t = 0; t < rewards[i].size(); ++t) {
        double expected = 0.0;
        for (std::size_t k = t; k < rewards[i].size(); ++k) {
          const double next = k + 1 < rewards[i].size() ? values[i][k + 1] : 0.0;
          expected += std::pow(gamma * lambda, static_cast<double>(k - t)) * (rewards[i][k] + gamma * next - values[i][k]);
        }
        CHECK(std::abs(a.advantages[i][t] - expected) < 1e-12);
        CHECK(std::abs(a.returns[i][t] - expected - values[i][t]) < 1e-12);
        sum += expected;
        square += expected * expected;
        n += 1.0;
      }
    }
    const double mean = sum / n, deviation = std::sqrt((square - n * mean * mean) / (n - 1.0) + 1e-8);
    const Ragged white = whiten(a.advantages);
    for (std::size_t i = 0; i < white.size(); ++i) {
      for (std::size_t t = 0; t < white[i].size(); ++t) CHECK(std::abs(white[i][t] - (a.advantages[i][t] - mean) / deviation) < 1e-9);
    }
  }
}

TEST_CASE("gradients of the clipped losses against central differences") {
  Draws draws(21);
  const std::int64_t n = 64;
  std::vector<double> fresh, old, advantage, value, old_value, target;
  for (std::int64_t i = 0; i < n; ++i) {
    old.push_back(draws.uniform(-3.0, -0.1));
    fresh.push_back(old.back() + draws.uniform(-0.6, 0.6));
    advantage.push_back(draws.uniform(-2.0, 2.0));
    old_value.push_back(draws.uniform(-1.0, 1.0));
    value.push_back(old_value.back() + draws.uniform(-0.6, 0.6));
    target.push_back(draws.uniform(-1.0, 1.0));
  }
  const auto tensor = [&](const std::vector<double>& x) { return tensor_of(x, {n}, DType::f64); };
  const auto policy = [&](const Tensor& x) { return sum_all(policy_loss(x, tensor(old), tensor(advantage), 0.2).loss); };
  const auto critic = [&](const Tensor& x) { return sum_all(value_loss(x, tensor(old_value), tensor(target), 0.2)); };
  const auto compare = [&](const std::function<Tensor(const Tensor&)>& loss, const std::vector<double>& at) {
    Tensor x = tensor(at);
    x.require_gradient();
    {
      Tape tape;
      tape.backward(loss(x));
    }
    const std::vector<double> gradient = doubles(x.gradient());
    for (std::size_t i = 0; i < at.size(); ++i) {
      std::vector<double> up = at, down = at;
      up[i] += 1e-6;
      down[i] -= 1e-6;
      const double expected = (doubles(loss(tensor(up)))[0] - doubles(loss(tensor(down)))[0]) / 2e-6;
      CHECK_MESSAGE(std::abs(gradient[i] - expected) < 1e-6, fmt::format("[{}] {} for {}", i, gradient[i], expected));
    }
  };
  compare(policy, fresh);
  compare(critic, value);
  // At ratio 1 both branches are equal: the gradient is that of the unclipped one.
  Tensor same = tensor(old);
  same.require_gradient();
  Tape tape;
  tape.backward(policy(same));
  const std::vector<double> gradient = doubles(same.gradient());
  for (std::size_t i = 0; i < gradient.size(); ++i) CHECK(std::abs(gradient[i] + advantage[i]) < 1e-12);
}

TEST_CASE("whitening of a single value and of equal values is finite") {
  CHECK(whiten({{3.0}})[0][0] == 0.0);
  for (const bool unbiased : {true, false}) {
    for (const auto& row : whiten({{2.0, 2.0}, {2.0}}, {true, unbiased})) {
      for (const double x : row) CHECK(x == 0.0);
    }
  }
  CHECK(whiten({}).empty());
}

TEST_CASE("yes and no scores by hand") {
  const double margin = 1.3 - 0.4, base = 0.6 - 0.5;
  CHECK(std::abs(std::exp(log_sigmoid(margin)) - 0.7109495) < 5e-8);
  CHECK(std::abs(log_sigmoid(margin) + 0.3411539) < 5e-8);
  CHECK(std::abs(log_sigmoid(-margin) + 1.2411539) < 5e-8);
  CHECK(std::abs(std::exp(log_sigmoid(base)) - 0.5249792) < 5e-8);
  CHECK(std::abs(lc_reward(LcForm::delta, 1, margin, base, 5.0) - 0.3032428) < 5e-8);
  CHECK(std::abs(lc_reward(LcForm::delta, 0, margin, base, 5.0) + 0.4967572) < 5e-8);
  for (const double same : {-800.0, -3.0, 0.0, 0.1, 40.0, 800.0}) {  // an empty explanation: both prompts are one
    CHECK(lc_reward(LcForm::delta, 0, same, same, 5.0) == 0.0);
    CHECK(lc_reward(LcForm::delta, 1, same, same, 5.0) == 0.0);
  }
  CHECK(log_sigmoid(-1e4) == -1e4);
  CHECK(log_sigmoid(1e4) == 0.0);
}

TEST_CASE("rewards by hand: a table scorer and a table click model") {
  struct Row {
    int label;
    double margin, base, p_ic, p_zero, p_id;
  };
  const double alpha = 1.5;
  for (const Row& r : {Row{1, 0.8, -0.3, 0.7, 0.4, 0.55}, Row{0, 0.8, -0.3, 0.7, 0.4, 0.55}, Row{1, -2.0, 3.5, 0.05, 0.95, 0.5},
                       Row{0, 30.0, -30.0, 0.999, 0.001, 0.2}}) {
    const double p = 1.0 / (1.0 + std::exp(-r.margin)), p0 = 1.0 / (1.0 + std::exp(-r.base));
    const double py = r.label ? p : 1.0 / (1.0 + std::exp(r.margin)), py0 = r.label ? p0 : 1.0 / (1.0 + std::exp(r.base));
    const double q = r.label ? r.p_ic : 1.0 - r.p_ic, q0 = r.label ? r.p_zero : 1.0 - r.p_zero;
    const auto clip = [](double x) { return std::min(5.0, std::max(-5.0, x)); };
    const double lc = lc_reward(LcForm::delta, r.label, r.margin, r.base, 5.0),
                 ic = ic_reward(IcForm::prob, r.label, r.p_ic, r.p_zero, r.p_id, 5.0);
    CHECK(std::abs(lc - clip(std::log(py) - std::log(py0))) < 1e-12);
    CHECK(std::abs(lc_reward(LcForm::prob, r.label, r.margin, r.base, 5.0) - py) < 1e-12);
    CHECK(std::abs(lc_reward(LcForm::logp, r.label, r.margin, r.base, 5.0) - std::max(-5.0, std::log(py))) < 1e-12);
    CHECK(std::abs(ic - q) < 1e-12);
    CHECK(std::abs(ic_reward(IcForm::logp, r.label, r.p_ic, r.p_zero, r.p_id, 5.0) - std::max(-5.0, std::log(q))) < 1e-12);
    CHECK(std::abs(ic_reward(IcForm::delta, r.label, r.p_ic, r.p_zero, r.p_id, 5.0) - clip(std::log(q) - std::log(q0))) < 1e-12);
    CHECK(std::abs(ic_reward(IcForm::consistency, r.label, r.p_ic, r.p_zero, r.p_id, 5.0) - (1.0 - std::abs(r.p_ic - r.p_id))) < 1e-12);
    CHECK(std::abs(lc + alpha * ic - (clip(std::log(py) - std::log(py0)) + alpha * q)) < 1e-12);
  }
}

TEST_CASE("rewards of a click model that is certain are finite") {
  for (const double p : {0.0, 1.0}) {
    for (const int label : {0, 1}) {
      CHECK(ic_reward(IcForm::delta, label, p, p, p, 5.0) == 0.0);
      CHECK(std::isfinite(ic_reward(IcForm::logp, label, p, p, p, 5.0)));
      CHECK(std::abs(ic_reward(IcForm::delta, label, p, 1.0 - p, p, 5.0)) == 5.0);
    }
  }
}

TEST_CASE("control variate: delta has the gradient of logp, and less variance") {
  // Policy: P(token 1) = sigmoid(theta); token 1 moves the scorer's margin by +0.4, token 0 by -0.4. Gradient sample: reward d log P / d
  // theta.
  const double probability = 1.0 / (1.0 + std::exp(-0.3));
  Draws draws(31);
  const int n = 4096;
  double delta_sum = 0.0, delta_square = 0.0, logp_sum = 0.0, logp_square = 0.0, difference_sum = 0.0, difference_square = 0.0,
         base_sum = 0.0, base_square = 0.0;
  for (int i = 0; i < n; ++i) {
    const double base = draws.uniform(-5.0, 5.0);
    const int label = draws.below(2);
    const bool one = draws.uniform(0.0, 1.0) < probability;
    const double score = (one ? 1.0 : 0.0) - probability, margin = base + (one ? 0.4 : -0.4);
    const double delta = score * lc_reward(LcForm::delta, label, margin, base, 1e6),
                 logp = score * lc_reward(LcForm::logp, label, margin, base, 1e6);
    const double difficulty = log_sigmoid(label ? base : -base);
    delta_sum += delta;
    delta_square += delta * delta;
    logp_sum += logp;
    logp_square += logp * logp;
    difference_sum += delta - logp;
    difference_square += (delta - logp) * (delta - logp);
    base_sum += difficulty;
    base_square += difficulty * difficulty;
  }
  const auto variance = [n](double sum, double square) { return (square - sum * sum / n) / (n - 1); };
  REQUIRE(variance(base_sum, base_square) >= 1.0);
  CHECK(std::abs(difference_sum / n) <= 3.0 * std::sqrt(variance(difference_sum, difference_square) / n));
  CHECK(variance(delta_sum, delta_square) < 0.5 * variance(logp_sum, logp_square));
}
