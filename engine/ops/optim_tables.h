// Optimiser updates of whole tables and of single rows, gradient descent, norms and clipping. In place, no_gradient; one launch for all
// tensors.
#pragma once

#include <span>

#include "base/kernels/optim_tables.h"
#include "engine/autograd/row_gradient.h"
#include "engine/core/tensor.h"
#include "engine/ops/optim.h"

namespace expctr {

/// Factor of all gradients. With `squared_norm` (f64 [1] on the parameters' device, from regularised_norm) also min(1, most /
/// (sqrt(squared_norm)
/// + 1e-6)): clipping that does not wait for the device.
struct GradientFactor {
  double factor = 1.0, most = 0.0;
  Tensor squared_norm = {};
};

struct SgdOptions {
  double learning_rate = 1e-2, momentum = 0.0, weight_decay = 0.0;
  bool nesterov = false;  ///< with momentum
};
struct SgdSlot {
  Tensor parameter, gradient;
  Tensor velocity;  ///< undefined without momentum; starts as zeros
};
/// One step of gradient descent in place. Formula: SgdUpdate in base/kernels/optim_tables.h. Throws ShapeError.
void sgd_update(std::span<const SgdSlot> slots, const SgdOptions& options, const GradientFactor& scale = {});

/// A parameter with a dense gradient or, for a table [rows, width], one by rows; and lambda of (lambda / 2) |parameter|^2 in the loss.
struct RegularisedSlot {
  Tensor parameter;
  Tensor gradient;   ///< defined: dense
  RowGradient rows;  ///< else by rows; undefined tensors: no row has a gradient
  double l2 = 0.0;
  Tensor first_moment, second_moment;  ///< not used by the norm
};
/// One step of Adam (options.weight_decay: AdamW's) on every element of every parameter, rows without a gradient included; step counts from
/// 1. `squares` (f64 [slots], may be undefined) receives each parameter's sum of squares. Formula: TableAdam. Throws ShapeError.
void table_adam_update(std::span<const RegularisedSlot> slots, const AdamOptions& options, std::int64_t step, const GradientFactor& scale,
                       const Tensor& squares);
/// One step of Adam on the rows that have a gradient, alone: other rows and their moments stay. Formula: RowAdam. Throws ShapeError; Error
/// for a slot with a dense gradient.
void row_adam_update(std::span<const RegularisedSlot> slots, const AdamOptions& options, std::int64_t step, const GradientFactor& scale);

/// squares (f64 [slots]) = each parameter's sum of squares, with the bits of table_adam_update.
void sum_of_squares(std::span<const RegularisedSlot> slots, const Tensor& squares);
/// f64 [1] on the slots' device: sum over all slots of |gradient + l2 parameter|^2. Rows without a gradient are not read: they enter
/// through `squares`. Formula: RegularisedNorm. Throws ShapeError.
Tensor regularised_norm(std::span<const RegularisedSlot> slots, const Tensor& squares);

/// Every element is limited to [-limit, limit], in place.   Source: torch.nn.utils.clip_grad_value_.
void clip_values(std::span<const Tensor> tensors, double limit);

}  // namespace expctr
