#include "engine/ops/loss.h"

#include "engine/autograd/tape.h"
#include "engine/core/run.h"

namespace expctr {

Tensor log_probability(const Tensor& logits, const Tensor& targets) {
  require_rank("log_probability", "logits", logits, 2);
  require_shape("log_probability", "targets", targets, {logits.dim(0)}, "one target per row");
  Tensor y = Tensor::empty({logits.dim(0)}, logits.dtype(), logits.device()), log_sum_exp = y.empty_like();
  run(logits.device(), CrossEntropyForward{logits, targets, y, log_sum_exp});
  return record("log_probability", y, {logits}, [=](const Tensor& dy, const GradientSlots& d) {
    run(logits.device(), CrossEntropyBackward{logits, targets, log_sum_exp, dy, d[0]});
  });
}

Tensor bce_with_logits(const Tensor& logits, const Tensor& labels) {
  require_rank("bce_with_logits", "logits", logits, 1);
  require_same_place("bce_with_logits", logits, labels);
  require_shape("bce_with_logits", "labels", labels, logits.shape(), "one label per logit");
  Tensor y = logits.empty_like();
  run(logits.device(), BceForward{logits, labels, y});
  return record("bce_with_logits", y, {logits}, [=](const Tensor& dy, const GradientSlots& d) { run(logits.device(), BceBackward{logits, labels, dy, d[0]}); });
}

PolicyLoss policy_loss(const Tensor& log_probability, const Tensor& old_log_probability, const Tensor& advantage, double clip) {
  require_rank("policy_loss", "log_probability", log_probability, 1);
  require_shape("policy_loss", "old_log_probability", old_log_probability, log_probability.shape());
  require_shape("policy_loss", "advantage", advantage, log_probability.shape());
  PolicyLoss result{log_probability.empty_like(), log_probability.empty_like()};
  run(log_probability.device(), PolicyLossForward{clip, log_probability, old_log_probability, advantage, result.loss, result.clipped});
  result.loss = record("policy_loss", result.loss, {log_probability}, [=](const Tensor& dy, const GradientSlots& d) {
    run(log_probability.device(), PolicyLossBackward{clip, log_probability, old_log_probability, advantage, dy, d[0]});
  });
  return result;
}

Tensor value_loss(const Tensor& value, const Tensor& old_value, const Tensor& target, double clip) {
  require_rank("value_loss", "value", value, 1);
  require_shape("value_loss", "old_value", old_value, value.shape());
  require_shape("value_loss", "target", target, value.shape());
  Tensor y = value.empty_like();
  run(value.device(), ValueLossForward{clip, value, old_value, target, y});
  return record("value_loss", y, {value}, [=](const Tensor& dy, const GradientSlots& d) {
    run(value.device(), ValueLossBackward{clip, value, old_value, target, dy, d[0]});
  });
}

}  // namespace expctr
