// From log-probabilities, values and scores of finished responses to PPO's rewards, advantages and returns. All in float64 on the host.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace expctr {

/// One value per response token, one vector per response: ragged, so nothing needs a mask.
using Ragged = std::vector<std::vector<double>>;

/// Estimators of KL(policy, reference) from one sampled token: k1 = lp - lr, abs = |lp - lr|, k2 = (lp - lr)^2 / 2, k3 = exp(lr - lp) - 1 - (lr - lp).
/// Source: Schulman 2020, "Approximating KL divergence"; specs rl.md, section 2.
enum class KlEstimator { k1, abs, k2, k3 };
KlEstimator parse_kl_estimator(std::string_view name);
double kl_estimate(KlEstimator estimator, double log_probability, double reference_log_probability);

/// r_t = -beta kl_t, and the score on the last token of each response.
Ragged token_rewards(const Ragged& log_probabilities, const Ragged& reference_log_probabilities, const std::vector<double>& scores, double beta, KlEstimator estimator);

struct Advantages {
  Ragged advantages, returns;
};
/// Backwards with v_T = 0: d_t = r_t + gamma v_{t+1} - v_t, A_t = d_t + gamma lambda A_{t+1}, G_t = A_t + v_t.   Source: Schulman et al. 2016, eq. 16.
Advantages generalised_advantages(const Ragged& rewards, const Ragged& values, double gamma, double lambda);

struct WhitenOptions {
  bool shift_mean = true, unbiased = true;
};
/// (x - mean) / sqrt(var + 1e-8) over all values of all responses; unbiased: n - 1 in the variance; otherwise the variance is clamped at 1e-8 (OpenRLHF).
/// Without shift_mean the mean is added back. A single value has no unbiased variance: it is returned as it is, less the mean.
Ragged whiten(const Ragged& values, const WhitenOptions& options = {});

/// 1 - mean (v - G)^2 / var(G), the variance unbiased; 0 where the returns do not vary.   Source: specs rl.md, section 7.
double explained_variance(const std::vector<double>& values, const std::vector<double>& returns);

/// Mean over responses of the sum over tokens.
double mean_sequence_sum(const Ragged& values);

}  // namespace expctr
