#include "inference/metrics/bootstrap.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "base/philox.h"
#include "inference/metrics/ranking_quality.h"

namespace expctr {
namespace {

double percentile(const std::vector<double>& sorted, double share) {
  const double place = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (place - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

}  // namespace

Interval bootstrap(std::int64_t rows, const WeightedStatistic& statistic, const BootstrapOptions& options) {
  if (rows < 1 || rows > std::numeric_limits<std::int32_t>::max()) throw Error(fmt::format("bootstrap: {} rows", rows));
  if (options.resamples < 2) throw Error(fmt::format("bootstrap: {} resamples", options.resamples), "2,000 are usual");
  const auto n = static_cast<std::uint32_t>(rows);
  std::vector<std::uint32_t> weights(n, 1);
  Interval interval;
  interval.value = statistic(weights);
  const RandomKey key = random_key(options.seed, "bootstrap");
  std::vector<double> values;
  for (int sample = 0; sample < options.resamples; ++sample) {
    std::fill(weights.begin(), weights.end(), 0u);
    for (std::uint32_t draw = 0; draw < n; draw += 4) {
      const RandomBits bits = philox(key, {static_cast<std::uint32_t>(sample), draw, 0, 0});
      for (std::uint32_t k = 0; k < 4 && draw + k < n; ++k) ++weights[(std::uint64_t{bits.word[k]} * n) >> 32];
    }
    const double value = statistic(weights);
    if (!std::isnan(value)) values.push_back(value);
  }
  interval.resamples = static_cast<int>(values.size());
  interval.low = interval.high = std::numeric_limits<double>::quiet_NaN();
  if (values.empty()) return interval;
  std::sort(values.begin(), values.end());
  interval.low = percentile(values, (1 - options.confidence) / 2);
  interval.high = percentile(values, (1 + options.confidence) / 2);
  return interval;
}

Interval bootstrap_mean(std::span<const double> values, const BootstrapOptions& options) {
  const auto mean = [&](std::span<const std::uint32_t> weights) {
    double sum = 0;
    for (std::size_t i = 0; i < values.size(); ++i) sum += weights[i] * values[i];
    return sum / static_cast<double>(values.size());
  };
  return bootstrap(static_cast<std::int64_t>(values.size()), mean, options);
}

Interval bootstrap_auc(std::span<const double> scores, std::span<const std::uint8_t> labels, const BootstrapOptions& options) {
  const SortedScores sorted(scores, labels);
  return bootstrap(
      static_cast<std::int64_t>(scores.size()), [&](auto weights) { return sorted.auc(weights); }, options);
}

Interval bootstrap_auc_difference(std::span<const double> scores, std::span<const double> other, std::span<const std::uint8_t> labels,
                                  const BootstrapOptions& options) {
  const SortedScores first(scores, labels), second(other, labels);
  return bootstrap(
      static_cast<std::int64_t>(scores.size()), [&](auto weights) { return first.auc(weights) - second.auc(weights); }, options);
}

}  // namespace expctr
