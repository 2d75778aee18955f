// Losses, per row; reduce them with mean_all or sum_all.
#pragma once

#include "base/kernels/loss.h"
#include "engine/core/tensor.h"

namespace expctr {

/// log softmax(logits)[target] per row: logits [rows, classes], targets [rows] i32 (negative: skipped, 0) -> [rows].
Tensor log_probability(const Tensor& logits, const Tensor& targets);

/// softplus(logit) - label logit = -log p(label); logits, labels [n] -> [n].
Tensor bce_with_logits(const Tensor& logits, const Tensor& labels);

/// PPO's clipped surrogate per token: max(-A rho, -A clip(rho, 1 - clip, 1 + clip)), rho = exp(new - old). All [n]. Gradient with respect to `log_probability` only.
struct PolicyLoss {
  Tensor loss;     ///< [n]
  Tensor clipped;  ///< [n], 1 where the clipped term is the larger one
};
PolicyLoss policy_loss(const Tensor& log_probability, const Tensor& old_log_probability, const Tensor& advantage, double clip);

/// 0.5 max((v - G)^2, (clamp(v, old - clip, old + clip) - G)^2). All [n]. Gradient with respect to `value` only.
Tensor value_loss(const Tensor& value, const Tensor& old_value, const Tensor& target, double clip);

}  // namespace expctr
