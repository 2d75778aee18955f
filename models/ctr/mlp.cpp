#include "models/ctr/mlp.h"

#include <fmt/format.h>

#include "base/error.h"
#include "engine/ops/norm.h"

namespace expctr {

CtrActivation parse_ctr_activation(std::string_view name) {
  if (name == "relu") return CtrActivation::relu;
  if (name == "dice") return CtrActivation::dice;
  throw UsageError(fmt::format("unknown activation '{}'", name), "relu or dice");
}

const char* ctr_activation_name(CtrActivation activation) { return activation == CtrActivation::relu ? "relu" : "dice"; }

Tensor CtrLayerActivation::operator()(const Tensor& x, bool training) const {
  return kind == CtrActivation::relu ? relu(x) : dice(x, alpha, running_mean, running_variance, training);
}

Mlp::Mlp(std::string name, const MlpOptions& options, const Initialiser& initial) : name_(std::move(name)), options_(options) {
  std::vector<std::int64_t> sizes = options.hidden;
  if (options.outputs > 0) sizes.push_back(options.outputs);
  std::int64_t inputs = options.inputs;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    Tensor weight = initial.xavier_normal(fmt::format("{}.{}.weight", name_, i), sizes[i], inputs);
    Tensor bias = initial.constant({sizes[i]}, 0.0);
    layers_.push_back(Linear::dense(weight.require_gradient(), bias.require_gradient()));
    inputs = sizes[i];
    if (i >= options.hidden.size()) continue;
    CtrLayerActivation activation{options.activation, {}, {}, {}};
    if (options.activation == CtrActivation::dice) {
      activation.alpha = initial.constant({sizes[i]}, 0.0);
      activation.alpha.require_gradient();
      activation.running_mean = initial.constant({sizes[i]}, 0.0);
      activation.running_variance = initial.constant({sizes[i]}, 1.0);
    }
    activations_.push_back(std::move(activation));
  }
}

Tensor Mlp::operator()(const Tensor& x, const CtrMode& mode, std::uint32_t first_channel) const {
  if (layers_.empty()) return x;
  const Tensor z = layers_[0](x);
  return activations_.empty() ? z : after_first(z, mode, first_channel);
}

Tensor Mlp::after_first(const Tensor& z, const CtrMode& mode, std::uint32_t first_channel) const {
  Tensor x = z;
  for (std::size_t i = 0; i < activations_.size(); ++i) {
    if (i > 0) x = layers_[i](x);
    x = activations_[i](x, mode.training);
    if (mode.training && options_.dropout > 0.0) {
      DropoutKey key = mode.dropout;
      key.channel = first_channel + static_cast<std::uint32_t>(i);
      x = dropout(x, mode.sample_ids, options_.dropout, key);
    }
  }
  return layers_.size() > activations_.size() ? layers_.back()(x) : x;
}

void Mlp::add_parameters(std::vector<NamedTensor>& to) const {
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    to.push_back({fmt::format("{}.{}.weight", name_, i), layers_[i].weight()});
    to.push_back({fmt::format("{}.{}.bias", name_, i), layers_[i].bias()});
    if (i < activations_.size() && activations_[i].alpha.defined())
      to.push_back({fmt::format("{}.alpha{}", name_, i), activations_[i].alpha});
  }
}

void Mlp::add_buffers(std::vector<NamedTensor>& to) const {
  for (std::size_t i = 0; i < activations_.size(); ++i) {
    if (!activations_[i].running_mean.defined()) continue;
    to.push_back({fmt::format("{}.running_mean{}", name_, i), activations_[i].running_mean});
    to.push_back({fmt::format("{}.running_var{}", name_, i), activations_[i].running_variance});
  }
}

}  // namespace expctr
