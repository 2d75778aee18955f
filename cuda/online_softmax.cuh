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

  /// The same for several at once: one look at the maximum for all of them, no branch an element.
  template <int N>
  __device__ __forceinline__ void add_packet(const float (&x)[N]) {
    float most = x[0];
#pragma unroll
    for (int i = 1; i < N; ++i) most = fmaxf(most, x[i]);
    if (most > maximum) rescale(most);
    if (maximum == -INFINITY && most == -INFINITY) return;
    float sums = 0, weights = 0;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float shifted = x[i] - maximum, e = expf(shifted);
      sums += e;
      weights += e * fmaxf(shifted, -200.0f);  // e is 0 there, and 0 times -inf would be NaN
    }
    sum += sums;
    weighted += weights;
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
