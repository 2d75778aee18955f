// The distribution that SampleToken draws from.
#pragma once

#include <cstdint>

namespace expctr::cpu {

struct SamplingRule {
  double temperature = 1;
  std::int64_t top_k = 0;  ///< 0: off
  double top_p = 1;        ///< 1: off
  double min_p = 0;        ///< 0: off
};

/// probability[i], i = 0 .. classes - 1: softmax of logits / temperature over the tokens kept, 0 elsewhere. Kept, in this order: the top_k
/// best (ties: lower id first); of these the shortest prefix, best first, whose probability reaches top_p; of these the ones with at least
/// min_p times the best one's probability. Temperature 0: one at the first maximum. A logit of minus infinity is never kept; when none is
/// kept, token 0 gets 1. order [classes]: scratch.
/// Float logits: exponentials in float, as in all float kernels.
template <class T>
void sampling_probabilities(const T* logits, std::int64_t classes, const SamplingRule& rule, double* probability, std::uint64_t* order);

}  // namespace expctr::cpu
