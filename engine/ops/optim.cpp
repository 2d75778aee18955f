#include "engine/ops/optim.h"

#include <vector>

#include "engine/core/op_scope.h"
#include "engine/core/run.h"
#include "engine/ops/layout.h"

namespace expctr {

void adamw_update(std::span<const AdamSlot> slots, const AdamOptions& options, std::int64_t step, double gradient_scale) {
  if (slots.empty()) return;
  const OpScope scope("adamw_update", slots[0].parameter, slots[0].gradient);
  std::vector<AdamTensor> tensors;
  WrittenInPlace written;
  std::vector<Tensor> gradients;
  for (const AdamSlot& slot : slots) {
    require_shape("adamw_update", "gradient", slot.gradient, slot.parameter.shape());
    require_same_place("adamw_update", slot.parameter, slot.gradient);
    require_shape("adamw_update", "first_moment", slot.first_moment, slot.parameter.shape());
    require_shape("adamw_update", "second_moment", slot.second_moment, slot.parameter.shape());
    gradients.push_back(dense(slot.gradient));
    tensors.push_back({written(slot.parameter), gradients.back(), written(slot.first_moment), written(slot.second_moment)});
  }
  run(slots[0].parameter.device(), AdamW{options.learning_rate, options.beta1, options.beta2, options.epsilon, options.weight_decay, gradient_scale, step,
                                         tensors.data(), static_cast<int>(tensors.size())});
  written.copy_back();
}

}  // namespace expctr
