// Optimiser updates: one launch for all tensors.
#pragma once

#include <span>

#include "base/kernels/optim.h"
#include "engine/core/tensor.h"

namespace expctr {

struct AdamOptions {
  double learning_rate = 1e-3, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weight_decay = 0.0;
};
struct AdamSlot {
  Tensor parameter, gradient, first_moment, second_moment;
};
/// One AdamW step (Adam when weight_decay is 0) in place; step counts from 1; gradients are multiplied by gradient_scale first. Formula: AdamW in base/kernels/optim.h.
void adamw_update(std::span<const AdamSlot> slots, const AdamOptions& options, std::int64_t step, double gradient_scale = 1.0);

}  // namespace expctr
