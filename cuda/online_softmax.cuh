// Log-sum-exp in one pass: a running maximum, and sums relative to it that are rescaled when it moves.
// Source: Milakov and Gimelshein 2018, "Online normalizer calculation for softmax".
#pragma once

#include <cuda_runtime.h>

namespace expctr::cuda {

/// maximum = max x, sum = sum exp(x - maximum), weighted = sum exp(x - maximum) (x - maximum); nothing added yet: maximum -inf, sums 0.
struct OnlineSum {
  float maximum = -INFINITY, sum = 0, weighted = 0;

  __device__ __forceinline__ void add(float x) {
    if (x > maximum) {
      rescale(x);
      sum += 1.0f;
    } else if (x != -INFINITY) {
      const float shifted = x - maximum, e = expf(shifted);
      sum += e;
      weighted += e * shifted;
    }
  }

  /// The sum relative to a maximum that is at least the own one.
  __device__ __forceinline__ float sum_at(float most) const { return sum == 0.0f ? 0.0f : sum * expf(maximum - most); }
  __device__ __forceinline__ float weighted_at(float most) const {
    return sum == 0.0f ? 0.0f : expf(maximum - most) * (weighted + sum * (maximum - most));
  }

  __device__ __forceinline__ void rescale(float most) {
    const float moved_sum = sum_at(most);
    weighted = weighted_at(most);
    sum = moved_sum;
    maximum = most;
  }

  /// Entropy of the softmax: log sum - weighted / sum.
  __device__ __forceinline__ float entropy() const { return logf(sum) - weighted / sum; }
};

}  // namespace expctr::cuda
