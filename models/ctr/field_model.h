// Click models on the fields of a row, without a history block: LR, FM, DNN, DeepFM, IPNN, DCNv2 (full matrices or a mixture of low-rank
// ones) and AutoInt.   Source: FuxiCTR's definitions (specs/ctr-models.md sections 1, 2).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "models/ctr/fields.h"
#include "models/ctr/mlp.h"
#include "models/named_tensor.h"

namespace expctr {

enum class FieldModelKind { lr, fm, dnn, deepfm, ipnn, dcnv2, autoint };
/// "lr", "fm", "dnn", "deepfm", "ipnn", "dcnv2" or "autoint". Throws UsageError.
FieldModelKind parse_field_model(std::string_view name);

struct FieldModelOptions {
  FieldModelKind kind = FieldModelKind::deepfm;
  std::vector<CtrField> fields;
  std::int64_t embedding = 10;
  double embedding_deviation = 1e-4;      ///< of the initial normal distribution
  std::vector<std::int64_t> mlp = {400};  ///< hidden widths; empty: no MLP (AutoInt)
  double dropout = 0.0;                   ///< of the MLP
  bool row_gradients = false;             ///< gradients of the tables by rows (engine/autograd/row_gradient.h)
  // DCNv2.
  std::int64_t cross_layers = 3;
  std::int64_t experts = 0, rank = 32;  ///< experts 0: one full matrix a layer
  // AutoInt.
  std::int64_t attention_layers = 3, attention_width = 40, heads = 2;
  bool residual = true, scale = false, layer_norm = false, wide = false;
};

/// A value inside the model, for tests and explanations: "lr", "fm", "deep", "products", "cross<l>", "gate<l>", "attention<l>".
struct FieldModelOutput {
  Tensor logit;  ///< [rows]
  std::vector<NamedTensor> parts;
};

/// With e_f the vector of field f [embedding], x_0 their concatenation, F fields:
///   LR: sum of 1-d embeddings + bias.  FM: LR + 1/2 sum_d ((sum_f e_fd)^2 - sum_f e_fd^2).  DNN: MLP(x_0).  DeepFM: FM + MLP(x_0).
///   IPNN: MLP(concat[x_0, <e_f, e_g> for f < g]).
///   DCNv2: x_{l+1} = x_l + x_0 * (W_l x_l + b_l), or with experts x_l + sum_e gate_e x_0 * (U_e tanh(C_e tanh(V_e^T x_l)) + b_l), gate =
///   softmax of one matrix for all layers; Linear(concat[x_L, last hidden layer of the MLP]). AutoInt: per layer h <-
///   ReLU(LayerNorm(attention(h) + residual)); Linear(concat h) + MLP(x_0) + sum of 1-d embeddings (`wide`, no bias).
class FieldModel {
 public:
  /// Throws UsageError when the options make no model.
  FieldModel(const FieldModelOptions& options, std::uint64_t seed, DType dtype = DType::f32, Device device = {});

  /// One FieldIds for each field, [rows]; lists are averaged. `mode.sample_ids` [rows] i32 where dropout is on.
  FieldModelOutput forward(const std::vector<FieldIds>& fields, const CtrMode& mode) const;

  const FieldModelOptions& options() const { return options_; }
  /// emb.<field>, lr.<field> (the tables, first), then lr.bias, mlp.*, deep.*, cross.*, gate.weight, attention.*, fc.*
  std::vector<NamedTensor> parameters() const;
  std::vector<NamedTensor> tables() const;

 private:
  struct Expert {
    Tensor u, v, c;  ///< [experts, width, rank], [experts, width, rank], [experts, rank, rank]
  };
  struct Attention {
    Tensor query, key, value, residual, gain, shift;  ///< [width, inputs]; residual undefined: the input itself, or none
  };
  bool has_wide() const;
  bool has_vectors() const { return options_.kind != FieldModelKind::lr; }
  Tensor add_table(const Initialiser& initial, const std::string& name, std::int64_t rows, std::int64_t width) const;
  void make_cross(const Initialiser& initial, std::int64_t width);
  void make_attention(const Initialiser& initial);
  Tensor embed(const std::vector<Tensor>& tables, const std::vector<FieldIds>& fields) const;
  Tensor fm(const Tensor& x, std::int64_t rows) const;
  Tensor products(const Tensor& x, std::int64_t rows) const;
  Tensor cross(const Tensor& x, std::vector<NamedTensor>& parts) const;
  Tensor mixture(std::size_t layer, const Tensor& x, const Tensor& current, std::vector<NamedTensor>& parts) const;
  Tensor attend(const Tensor& x, std::int64_t rows, std::vector<NamedTensor>& parts) const;

  FieldModelOptions options_;
  DType dtype_;
  Device device_;
  std::vector<Tensor> vectors_, wide_;
  Tensor wide_bias_, gate_;
  Mlp mlp_;
  std::vector<Linear> cross_;
  std::vector<Expert> experts_;
  std::vector<Tensor> expert_bias_;
  std::vector<Attention> attention_;
  Linear output_;
};

}  // namespace expctr
