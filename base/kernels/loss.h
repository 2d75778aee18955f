// Arguments of losses.
#pragma once

#include "base/view.h"

namespace expctr {

/// logits [rows, classes], targets [rows] i32 (negative: skipped, result 0) -> log_probability [rows], log_sum_exp [rows].
struct CrossEntropyForward {
  View logits, targets, log_probability, log_sum_exp;
};
/// dlogits += dlog_probability (onehot(target) - softmax(logits)).
struct CrossEntropyBackward {
  View logits, targets, log_sum_exp, dlog_probability, dlogits;
};
/// loss[i] = softplus(logit) - label * logit; logits, labels, loss [n].
struct BceForward {
  View logits, labels, loss;
};
/// dlogits += dloss (sigmoid(logit) - label).
struct BceBackward {
  View logits, labels, dloss, dlogits;
};
/// Clipped surrogate, per token: loss = max(-A rho, -A clip(rho, 1 - clip, 1 + clip)), rho = exp(new - old). All [n].
/// clipped[i] = 1 where the clipped term is the larger one.   Source: Schulman et al. 2017, eq. 7.
struct PolicyLossForward {
  double clip;
  View log_probability, old_log_probability, advantage, loss, clipped;
};
/// dlog_probability += dloss * d loss / d new: -A rho where the unclipped term is at least the clipped one, else 0 (inside the clip range both agree).
struct PolicyLossBackward {
  double clip;
  View log_probability, old_log_probability, advantage, dloss, dlog_probability;
};
/// loss = 0.5 max((v - G)^2, (clamp(v, old - clip, old + clip) - G)^2). All [n].
struct ValueLossForward {
  double clip;
  View value, old_value, target, loss;
};
struct ValueLossBackward {
  double clip;
  View value, old_value, target, dloss, dvalue;
};
}  // namespace expctr
