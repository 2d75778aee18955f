// Log-sum-exp of a row of logits from the parts of its tiles.
#pragma once

#include <cmath>

#include "cpu/softmax_kernel.h"

namespace expctr::cpu {

/// Running combination of parts, in tile order.
struct SoftmaxTotal {
  double largest = -INFINITY, sum = 0, weighted = 0;

  void add(const SoftmaxPart& part) {
    if (part.largest == -INFINITY) return;
    const double top = part.largest > largest ? static_cast<double>(part.largest) : largest;
    // log p shifts: sum e (x - top) = sum e (x - old) + (old - top) sum e.
    const double before = largest == -INFINITY ? 0.0 : std::exp(largest - top), here = std::exp(part.largest - top);
    const double before_shift = largest == -INFINITY ? 0.0 : largest - top, here_shift = part.largest - top;
    weighted = before * (weighted + before_shift * sum) + here * (part.weighted + here_shift * part.sum);
    sum = before * sum + here * part.sum;
    largest = top;
  }
  double log_sum_exp() const { return largest + std::log(sum); }
  double log_probability(float x) const { return (static_cast<double>(x) - largest) - std::log(sum); }
  double entropy() const { return std::log(sum) - weighted / sum; }
};

}  // namespace expctr::cpu
