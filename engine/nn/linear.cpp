#include "engine/nn/linear.h"

#include "engine/ops/matmul.h"

namespace expctr {

Linear Linear::dense(const Tensor& weight, const Tensor& bias) {
  require_rank("linear", "weight", weight, 2);
  if (bias.defined()) require_shape("linear", "bias", bias, {weight.dim(0)}, "one value per output");
  Linear layer;
  layer.weight_ = weight;
  layer.bias_ = bias;
  return layer;
}

Linear Linear::frozen(const FrozenWeight& weight, const Tensor& bias) {
  if (bias.defined()) require_shape("linear", "bias", bias, {weight.outputs()}, "one value per output");
  Linear layer;
  layer.frozen_ = weight;
  layer.bias_ = bias;
  return layer;
}

Tensor Linear::operator()(const Tensor& x) const {
  if (frozen_.defined()) return linear_frozen(x, frozen_, bias_);
  return bias_.defined() ? matmul_bias(x, weight_, bias_, Activation::none, false, true) : matmul(x, weight_, false, true);
}

}  // namespace expctr
