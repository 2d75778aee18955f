// Choosing tokens from logits.
#pragma once

#include "base/kernels/sampling.h"
#include "engine/core/tensor.h"

namespace expctr {

struct SamplingOptions {
  double temperature = 1.0;  ///< 0: greedy
  std::int64_t top_k = 0;    ///< 0: off
  double top_p = 1.0;        ///< 1: off
  double min_p = 0.0;        ///< 0: off
};
struct SampledTokens {
  Tensor token;            ///< [rows] i32
  Tensor log_probability;  ///< [rows], of the distribution before truncation
};
/// One token a row: logits [rows, classes], u [rows] f32 in [0, 1). Order of operations: SampleToken. no_gradient.
SampledTokens sample_tokens(const Tensor& logits, const Tensor& u, const SamplingOptions& options);

}  // namespace expctr
