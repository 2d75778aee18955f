#include "engine/ops/optim_tables.h"

#include <vector>

#include "base/error.h"
#include "engine/core/run.h"

namespace expctr {
namespace {

GradientScale scale_of(const GradientFactor& scale) { return {scale.factor, scale.most, scale.squared_norm}; }

struct Regularised {
  std::vector<RegularisedTensor> tensors;
  std::vector<TableMoments> moments;
  std::vector<Tensor> empty;  // gradients of tables of which no row has one
  int count = 0;

  Regularised(const char* op, std::span<const RegularisedSlot> slots, bool with_gradient, bool with_moments) {
    for (const RegularisedSlot& slot : slots) {
      RegularisedTensor tensor{slot.parameter, {}, {}, slot.l2};
      if (with_gradient && slot.gradient.defined()) {
        require_shape(op, "gradient", slot.gradient, slot.parameter.shape());
        require_same_place(op, slot.parameter, slot.gradient);
        tensor.gradient = slot.gradient;
      } else if (with_gradient) {
        require_rank(op, "parameter", slot.parameter, 2);
        Tensor ids = slot.rows.ids, rows = slot.rows.rows;
        if (!ids.defined()) {
          ids = Tensor::empty({0}, DType::i32, slot.parameter.device());
          rows = Tensor::empty({0, slot.parameter.dim(1)}, slot.parameter.dtype(), slot.parameter.device());
          empty.push_back(ids);
          empty.push_back(rows);
        }
        require_shape(op, "gradient", rows, {ids.size(), slot.parameter.dim(1)});
        require_same_place(op, slot.parameter, rows);
        tensor.gradient = rows;
        tensor.ids = ids;
      }
      if (with_moments) {
        require_shape(op, "first_moment", slot.first_moment, slot.parameter.shape());
        require_shape(op, "second_moment", slot.second_moment, slot.parameter.shape());
        moments.push_back({slot.first_moment, slot.second_moment});
      }
      tensors.push_back(tensor);
    }
    count = static_cast<int>(tensors.size());
  }
};

}  // namespace

void sgd_update(std::span<const SgdSlot> slots, const SgdOptions& options, const GradientFactor& scale) {
  if (slots.empty()) return;
  std::vector<SgdTensor> tensors;
  for (const SgdSlot& slot : slots) {
    require_shape("sgd_update", "gradient", slot.gradient, slot.parameter.shape());
    require_same_place("sgd_update", slot.parameter, slot.gradient);
    if (options.momentum != 0.0) require_shape("sgd_update", "velocity", slot.velocity, slot.parameter.shape());
    tensors.push_back({slot.parameter, slot.gradient, slot.velocity});
  }
  run(slots[0].parameter.device(), SgdUpdate{options.learning_rate, options.momentum, options.weight_decay, options.nesterov,
                                             scale_of(scale), tensors.data(), static_cast<int>(tensors.size())});
}

void table_adam_update(std::span<const RegularisedSlot> slots, const AdamOptions& options, std::int64_t step, const GradientFactor& scale,
                       const Tensor& squares) {
  if (slots.empty()) return;
  const Regularised all("table_adam_update", slots, true, true);
  run(slots[0].parameter.device(), TableAdam{options.learning_rate,
                                             options.beta1,
                                             options.beta2,
                                             options.epsilon,
                                             options.weight_decay,
                                             scale_of(scale),
                                             step,
                                             all.tensors.data(),
                                             all.moments.data(),
                                             all.count,
                                             squares,
                                             {}});
}

void row_adam_update(std::span<const RegularisedSlot> slots, const AdamOptions& options, std::int64_t step, const GradientFactor& scale) {
  if (slots.empty()) return;
  for (const RegularisedSlot& slot : slots)
    if (slot.gradient.defined())
      throw Error("row_adam_update: a parameter with a dense gradient", "mark the table with require_row_gradient()");
  const Regularised all("row_adam_update", slots, true, true);
  run(slots[0].parameter.device(), RowAdam{options.learning_rate, options.beta1, options.beta2, options.epsilon, scale_of(scale), step,
                                           all.tensors.data(), all.moments.data(), all.count});
}

void sum_of_squares(std::span<const RegularisedSlot> slots, const Tensor& squares) {
  if (slots.empty()) return;
  const Regularised all("sum_of_squares", slots, false, false);
  run(slots[0].parameter.device(), SumOfSquares{all.tensors.data(), all.count, squares, {}});
}

Tensor regularised_norm(std::span<const RegularisedSlot> slots, const Tensor& squares) {
  Tensor total = slots.empty() ? Tensor::zeros({1}, DType::f64) : Tensor::empty({1}, DType::f64, slots[0].parameter.device());
  if (slots.empty()) return total;
  const Regularised all("regularised_norm", slots, true, false);
  run(total.device(), RegularisedNorm{all.tensors.data(), all.count, squares, total, {}});
  return total;
}

void clip_values(std::span<const Tensor> tensors, double limit) {
  if (tensors.empty()) return;
  std::vector<View> views(tensors.begin(), tensors.end());
  run(tensors[0].device(), ClipValues{limit, views.data(), static_cast<int>(views.size())});
}

}  // namespace expctr
