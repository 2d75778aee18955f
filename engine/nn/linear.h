// A linear layer over a dense (possibly trained) or a frozen, packed weight.
#pragma once

#include "engine/core/tensor.h"
#include "engine/ops/linear.h"

namespace expctr {

/// y = x W^T + b; x [rows, inputs] -> [rows, outputs].
class Linear {
 public:
  Linear() = default;
  /// weight [outputs, inputs], bias [outputs] or undefined; trained where they require a gradient.
  static Linear dense(const Tensor& weight, const Tensor& bias = {});
  /// bias [outputs] or undefined; nothing of it is trained.
  static Linear frozen(const FrozenWeight& weight, const Tensor& bias = {});

  Tensor operator()(const Tensor& x) const;
  std::int64_t outputs() const { return frozen_.defined() ? frozen_.outputs() : weight_.dim(0); }
  std::int64_t inputs() const { return frozen_.defined() ? frozen_.inputs() : weight_.dim(1); }
  bool defined() const { return frozen_.defined() || weight_.defined(); }
  bool is_frozen() const { return frozen_.defined(); }
  const FrozenWeight& frozen_weight() const { return frozen_; }
  const Tensor& weight() const { return weight_; }
  const Tensor& bias() const { return bias_; }

 private:
  FrozenWeight frozen_;
  Tensor weight_, bias_;
};

}  // namespace expctr
