#include "engine/ops/optim.h"

#include <vector>

#include "engine/core/op_scope.h"
#include "engine/core/run.h"
#include "engine/ops/layout.h"

namespace expctr {

namespace {

/// The slots as kernels take them: gradients made dense, what is written in place brought home afterwards.
class DenseSlots {
 public:
  explicit DenseSlots(std::span<const AdamSlot> slots) {
    tensors_.reserve(slots.size());
    for (const AdamSlot& slot : slots) {
      require_shape("adamw_update", "gradient", slot.gradient, slot.parameter.shape());
      require_same_place("adamw_update", slot.parameter, slot.gradient);
      require_shape("adamw_update", "first_moment", slot.first_moment, slot.parameter.shape());
      require_shape("adamw_update", "second_moment", slot.second_moment, slot.parameter.shape());
      gradients_.push_back(dense(slot.gradient));
      tensors_.push_back({written_(slot.parameter), gradients_.back(), written_(slot.first_moment), written_(slot.second_moment)});
    }
  }
  const AdamTensor* data() const { return tensors_.data(); }
  int count() const { return static_cast<int>(tensors_.size()); }
  void copy_back() const { written_.copy_back(); }

 private:
  std::vector<AdamTensor> tensors_;
  WrittenInPlace written_;
  std::vector<Tensor> gradients_;
};

}  // namespace

void adamw_update(std::span<const AdamSlot> slots, const AdamOptions& options, std::int64_t step, double gradient_scale) {
  if (slots.empty()) return;
  const OpScope scope("adamw_update", slots[0].parameter, slots[0].gradient);
  const DenseSlots dense_slots(slots);
  run(slots[0].parameter.device(), AdamW{options.learning_rate, options.beta1, options.beta2, options.epsilon, options.weight_decay, gradient_scale, step,
                                         dense_slots.data(), dense_slots.count()});
  dense_slots.copy_back();
}

Tensor step_control(double learning_rate, std::int64_t steps_done, Device device) {
  return Tensor::of(std::vector<double>{learning_rate, static_cast<double>(steps_done), 1.0}, {3}, device);
}

void advance_step(const Tensor& control, const Tensor& squared_norm, double most) {
  const OpScope scope("advance_step", control, squared_norm);
  require_shape("advance_step", "control", control, {3}, "step_control makes it");
  require_shape("advance_step", "squared_norm", squared_norm, {1});
  require_same_place("advance_step", control, squared_norm);
  WrittenInPlace written;
  run(control.device(), AdvanceStep{most, dense(squared_norm), written(control)});
  written.copy_back();
}

void adamw_update(std::span<const AdamSlot> slots, const AdamOptions& options, const Tensor& control) {
  if (slots.empty()) return;
  const OpScope scope("adamw_update", slots[0].parameter, slots[0].gradient);
  require_shape("adamw_update", "control", control, {3}, "step_control makes it");
  const Tensor dense_control = dense(control);
  const DenseSlots dense_slots(slots);
  run(slots[0].parameter.device(), AdamW{options.learning_rate, options.beta1, options.beta2, options.epsilon, options.weight_decay, 1.0, 1,
                                         dense_slots.data(), dense_slots.count(), dense_control, {}});
  dense_slots.copy_back();
}

}  // namespace expctr
