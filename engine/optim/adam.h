// Adam and AdamW over named parameters. Dense by default: the moments of every element move at every step, with or without a gradient.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "engine/nn/named_tensor.h"
#include "engine/ops/optim.h"
#include "engine/ops/optim_tables.h"

namespace expctr {

/// How one parameter is treated.
struct AdamRule {
  double l2 =
      0.0;  ///< lambda of (lambda / 2) |parameter|^2 in the loss: adds lambda p to the gradient, over the whole tensor at every step
  bool lazy = false;  ///< a table with row gradients of which only the rows with a gradient move, their moments too; not with l2
};

/// Keeps the moments and the step count; formulas: `adamw_update`, with a rule `table_adam_update` and `row_adam_update`. Parameters are
/// handles: they change in place. A table marked with require_row_gradient() gets the same values as with a dense gradient (unless lazy),
/// in one pass over the table and without a gradient of its size. At most one launch for each of the three kinds of parameters.
class Adam {
 public:
  /// The parameters require gradients; names are distinct. `rules`: one for each parameter, or none. Throws Error otherwise.
  explicit Adam(std::vector<NamedTensor> parameters, const AdamOptions& options = {}, std::vector<AdamRule> rules = {});

  /// One update with the accumulated gradients times `gradient_scale` at this learning rate. Gradients stay: clear_gradients().
  void step(double learning_rate, double gradient_scale = 1.0);
  void step() { step(options_.learning_rate); }
  /// The same with what changes from step to step in device memory (engine/ops/optim.h: step_control, advance_step), so that the step can
  /// be captured; replays are not counted here, see set_steps().
  void step(const Tensor& control);
  /// The same with the gradients scaled by min(1, most / (norm + 1e-6)), norm as gradient_norm() (most <= 0: no clipping); on CUDA nothing
  /// waits for the device. Returns norm^2, f64 [1] on the parameters' device.
  Tensor step_clipped(double learning_rate, double most);
  void clear_gradients() const;

  /// Global norm of all gradients, those of the rules' l2 included.
  double gradient_norm();

  const std::vector<NamedTensor>& parameters() const { return parameters_; }
  const AdamOptions& options() const { return options_; }
  /// Steps done; what a checkpoint keeps beside state().
  std::int64_t steps() const { return steps_; }
  /// To go on from a checkpoint, after parameters and state() have been read.
  void set_steps(std::int64_t steps);
  /// To be called when somebody else has written into a parameter that has an l2 and a row gradient: its sum of squares is taken anew.
  void parameters_changed() { squares_known_ = false; }
  /// The moments as handles, "<prefix>first_moment/<parameter>" and "<prefix>second_moment/<parameter>": to be saved, or written into on
  /// loading.
  std::vector<NamedTensor> state(std::string_view prefix = "adam/") const;

 private:
  enum class Kind { table, plain, lazy };  // table: an l2 or a row gradient, and every element moves
  Kind kind(std::size_t i) const;
  std::vector<AdamSlot> plain_slots() const;
  /// Parameters of these kinds with their gradients, tables first: the order of squares_.
  std::vector<RegularisedSlot> slots(bool tables, bool plain, bool lazy) const;
  Tensor squared_norm();

  std::vector<NamedTensor> parameters_;
  std::vector<Tensor> first_, second_;
  AdamOptions options_;
  std::vector<AdamRule> rules_;
  std::int64_t steps_ = 0, tables_ = 0;
  Tensor squares_;  // f64 [parameters]: sums of squares of the tables; defined when one of them has an l2
  bool squares_known_ = false;
};

/// Global norm of the gradients of all parameters, dense or by rows; a parameter without one counts as zero.
double gradient_norm(const std::vector<NamedTensor>& parameters);

/// min(1, most / (norm + 1e-6)): the factor for Adam::step that clips to the norm `most`; 1 where most <= 0 (no clipping). Source:
/// torch.nn.utils.clip_grad_norm_.
double clip_factor(double norm, double most);

/// Limits every element of every gradient to [-limit, limit].   Source: torch.nn.utils.clip_grad_value_.
void clip_gradient_values(const std::vector<NamedTensor>& parameters, double limit);

}  // namespace expctr
