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
};

}  // namespace expctr
