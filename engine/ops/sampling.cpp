#include "engine/ops/sampling.h"

#include <fmt/format.h>

#include "base/error.h"
#include "engine/core/op_scope.h"
#include "engine/core/run.h"
#include "engine/ops/layout.h"

namespace expctr {

SampledTokens sample_tokens(const Tensor& logits, const Tensor& u, const SamplingOptions& options) {
  const OpScope scope("sample_tokens", logits, u);
  if (!scope.dense()) return sample_tokens(dense(logits), dense(u), options);
  require_rank("sample_tokens", "logits", logits, 2);
  require_shape("sample_tokens", "u", u, {logits.dim(0)}, "one uniform number per row");
  if (!(options.temperature >= 0.0) || !(options.top_p > 0.0 && options.top_p <= 1.0) || options.top_k < 0 || !(options.min_p >= 0.0 && options.min_p < 1.0)) {
    throw UsageError(fmt::format("sampling: temperature {}, top_k {}, top_p {}, min_p {}", options.temperature, options.top_k, options.top_p, options.min_p),
                     "temperature >= 0, top_k >= 0, 0 < top_p <= 1, 0 <= min_p < 1");
  }
  if (logits.dim(1) == 0) throw ShapeError(fmt::format("sample_tokens: logits are {}", logits.shape().text()), "there must be a class to choose");
  SampledTokens result{Tensor::empty({logits.dim(0)}, DType::i32, logits.device()), Tensor::empty({logits.dim(0)}, DType::f32, logits.device())};
  run(logits.device(), SampleToken{options.temperature, options.top_p, options.min_p, options.top_k, logits, u, result.token, result.log_probability, {}});
  return result;
}

}  // namespace expctr
