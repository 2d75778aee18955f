#include "engine/optim/sgd.h"

#include <fmt/format.h>

#include <set>

#include "base/error.h"

namespace expctr {

Sgd::Sgd(std::vector<NamedTensor> parameters, const SgdOptions& options) : parameters_(std::move(parameters)), options_(options) {
  if (options.nesterov && options.momentum == 0.0) throw Error("Sgd: Nesterov's step without momentum", "set momentum, 0.9 say");
  std::set<std::string> names;
  for (const auto& [name, tensor] : parameters_) {
    if (!tensor.requires_gradient() || tensor.wants_row_gradient())
      throw Error(fmt::format("Sgd: parameter '{}' has no dense gradient", name), "call require_gradient() on it first");
    if (!names.insert(name).second) throw Error(fmt::format("Sgd: two parameters are called '{}'", name));
    velocity_.push_back(options.momentum == 0.0 ? Tensor() : Tensor::zeros(tensor.shape(), tensor.dtype(), tensor.device()));
  }
}

void Sgd::step(double learning_rate, double gradient_scale) {
  std::vector<SgdSlot> slots;
  for (std::size_t i = 0; i < parameters_.size(); ++i)
    slots.push_back({parameters_[i].tensor, parameters_[i].tensor.gradient(), velocity_[i]});
  SgdOptions options = options_;
  options.learning_rate = learning_rate;
  sgd_update(slots, options, {gradient_scale, 0.0, {}});
}

void Sgd::clear_gradients() const {
  for (const NamedTensor& parameter : parameters_) parameter.tensor.clear_gradient();
}

std::vector<NamedTensor> Sgd::state(std::string_view prefix) const {
  std::vector<NamedTensor> result;
  for (std::size_t i = 0; i < parameters_.size(); ++i)
    if (velocity_[i].defined()) result.push_back({fmt::format("{}velocity/{}", prefix, parameters_[i].name), velocity_[i]});
  return result;
}

}  // namespace expctr
