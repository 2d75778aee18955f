// The multilayer perceptron of click models: Linear -> activation -> dropout for each hidden layer, then a linear output.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/nn/linear.h"
#include "engine/ops/elementwise.h"
#include "models/named_tensor.h"
#include "models/parameters.h"

namespace expctr {

enum class CtrActivation { relu, dice };
/// "relu" or "dice". Throws UsageError.
CtrActivation parse_ctr_activation(std::string_view name);
const char* ctr_activation_name(CtrActivation activation);

/// How a forward pass is run: with batch statistics and dropout, or with running statistics and none.
struct CtrMode {
  bool training = false;
  Tensor sample_ids;   ///< [rows] i32, names the rows for dropout; used in training with dropout only
  DropoutKey dropout;  ///< seed and step; channels are counted by the layers
};

struct MlpOptions {
  std::int64_t inputs = 0;
  std::vector<std::int64_t> hidden;
  std::int64_t outputs = 1;  ///< 0: no output layer, the last hidden layer is the result
  CtrActivation activation = CtrActivation::relu;
  double dropout = 0.0;
};

/// Activation of one layer; Dice has alpha (trained, from 0) and running statistics.   Source: specs/ctr-models.md section 1.
struct CtrLayerActivation {
  CtrActivation kind = CtrActivation::relu;
  Tensor alpha, running_mean, running_variance;
  Tensor operator()(const Tensor& x, bool training) const;
};

class Mlp {
 public:
  Mlp() = default;
  /// Xavier-normal weights, zero biases, under the names "<name>.<layer>.weight", ".bias", "<name>.alpha<layer>".
  Mlp(std::string name, const MlpOptions& options, const Initialiser& initial);

  /// x [rows, inputs] -> [rows, outputs].
  Tensor operator()(const Tensor& x, const CtrMode& mode, std::uint32_t first_channel = 0) const;
  /// Everything after the first linear map; z [rows, hidden[0]] is that map's result. For callers that compute it in parts.
  Tensor after_first(const Tensor& z, const CtrMode& mode, std::uint32_t first_channel = 0) const;
  const Linear& layer(std::size_t i) const { return layers_[i]; }

  void add_parameters(std::vector<NamedTensor>& to) const;
  /// Running statistics, "<name>.running_mean<layer>", "<name>.running_var<layer>".
  void add_buffers(std::vector<NamedTensor>& to) const;

 private:
  std::string name_;
  MlpOptions options_;
  std::vector<Linear> layers_;
  std::vector<CtrLayerActivation> activations_;
};

}  // namespace expctr
