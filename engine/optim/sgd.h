// Gradient descent with momentum over named parameters with dense gradients.
#pragma once

#include <string_view>
#include <vector>

#include "engine/nn/named_tensor.h"
#include "engine/ops/optim_tables.h"

namespace expctr {

/// Keeps the velocities; formula: `sgd_update`. Parameters are handles: they change in place, one launch for all.
class Sgd {
 public:
  /// The parameters require dense gradients; names are distinct; Nesterov needs a momentum. Throws Error otherwise.
  explicit Sgd(std::vector<NamedTensor> parameters, const SgdOptions& options = {});

  /// One update with the accumulated gradients times `gradient_scale` at this learning rate. Gradients stay: clear_gradients().
  void step(double learning_rate, double gradient_scale = 1.0);
  void step() { step(options_.learning_rate); }
  void clear_gradients() const;

  const std::vector<NamedTensor>& parameters() const { return parameters_; }
  const SgdOptions& options() const { return options_; }
  /// The velocities as handles, "<prefix>velocity/<parameter>": to be saved, or written into on loading. None without momentum.
  std::vector<NamedTensor> state(std::string_view prefix = "sgd/") const;

 private:
  std::vector<NamedTensor> parameters_;
  std::vector<Tensor> velocity_;
  SgdOptions options_;
};

}  // namespace expctr
