#include "engine/optim/adam.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "base/error.h"
#include "engine/autograd/row_gradient.h"
#include "engine/ops/reduce.h"

namespace expctr {
namespace {

// Memory of all gradients there are.
std::vector<Tensor> gradients_of(const std::vector<NamedTensor>& parameters) {
  std::vector<Tensor> gradients;
  for (const NamedTensor& parameter : parameters) {
    if (!parameter.tensor.has_gradient()) continue;
    gradients.push_back(parameter.tensor.wants_row_gradient() ? parameter.tensor.row_gradient().rows : parameter.tensor.gradient());
  }
  return gradients;
}

}  // namespace

Adam::Adam(std::vector<NamedTensor> parameters, const AdamOptions& options, std::vector<AdamRule> rules)
    : parameters_(std::move(parameters)), options_(options), rules_(std::move(rules)) {
  if (rules_.empty()) rules_.resize(parameters_.size());
  if (rules_.size() != parameters_.size())
    throw Error(fmt::format("Adam: {} rules for {} parameters", rules_.size(), parameters_.size()),
                "give one rule for each parameter, or none");
  std::set<std::string> names;
  bool squares = false;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const auto& [name, tensor] = parameters_[i];
    if (!tensor.requires_gradient())
      throw Error(fmt::format("Adam: parameter '{}' does not require a gradient", name), "call require_gradient() on it first");
    if (!names.insert(name).second) throw Error(fmt::format("Adam: two parameters are called '{}'", name));
    if (rules_[i].lazy && (!tensor.wants_row_gradient() || rules_[i].l2 != 0.0))
      throw Error(fmt::format("Adam: parameter '{}' cannot be updated lazily", name),
                  "a lazy table is marked with require_row_gradient() and has no l2 over the whole table");
    first_.push_back(Tensor::zeros(tensor.shape(), tensor.dtype(), tensor.device()));
    second_.push_back(Tensor::zeros(tensor.shape(), tensor.dtype(), tensor.device()));
    tables_ += kind(i) == Kind::table;
    squares = squares || (tensor.wants_row_gradient() && rules_[i].l2 != 0.0);
  }
  if (squares) squares_ = Tensor::zeros({std::ssize(parameters_)}, DType::f64, parameters_[0].tensor.device());
}

Adam::Kind Adam::kind(std::size_t i) const {
  if (rules_[i].lazy) return Kind::lazy;
  return rules_[i].l2 != 0.0 || parameters_[i].tensor.wants_row_gradient() ? Kind::table : Kind::plain;
}

std::vector<RegularisedSlot> Adam::slots(bool tables, bool plain, bool lazy) const {
  std::vector<RegularisedSlot> result;
  for (const auto& [wanted, which] : {std::pair{tables, Kind::table}, {plain, Kind::plain}, {lazy, Kind::lazy}}) {
    for (std::size_t i = 0; wanted && i < parameters_.size(); ++i) {
      if (kind(i) != which) continue;
      const Tensor& tensor = parameters_[i].tensor;
      const bool rows = tensor.wants_row_gradient();
      result.push_back(
          {tensor, rows ? Tensor() : tensor.gradient(), rows ? tensor.row_gradient() : RowGradient(), rules_[i].l2, first_[i], second_[i]});
    }
  }
  return result;
}

std::vector<AdamSlot> Adam::plain_slots() const {
  std::vector<AdamSlot> plain;
  for (std::size_t i = 0; i < parameters_.size(); ++i)
    if (kind(i) == Kind::plain) plain.push_back({parameters_[i].tensor, parameters_[i].tensor.gradient(), first_[i], second_[i]});
  return plain;
}

Tensor Adam::squared_norm() {
  const std::vector<RegularisedSlot> all = slots(true, true, true);
  if (squares_.defined() && !squares_known_)
    sum_of_squares(std::span(all).first(static_cast<std::size_t>(tables_)), squares_.slice_rows(0, tables_));
  squares_known_ = true;
  return regularised_norm(all, squares_);
}

double Adam::gradient_norm() { return std::sqrt(squared_norm().to_vector<double>()[0]); }

void Adam::step(double learning_rate, double gradient_scale) {
  AdamOptions options = options_;
  options.learning_rate = learning_rate;
  ++steps_;
  adamw_update(plain_slots(), options, steps_, gradient_scale);
  const GradientFactor scale{gradient_scale, 0.0, {}};
  table_adam_update(slots(true, false, false), options, steps_, scale, squares_.defined() ? squares_.slice_rows(0, tables_) : Tensor());
  row_adam_update(slots(false, false, true), options, steps_, scale);
  squares_known_ = true;
}

void Adam::step(const Tensor& control) {
  if (plain_slots().size() != parameters_.size())
    throw Error("Adam: a step that is captured updates plain parameters only", "leave out l2 and row gradients, or use step_clipped");
  adamw_update(plain_slots(), options_, control);
  ++steps_;
}

Tensor Adam::step_clipped(double learning_rate, double most) {
  AdamOptions options = options_;
  options.learning_rate = learning_rate;
  const Tensor norm = squared_norm();
  const GradientFactor scale = most > 0.0 ? GradientFactor{1.0, most, norm} : GradientFactor{};
  ++steps_;
  const std::vector<RegularisedSlot> whole = slots(true, true, false);
  table_adam_update(whole, options, steps_, scale, squares_.defined() ? squares_.slice_rows(0, std::ssize(whole)) : Tensor());
  row_adam_update(slots(false, false, true), options, steps_, scale);
  return norm;
}

void Adam::clear_gradients() const {
  for (const NamedTensor& parameter : parameters_) parameter.tensor.clear_gradient();
}

void Adam::set_steps(std::int64_t steps) {
  steps_ = steps;
  squares_known_ = false;
}

std::vector<NamedTensor> Adam::state(std::string_view prefix) const {
  std::vector<NamedTensor> result;
  for (std::size_t i = 0; i < parameters_.size(); ++i)
    result.push_back({fmt::format("{}first_moment/{}", prefix, parameters_[i].name), first_[i]});
  for (std::size_t i = 0; i < parameters_.size(); ++i)
    result.push_back({fmt::format("{}second_moment/{}", prefix, parameters_[i].name), second_[i]});
  return result;
}

double gradient_norm(const std::vector<NamedTensor>& parameters) { return global_norm(gradients_of(parameters)); }

double clip_factor(double norm, double most) { return most <= 0.0 ? 1.0 : std::min(1.0, most / (norm + 1e-6)); }

void clip_gradient_values(const std::vector<NamedTensor>& parameters, double limit) { clip_values(gradients_of(parameters), limit); }

}  // namespace expctr
