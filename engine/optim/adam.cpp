#include "engine/optim/adam.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "base/error.h"
#include "engine/ops/reduce.h"

namespace expctr {

Adam::Adam(std::vector<NamedTensor> parameters, const AdamOptions& options) : parameters_(std::move(parameters)), options_(options) {
  std::set<std::string> names;
  for (const auto& [name, tensor] : parameters_) {
    if (!tensor.requires_gradient())
      throw Error(fmt::format("Adam: parameter '{}' does not require a gradient", name), "call require_gradient() on it first");
    if (!names.insert(name).second) throw Error(fmt::format("Adam: two parameters are called '{}'", name));
    first_.push_back(Tensor::zeros(tensor.shape(), tensor.dtype(), tensor.device()));
    second_.push_back(Tensor::zeros(tensor.shape(), tensor.dtype(), tensor.device()));
  }
}

std::vector<AdamSlot> Adam::slots() const {
  std::vector<AdamSlot> slots;
  slots.reserve(parameters_.size());
  for (std::size_t i = 0; i < parameters_.size(); ++i)
    slots.push_back({parameters_[i].tensor, parameters_[i].tensor.gradient(), first_[i], second_[i]});
  return slots;
}

void Adam::step(double learning_rate, double gradient_scale) {
  AdamOptions options = options_;
  options.learning_rate = learning_rate;
  adamw_update(slots(), options, ++steps_, gradient_scale);
}

void Adam::step(const Tensor& control) {
  adamw_update(slots(), options_, control);
  ++steps_;
}

void Adam::clear_gradients() const {
  for (const NamedTensor& parameter : parameters_) parameter.tensor.clear_gradient();
}

std::vector<NamedTensor> Adam::state(std::string_view prefix) const {
  std::vector<NamedTensor> result;
  for (std::size_t i = 0; i < parameters_.size(); ++i)
    result.push_back({fmt::format("{}first_moment/{}", prefix, parameters_[i].name), first_[i]});
  for (std::size_t i = 0; i < parameters_.size(); ++i)
    result.push_back({fmt::format("{}second_moment/{}", prefix, parameters_[i].name), second_[i]});
  return result;
}

double gradient_norm(const std::vector<NamedTensor>& parameters) {
  std::vector<Tensor> gradients;
  for (const NamedTensor& parameter : parameters) {
    if (parameter.tensor.has_gradient()) gradients.push_back(parameter.tensor.gradient());
  }
  return global_norm(gradients);
}

double clip_factor(double norm, double most) { return most <= 0.0 ? 1.0 : std::min(1.0, most / (norm + 1e-6)); }

}  // namespace expctr
