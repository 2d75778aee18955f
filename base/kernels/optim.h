// Arguments of optimiser updates: one launch for all tensors.
#pragma once

#include "base/view.h"

namespace expctr {

struct AdamTensor {
  View parameter, gradient, first_moment, second_moment;
};
/// g = gradient_scale * gradient;  p -= lr * decay * p (AdamW: before the step);  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;
/// p -= lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + epsilon), t = step >= 1.   Source: Kingma and Ba 2015; Loshchilov and Hutter 2019, in PyTorch's order.
struct AdamW {
  double learning_rate, beta1, beta2, epsilon, weight_decay, gradient_scale;
  std::int64_t step;
  const AdamTensor* tensors;
  int count;
  /// What changes from step to step, where the tensors are: [3] f64, learning rate, step and gradient scale, used instead of the three
  /// above. So a step that was captured once can be replayed. May be empty.
  View control = {};
  View scratch = {};
};
/// Before an update with `control`: control[1] += 1 (the step), control[2] = min(1, most / (sqrt(total) + 1e-6)) (the gradient scale; 1 where
/// most <= 0). total [1] f64: the squared norm of all gradients; control[0], the learning rate, stays.
/// Source: torch.nn.utils.clip_grad_norm_.
struct AdvanceStep {
  double most;
  View total, control;
};

}  // namespace expctr
