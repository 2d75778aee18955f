// The damped item + user bias model: the floor every CTR model must beat (specs/README.md, section 5).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "data/interactions.h"

namespace expctr {

/// b_i = sum(y - mu) / (n_i + damping), then b_u = sum(y - mu - b_i) / (n_u + damping); mu = mean label of the fitted rows.
/// Unseen users and items have bias 0. All in float64.
class BiasModel {
 public:
  /// Errors (UsageError): no rows.
  BiasModel(const Interactions& data, const std::vector<std::uint8_t>& labels, std::span<const std::int32_t> rows, double damping = 10);
  double mean() const { return mean_; }
  double item_bias(std::int32_t item) const { return item_[static_cast<std::size_t>(item)]; }
  double user_bias(std::int32_t user) const { return user_[static_cast<std::size_t>(user)]; }
  /// mu + b_i + b_u, not clipped: rank with it as it is, clip to [.001, .999] for logloss.
  double score(std::int32_t user, std::int32_t item) const { return mean_ + item_bias(item) + user_bias(user); }

 private:
  double mean_ = 0;
  std::vector<double> item_, user_;
};

}  // namespace expctr
