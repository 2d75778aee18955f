// The same work on the CPU and on a CUDA device, and how far the results are apart.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "engine/core/allocator.h"
#include "engine/core/tensor.h"
#include "models/named_tensor.h"
#include "tests/support/oracle.h"

namespace expctr::test {

inline Device cuda_device() { return {DeviceType::cuda, 0}; }

/// While alive, every tensor of a CUDA device is a block of its own: the virtual GPU then checks bounds and first reads to the byte.
class ExactBlocks {
 public:
  ExactBlocks() { set_exact_blocks(true); }
  ~ExactBlocks() { set_exact_blocks(false); }
  ExactBlocks(const ExactBlocks&) = delete;
  ExactBlocks& operator=(const ExactBlocks&) = delete;
};

/// Largest difference over the largest magnitude of the reference; infinite for NaN and for different sizes.
inline double relative_difference(const std::vector<double>& got, const std::vector<double>& reference, double floor = 0.0) {
  if (got.size() != reference.size()) return INFINITY;
  double most = floor, error = 0.0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    most = std::max(most, std::abs(reference[i]));
    const double difference = std::abs(got[i] - reference[i]);
    error = std::isfinite(difference) ? std::max(error, difference) : INFINITY;
  }
  return error == 0.0 ? 0.0 : error / most;
}
inline double relative_difference(const Tensor& got, const Tensor& reference, double floor = 0.0) {
  return relative_difference(doubles(got), doubles(reference), floor);
}

/// Gradients of two lists of parameters with the same names. A gradient that is small beside the others is measured against 5 % of the
/// largest one.
inline double gradient_difference(const std::vector<NamedTensor>& got, const std::vector<NamedTensor>& reference) {
  REQUIRE(got.size() == reference.size());
  double most = 0.0, worst = 0.0;
  for (const NamedTensor& p : reference) {
    for (const double g : doubles(p.tensor.gradient())) most = std::max(most, std::abs(g));
  }
  REQUIRE(most > 0.0);
  for (std::size_t i = 0; i < got.size(); ++i) {
    REQUIRE(got[i].name == reference[i].name);
    const double error = relative_difference(got[i].tensor.gradient(), reference[i].tensor.gradient(), 0.05 * most);
    INFO("gradient of ", got[i].name, " error ", error);
    CHECK(std::isfinite(error));
    worst = std::max(worst, error);
  }
  return worst;
}

/// How far the parameters have moved apart since `before`, over the largest move of all.
inline double change_difference(const std::vector<NamedTensor>& got, const std::vector<NamedTensor>& reference,
                                const std::vector<NamedTensor>& before) {
  REQUIRE(got.size() == reference.size());
  double most = 0.0, worst = 0.0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const std::vector<double> a = doubles(got[i].tensor), b = doubles(reference[i].tensor), start = doubles(before[i].tensor);
    for (std::size_t j = 0; j < b.size(); ++j) {
      most = std::max(most, std::abs(b[j] - start[j]));
      const double difference = std::abs(a[j] - b[j]);
      worst = std::isfinite(difference) ? std::max(worst, difference) : INFINITY;
    }
  }
  REQUIRE(most > 0.0);
  return worst / most;
}

inline void copy_values(const std::vector<NamedTensor>& to, const std::vector<NamedTensor>& from) {
  REQUIRE(to.size() == from.size());
  for (std::size_t i = 0; i < to.size(); ++i) {
    REQUIRE(to[i].name == from[i].name);
    to[i].tensor.copy_from(from[i].tensor.detached().to(to[i].tensor.device()));
  }
}

}  // namespace expctr::test
