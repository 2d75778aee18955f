// Do predicted probabilities mean what they say?
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace expctr {

struct CalibrationBin {
  std::int64_t rows = 0;
  double mean_probability = 0, positive_share = 0;
};

struct Calibration {
  std::vector<CalibrationBin> bins;  ///< of equal width over [0, 1]; a probability of 1 counts in the last
  double expected_error = 0;         ///< sum over bins of rows / all rows * |mean probability - positive share|
};

/// Errors (Error): lengths differ, a probability outside [0, 1], fewer than one bin.   Source: Naeini, Cooper, Hauskrecht 2015 (expected calibration error).
Calibration calibration(std::span<const double> probabilities, std::span<const std::uint8_t> labels, int bins = 10);

}  // namespace expctr
