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

/// With x = scale * logits[0 .. n): top = max x (NaN is passed over), out[i] = exp(x[i] - top), returns the sum of out; out may be logits. Where top
/// is minus infinity nothing is written and the sum is 0.
template <class V>
float softmax_tile(const float* logits, std::int64_t n, float scale, float* out, float* top) {
  const V factor = V::broadcast(scale), none = V::broadcast(-INFINITY);
  V first = none, second = none;
  std::int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    first = V::max(V::load(logits + i) * factor, first);
    second = V::max(V::load(logits + i + 16) * factor, second);
  }
  for (; i < n; i += 16) {
    const int rest = static_cast<int>(n - i < 16 ? n - i : 16);
    first = V::max(V::first(rest, V::load(logits + i, rest) * factor, none), first);
  }
  *top = V::max(second, first).largest();
  if (*top == -INFINITY) return 0.0f;
  const V shift = V::broadcast(*top);
  V sum = V::zero(), other_sum = V::zero();
  for (i = 0; i + 32 <= n; i += 32) {
    // What the caller reads next, as a rule: memory works while this loop computes.
    __builtin_prefetch(logits + n + i);
    __builtin_prefetch(logits + n + i + 16);
    const V a = exp(V::load(logits + i) * factor - shift), b = exp(V::load(logits + i + 16) * factor - shift);
    a.store(out + i);
    b.store(out + i + 16);
    sum = sum + a;
    other_sum = other_sum + b;
  }
  for (; i < n; i += 16) {
    const int rest = static_cast<int>(n - i < 16 ? n - i : 16);
    const V a = exp(V::load(logits + i, rest) * factor - shift);
    a.store(out + i, rest);
    sum = sum + V::first(rest, a, V::zero());
  }
  return (sum + other_sum).sum();
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
