// Adam and AdamW over named parameters. Dense: the moments of every element move at every step, with or without a gradient.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "engine/nn/named_tensor.h"
#include "engine/ops/optim.h"

namespace expctr {

/// Keeps the moments and the step count; the formula stands at `adamw_update`. Parameters are handles: they change in place.
class Adam {
 public:
  /// The parameters require gradients; names are distinct. Throws Error otherwise.
  explicit Adam(std::vector<NamedTensor> parameters, const AdamOptions& options = {});

  /// One update with the accumulated gradients times `gradient_scale` at this learning rate. Gradients stay: clear_gradients().
  void step(double learning_rate, double gradient_scale = 1.0);
  void step() { step(options_.learning_rate); }
  /// The same with what changes from step to step in device memory (engine/ops/optim.h: step_control, advance_step), so that the step can
  /// be captured; replays are not counted here, see set_steps().
  void step(const Tensor& control);
  void clear_gradients() const;

  const std::vector<NamedTensor>& parameters() const { return parameters_; }
  const AdamOptions& options() const { return options_; }
  /// Steps done; what a checkpoint keeps beside state().
  std::int64_t steps() const { return steps_; }
  void set_steps(std::int64_t steps) { steps_ = steps; }
  /// The moments as handles, "<prefix>first_moment/<parameter>" and "<prefix>second_moment/<parameter>": to be saved, or written into on
  /// loading.
  std::vector<NamedTensor> state(std::string_view prefix = "adam/") const;

 private:
  std::vector<AdamSlot> slots() const;

  std::vector<NamedTensor> parameters_;
  std::vector<Tensor> first_, second_;
  AdamOptions options_;
  std::int64_t steps_ = 0;
};

/// Global norm of the gradients of all parameters; a parameter without one counts as zero.
double gradient_norm(const std::vector<NamedTensor>& parameters);

/// min(1, most / (norm + 1e-6)): the factor for Adam::step that clips to the norm `most`; 1 where most <= 0 (no clipping). Source:
/// torch.nn.utils.clip_grad_norm_.
double clip_factor(double norm, double most);

}  // namespace expctr
