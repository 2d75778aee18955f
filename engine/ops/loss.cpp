#include "engine/ops/loss.h"

#include "engine/autograd/tape.h"
#include "engine/core/op_scope.h"
#include "engine/core/run.h"
#include "engine/ops/layout.h"

namespace expctr {

Tensor log_probability(const Tensor& logits, const Tensor& targets) {
  const OpScope scope("log_probability", logits, targets);
  if (!scope.dense()) return expctr::log_probability(dense(logits), dense(targets));
  require_rank("log_probability", "logits", logits, 2);
  require_shape("log_probability", "targets", targets, {logits.dim(0)}, "one target per row");
  Tensor y = Tensor::empty({logits.dim(0)}, parameter_dtype(logits.dtype()), logits.device()), log_sum_exp = y.empty_like();
  run(logits.device(), CrossEntropyForward{logits, targets, y, log_sum_exp});
  return record("log_probability", y, {logits}, [=](const Tensor& dy, const GradientSlots& d) {
    run(logits.device(), CrossEntropyBackward{logits, targets, log_sum_exp, dy, d[0]});
  });
}

Tensor bce_with_logits(const Tensor& logits, const Tensor& labels) {
  const OpScope scope("bce_with_logits", logits, labels);
  if (!scope.dense()) return bce_with_logits(dense(logits), dense(labels));
  require_rank("bce_with_logits", "logits", logits, 1);
  require_parameter("bce_with_logits", "labels", logits, labels);
  require_shape("bce_with_logits", "labels", labels, logits.shape(), "one label per logit");
  Tensor y = Tensor::empty(logits.shape(), parameter_dtype(logits.dtype()), logits.device());
  run(logits.device(), BceForward{logits, labels, y});
  return record("bce_with_logits", y, {logits}, [=](const Tensor& dy, const GradientSlots& d) { run(logits.device(), BceBackward{logits, labels, dy, d[0]}); });
}

PolicyLoss policy_loss(const Tensor& log_probability, const Tensor& old_log_probability, const Tensor& advantage, double clip) {
  const OpScope scope("policy_loss", log_probability, old_log_probability, advantage);
  if (!scope.dense()) return policy_loss(dense(log_probability), dense(old_log_probability), dense(advantage), clip);
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
  const OpScope scope("value_loss", value, old_value, target);
  if (!scope.dense()) return value_loss(dense(value), dense(old_value), dense(target), clip);
  require_rank("value_loss", "value", value, 1);
  require_shape("value_loss", "old_value", old_value, value.shape());
  require_shape("value_loss", "target", target, value.shape());
  require_parameter("value_loss", "old_value", value, old_value);
  require_parameter("value_loss", "target", value, target);
  Tensor y = Tensor::empty(value.shape(), parameter_dtype(value.dtype()), value.device());
  run(value.device(), ValueLossForward{clip, value, old_value, target, y});
  return record("value_loss", y, {value}, [=](const Tensor& dy, const GradientSlots& d) {
    run(value.device(), ValueLossBackward{clip, value, old_value, target, dy, d[0]});
  });
}

}  // namespace expctr
