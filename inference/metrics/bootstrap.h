// Paired bootstrap over rows: 95 % percentile intervals of any statistic, a function of how often each row is drawn.
// Source: Efron and Tibshirani 1993, percentile interval.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace expctr {

struct BootstrapOptions {
  int resamples = 2000;
  std::uint64_t seed = 2024;
  double confidence = 0.95;
};

struct Interval {
  double value = 0;  ///< of the rows as they are
  double low = 0, high = 0;
  int resamples = 0;  ///< that gave a number: a sample of one class has no AUC
  bool excludes_zero() const { return low > 0 || high < 0; }
};

/// A statistic of rows where row i counts weights[i] times; NaN when it is undefined. Called for every resample.
using WeightedStatistic = std::function<double(std::span<const std::uint32_t> weights)>;

/// Sample number s draws `rows` rows with replacement by Philox (seed, s, draw), so intervals of several statistics of the same rows
/// are paired: give the difference as the statistic. Percentiles interpolate linearly. Low and high are NaN when no
/// resample gave a number. Errors (Error): no rows, fewer than 2 resamples.
Interval bootstrap(std::int64_t rows, const WeightedStatistic& statistic, const BootstrapOptions& options = {});

/// Mean of one value per row, e.g. a difference of two models' logloss on it.
Interval bootstrap_mean(std::span<const double> values, const BootstrapOptions& options = {});

/// AUC of scores; with `other`, AUC(scores) - AUC(other) on the same resamples.
Interval bootstrap_auc(std::span<const double> scores, std::span<const std::uint8_t> labels, const BootstrapOptions& options = {});
Interval bootstrap_auc_difference(std::span<const double> scores, std::span<const double> other, std::span<const std::uint8_t> labels,
                                  const BootstrapOptions& options = {});

}  // namespace expctr
