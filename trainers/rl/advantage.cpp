#include "trainers/rl/advantage.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace expctr {

KlEstimator parse_kl_estimator(std::string_view name) {
  if (name == "k1") return KlEstimator::k1;
  if (name == "abs") return KlEstimator::abs;
  if (name == "k2" || name == "mse") return KlEstimator::k2;
  if (name == "k3") return KlEstimator::k3;
  throw UsageError(fmt::format("ppo.kl.estimator: '{}'", name), "one of k1, abs, k2 (also called mse), k3");
}

double kl_estimate(KlEstimator estimator, double log_probability, double reference_log_probability) {
  const double d = log_probability - reference_log_probability;
  switch (estimator) {
    case KlEstimator::k1: return d;
    case KlEstimator::abs: return std::abs(d);
    case KlEstimator::k2: return 0.5 * d * d;
    case KlEstimator::k3: return std::expm1(-d) + d;
  }
  return d;
}

Ragged token_rewards(const Ragged& log_probabilities, const Ragged& reference_log_probabilities, const std::vector<double>& scores, double beta, KlEstimator estimator) {
  Ragged rewards(log_probabilities.size());
  for (std::size_t i = 0; i < rewards.size(); ++i) {
    for (std::size_t t = 0; t < log_probabilities[i].size(); ++t) {
      rewards[i].push_back(-beta * kl_estimate(estimator, log_probabilities[i][t], reference_log_probabilities[i][t]));
    }
    if (!rewards[i].empty()) rewards[i].back() += scores[i];
  }
  return rewards;
}

Advantages generalised_advantages(const Ragged& rewards, const Ragged& values, double gamma, double lambda) {
  Advantages result;
  for (std::size_t i = 0; i < rewards.size(); ++i) {
    const std::size_t n = rewards[i].size();
    std::vector<double> advantages(n), returns(n);
    double next_value = 0.0, next_advantage = 0.0;
    for (std::size_t t = n; t-- > 0;) {
      next_advantage = rewards[i][t] + gamma * next_value - values[i][t] + gamma * lambda * next_advantage;
      next_value = values[i][t];
      advantages[t] = next_advantage;
      returns[t] = next_advantage + values[i][t];
    }
    result.advantages.push_back(std::move(advantages));
    result.returns.push_back(std::move(returns));
  }
  return result;
}

Ragged whiten(const Ragged& values, const WhitenOptions& options) {
  double sum = 0.0, square = 0.0;
  std::size_t n = 0;
  for (const auto& row : values) {
    for (const double v : row) sum += v;
    n += row.size();
  }
  if (n == 0) return values;
  const double mean = sum / static_cast<double>(n);
  for (const auto& row : values) {
    for (const double v : row) square += (v - mean) * (v - mean);
  }
  double scale = 1.0;
  if (options.unbiased) {
    if (n > 1) scale = 1.0 / std::sqrt(square / static_cast<double>(n - 1) + 1e-8);
  } else {
    scale = 1.0 / std::sqrt(std::max(square / static_cast<double>(n), 1e-8));
  }
  Ragged result = values;
  for (auto& row : result) {
    for (double& v : row) v = (v - mean) * scale + (options.shift_mean ? 0.0 : mean);
  }
  return result;
}

double explained_variance(const std::vector<double>& values, const std::vector<double>& returns) {
  const std::size_t n = returns.size();
  if (n < 2) return 0.0;
  double mean = 0.0, square = 0.0, error = 0.0;
  for (const double g : returns) mean += g / static_cast<double>(n);
  for (std::size_t i = 0; i < n; ++i) {
    square += (returns[i] - mean) * (returns[i] - mean);
    error += (values[i] - returns[i]) * (values[i] - returns[i]);
  }
  const double variance = square / static_cast<double>(n - 1);
  return variance > 0.0 ? 1.0 - error / static_cast<double>(n) / variance : 0.0;
}

double mean_sequence_sum(const Ragged& values) {
  double total = 0.0;
  for (const auto& row : values) {
    for (const double v : row) total += v;
  }
  return values.empty() ? 0.0 : total / static_cast<double>(values.size());
}

}  // namespace expctr
