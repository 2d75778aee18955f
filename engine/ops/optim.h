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

/// What changes from step to step, in the memory of a device: [3] f64, learning rate, steps done, gradient scale. A step that reads it can be
/// captured once and replayed: write control[0] before a replay, advance_step does the rest.
Tensor step_control(double learning_rate, std::int64_t steps_done, Device device);
/// Before an update with `control`: counts the step and sets the gradient scale to min(1, most / (norm + 1e-6)), 1 where most <= 0, from the
/// squared norm [1] f64 of the gradients (squared_norm in engine/ops/reduce.h). Everything stays on the device.
void advance_step(const Tensor& control, const Tensor& squared_norm, double most);
/// The same step with learning rate, step (from 1) and gradient scale from `control`.
void adamw_update(std::span<const AdamSlot> slots, const AdamOptions& options, const Tensor& control);

}  // namespace expctr
