// Softmax statistics of one tile of logits, in one order for every caller: 16 lanes, then a fixed tree.
#pragma once

#include <cmath>
#include <cstdint>

#include "cpu/vector_math.h"

namespace expctr::cpu {

/// Of the logits x of one tile: largest = max x, sum = sum exp(x - largest), weighted = sum exp(x - largest) (x - largest).
struct SoftmaxPart {
  float largest, sum, weighted;
};

/// x = scale * logits[0 .. n).
template <class V>
void softmax_part(const float* logits, std::int64_t n, float scale, SoftmaxPart* part) {
  const V factor = V::broadcast(scale), none = V::broadcast(-INFINITY), least = V::broadcast(-200.0f);
  V largest = none;
  std::int64_t i = 0;
  for (; i + 16 <= n; i += 16) largest = V::max(largest, V::load(logits + i) * factor);
  const int rest = static_cast<int>(n - i);
  if (rest > 0) largest = V::max(largest, V::first(rest, V::load(logits + i, rest) * factor, none));
  const float top = largest.largest();
  *part = {top, 0.0f, 0.0f};
  if (top == -INFINITY) return;
  const V shift = V::broadcast(top);
  V sum = V::zero(), weighted = V::zero();
  for (i = 0; i + 16 <= n; i += 16) {
    const V x = V::max(least, V::load(logits + i) * factor - shift), e = exp(x);
    sum = sum + e;
    weighted = V::fma(e, x, weighted);
  }
  if (rest > 0) {
    const V x = V::max(least, V::load(logits + i, rest) * factor - shift), e = V::first(rest, exp(x), V::zero());
    sum = sum + e;
    weighted = V::fma(e, x, weighted);
  }
  part->sum = sum.sum();
  part->weighted = weighted.sum();
}

/// out[i] = exp(scale * logits[i] - log_sum_exp).
template <class V>
void softmax_row(const float* logits, std::int64_t n, float scale, float log_sum_exp, float* out) {
  const V factor = V::broadcast(scale), shift = V::broadcast(log_sum_exp);
  std::int64_t i = 0;
  for (; i + 16 <= n; i += 16) exp(V::load(logits + i) * factor - shift).store(out + i);
  const int rest = static_cast<int>(n - i);
  if (rest > 0) exp(V::load(logits + i, rest) * factor - shift).store(out + i, rest);
}

constexpr std::int64_t vocabulary_tile = 1024;  ///< logits of one SoftmaxPart

}  // namespace expctr::cpu
