#include "engine/ops/optim.h"

#include <vector>

#include "engine/core/run.h"

namespace expctr {

namespace {

std::vector<AdamTensor> tensors_of(std::span<const AdamSlot> slots) {
  std::vector<AdamTensor> tensors;
  tensors.reserve(slots.size());
  for (const AdamSlot& slot : slots) {
    require_shape("adamw_update", "gradient", slot.gradient, slot.parameter.shape());
    require_same_place("adamw_update", slot.parameter, slot.gradient);
    require_shape("adamw_update", "first_moment", slot.first_moment, slot.parameter.shape());
    require_shape("adamw_update", "second_moment", slot.second_moment, slot.parameter.shape());
    tensors.push_back({slot.parameter, slot.gradient, slot.first_moment, slot.second_moment});
  }
  return tensors;
}

}  // namespace

void adamw_update(std::span<const AdamSlot> slots, const AdamOptions& options, std::int64_t step, double gradient_scale) {
  if (slots.empty()) return;
  const std::vector<AdamTensor> tensors = tensors_of(slots);
  run(slots[0].parameter.device(), AdamW{options.learning_rate, options.beta1, options.beta2, options.epsilon, options.weight_decay, gradient_scale, step,
                                         tensors.data(), static_cast<int>(tensors.size())});
}

Tensor step_control(double learning_rate, std::int64_t steps_done, Device device) {
  return Tensor::of(std::vector<double>{learning_rate, static_cast<double>(steps_done), 1.0}, {3}, device);
}

void advance_step(const Tensor& control, const Tensor& squared_norm, double most) {
  require_shape("advance_step", "control", control, {3}, "step_control makes it");
  require_shape("advance_step", "squared_norm", squared_norm, {1});
  require_same_place("advance_step", control, squared_norm);
  run(control.device(), AdvanceStep{most, squared_norm, control});
}

void adamw_update(std::span<const AdamSlot> slots, const AdamOptions& options, const Tensor& control) {
  if (slots.empty()) return;
  require_shape("adamw_update", "control", control, {3}, "step_control makes it");
  const std::vector<AdamTensor> tensors = tensors_of(slots);
  run(slots[0].parameter.device(), AdamW{options.learning_rate, options.beta1, options.beta2, options.epsilon, options.weight_decay, 1.0, 1, tensors.data(),
                                         static_cast<int>(tensors.size()), control, {}});
}

}  // namespace expctr
