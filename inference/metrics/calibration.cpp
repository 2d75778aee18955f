#include "inference/metrics/calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace expctr {

Calibration calibration(std::span<const double> probabilities, std::span<const std::uint8_t> labels, int bins) {
  if (probabilities.size() != labels.size() || bins < 1) {
    throw Error(fmt::format("calibration: {} probabilities, {} labels, {} bins", probabilities.size(), labels.size(), bins), "one label per probability, at least one bin");
  }
  Calibration result;
  result.bins.resize(static_cast<std::size_t>(bins));
  for (std::size_t i = 0; i < probabilities.size(); ++i) {
    const double p = probabilities[i];
    if (!(p >= 0.0 && p <= 1.0)) throw Error(fmt::format("calibration: {} is no probability", p));
    CalibrationBin& bin = result.bins[static_cast<std::size_t>(std::min(bins - 1, static_cast<int>(p * bins)))];
    ++bin.rows;
    bin.mean_probability += p;
    bin.positive_share += labels[i] != 0 ? 1.0 : 0.0;
  }
  for (CalibrationBin& bin : result.bins) {
    if (bin.rows == 0) continue;
    bin.mean_probability /= static_cast<double>(bin.rows);
    bin.positive_share /= static_cast<double>(bin.rows);
    result.expected_error += static_cast<double>(bin.rows) / static_cast<double>(labels.size()) * std::abs(bin.mean_probability - bin.positive_share);
  }
  return result;
}

}  // namespace expctr
