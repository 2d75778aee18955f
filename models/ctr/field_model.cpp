#include "models/ctr/field_model.h"

#include <fmt/format.h>

#include <cmath>

#include "base/error.h"
#include "engine/ops/attention.h"
#include "engine/ops/elementwise.h"
#include "engine/ops/embedding.h"
#include "engine/ops/embedding_rows.h"
#include "engine/ops/loss.h"
#include "engine/ops/matmul.h"
#include "engine/ops/norm.h"
#include "engine/ops/reduce.h"

namespace expctr {
namespace {

constexpr std::int64_t padding_row = 0;

Tensor trained(Tensor tensor) { return tensor.require_gradient(); }

// x [rows, n]: softmax of each row. log_probability of the first class = x_0 - log sum exp.
Tensor softmax_rows(const Tensor& x) {
  const std::int64_t rows = x.dim(0);
  const Tensor first = Tensor::zeros({rows}, DType::i32, x.device());
  const Tensor log_sum_exp = subtract(slice_columns(x, 0, 1), log_probability(x, first).reshape({rows, 1}));
  return unary(Unary::exp, subtract(x, log_sum_exp));
}

}  // namespace

FieldModelKind parse_field_model(std::string_view name) {
  if (name == "lr") return FieldModelKind::lr;
  if (name == "fm") return FieldModelKind::fm;
  if (name == "dnn") return FieldModelKind::dnn;
  if (name == "deepfm") return FieldModelKind::deepfm;
  if (name == "ipnn") return FieldModelKind::ipnn;
  if (name == "dcnv2") return FieldModelKind::dcnv2;
  if (name == "autoint") return FieldModelKind::autoint;
  throw UsageError(fmt::format("unknown click model '{}'", name), "lr, fm, dnn, deepfm, ipnn, dcnv2 or autoint");
}

bool FieldModel::has_wide() const {
  return options_.kind == FieldModelKind::lr || options_.kind == FieldModelKind::fm || options_.kind == FieldModelKind::deepfm ||
         (options_.kind == FieldModelKind::autoint && options_.wide);
}

Tensor FieldModel::add_table(const Initialiser& initial, const std::string& name, std::int64_t rows, std::int64_t width) const {
  Tensor table = initial.normal(name, {rows, width}, options_.embedding_deviation);
  table.slice_rows(padding_row, 1).fill(0.0);
  return options_.row_gradients ? table.require_row_gradient() : table.require_gradient();
}

FieldModel::FieldModel(const FieldModelOptions& options, std::uint64_t seed, DType dtype, Device device)
    : options_(options), dtype_(dtype), device_(device) {
  if (options.fields.empty()) throw UsageError("a click model without fields");
  if (options.embedding < 1) throw UsageError(fmt::format("an embedding of width {}", options.embedding));
  const Initialiser initial{seed, dtype, device};
  for (const CtrField& field : options.fields) {
    if (field.rows < 1) throw UsageError(fmt::format("field '{}' has no rows", field.name));
    if (has_vectors()) vectors_.push_back(add_table(initial, "emb." + field.name, field.rows, options.embedding));
    if (has_wide()) wide_.push_back(add_table(initial, "lr." + field.name, field.rows, 1));
  }
  if (has_wide() && options.kind != FieldModelKind::autoint) wide_bias_ = trained(initial.constant({1}, 0.0));
  const std::int64_t count = std::ssize(options.fields), width = count * options.embedding;
  const MlpOptions deep{width, options.mlp, 1, CtrActivation::relu, options.dropout};
  switch (options.kind) {
    case FieldModelKind::lr:
    case FieldModelKind::fm:
      break;
    case FieldModelKind::dnn:
    case FieldModelKind::deepfm:
      mlp_ = Mlp("mlp", deep, initial);
      break;
    case FieldModelKind::ipnn: {
      MlpOptions with_products = deep;
      with_products.inputs += count * (count - 1) / 2;
      mlp_ = Mlp("mlp", with_products, initial);
      break;
    }
    case FieldModelKind::dcnv2:
      make_cross(initial, width);
      break;
    case FieldModelKind::autoint:
      if (!options.mlp.empty()) mlp_ = Mlp("mlp", deep, initial);
      make_attention(initial);
      break;
  }
}

void FieldModel::make_cross(const Initialiser& initial, std::int64_t width) {
  if (options_.cross_layers < 1 || options_.experts < 0 || options_.rank < 1)
    throw UsageError("DCNv2: cross_layers, experts or rank out of range", "at least 1 layer, 0 experts, rank 1");
  MlpOptions deep{width, options_.mlp, 0, CtrActivation::relu, options_.dropout};
  mlp_ = Mlp("deep", deep, initial);
  const std::int64_t e = options_.experts, r = options_.rank;
  // Xavier bounds of one expert's matrices.
  const double wide_bound = std::sqrt(6.0 / static_cast<double>(width + r)), core_bound = std::sqrt(3.0 / static_cast<double>(r));
  for (std::int64_t l = 0; l < options_.cross_layers; ++l) {
    const std::string name = fmt::format("cross.{}.", l);
    if (e == 0) {
      cross_.push_back(
          Linear::dense(trained(initial.xavier_normal(name + "weight", width, width)), trained(initial.constant({width}, 0.0))));
      continue;
    }
    experts_.push_back({trained(initial.uniform(name + "U", {e, width, r}, wide_bound)),
                        trained(initial.uniform(name + "V", {e, width, r}, wide_bound)),
                        trained(initial.uniform(name + "C", {e, r, r}, core_bound))});
    expert_bias_.push_back(trained(initial.constant({width}, 0.0)));
  }
  if (e > 0) gate_ = trained(initial.xavier_normal("gate.weight", e, width));
  const std::int64_t joined = width + (options_.mlp.empty() ? 0 : options_.mlp.back());
  output_ = Linear::dense(trained(initial.xavier_normal("fc.weight", 1, joined)), trained(initial.constant({1}, 0.0)));
}

void FieldModel::make_attention(const Initialiser& initial) {
  const std::int64_t width = options_.attention_width;
  if (options_.attention_layers < 1 || width < 1 || options_.heads < 1 || width % options_.heads != 0)
    throw UsageError(fmt::format("AutoInt: {} layers of width {} with {} heads", options_.attention_layers, width, options_.heads),
                     "the width is a multiple of the heads");
  std::int64_t inputs = options_.embedding;
  for (std::int64_t l = 0; l < options_.attention_layers; ++l) {
    const auto matrix = [&](const char* part) {
      return trained(initial.xavier_normal(fmt::format("attention.{}.{}", l, part), width, inputs));
    };
    Attention layer{matrix("q"), matrix("k"), matrix("v"), {}, {}, {}};
    if (options_.residual && width != inputs) layer.residual = matrix("res");
    if (options_.layer_norm) {
      layer.gain = trained(initial.constant({width}, 1.0));
      layer.shift = trained(initial.constant({width}, 0.0));
    }
    attention_.push_back(layer);
    inputs = width;
  }
  output_ = Linear::dense(trained(initial.xavier_normal("fc.weight", 1, std::ssize(options_.fields) * width)),
                          trained(initial.constant({1}, 0.0)));
}

// Vectors of all fields side by side, [rows, fields * width].
Tensor FieldModel::embed(const std::vector<Tensor>& tables, const std::vector<FieldIds>& fields) const {
  std::vector<Lookup> lookups;
  bool lists = false;
  for (std::size_t f = 0; f < fields.size(); ++f) {
    lookups.push_back({tables[f], fields[f].ids, padding_row});
    lists = lists || fields[f].offsets.defined();
  }
  if (!lists) return gather_columns(lookups);
  std::vector<Tensor> parts = gather_many(lookups);
  for (std::size_t f = 0; f < fields.size(); ++f)
    if (fields[f].offsets.defined()) parts[f] = segment_mean(parts[f], fields[f].offsets);
  return concat_columns(parts);
}

Tensor FieldModel::fm(const Tensor& x, std::int64_t rows) const {
  const Tensor of_fields = sum(x.reshape({rows, std::ssize(vectors_), options_.embedding}), 1);
  return subtract(sum(unary(Unary::square, of_fields), 1, 0.5), sum(unary(Unary::square, x), 1, 0.5));
}

// <e_f, e_g> for f < g, in the order (0, 1), (0, 2), .., (1, 2), ..
Tensor FieldModel::products(const Tensor& x, std::int64_t rows) const {
  const std::int64_t count = std::ssize(vectors_);
  const Tensor e = x.reshape({rows, count, options_.embedding});
  const Tensor all = matmul(e, e, false, true).reshape({rows, count * count});
  std::vector<Tensor> parts;
  for (std::int64_t f = 0; f + 1 < count; ++f) parts.push_back(slice_columns(all, f * count + f + 1, count - f - 1));
  return concat_columns(parts);
}

Tensor FieldModel::mixture(std::size_t layer, const Tensor& x, const Tensor& current, std::vector<NamedTensor>& parts) const {
  const std::int64_t width = x.dim(1), r = options_.rank;
  const Expert& expert = experts_[layer];
  const Tensor gate = softmax_rows(matmul(current, gate_, false, true));
  parts.push_back({fmt::format("gate{}", layer + 1), gate});
  Tensor next = current;
  for (std::int64_t e = 0; e < options_.experts; ++e) {
    const Tensor u = expert.u.slice_rows(e, 1).reshape({width, r}), v = expert.v.slice_rows(e, 1).reshape({width, r}),
                 c = expert.c.slice_rows(e, 1).reshape({r, r});
    const Tensor inner = unary(Unary::tanh, matmul(unary(Unary::tanh, matmul(current, v)), c, false, true));
    const Tensor value = multiply(x, add(matmul(inner, u, false, true), expert_bias_[layer]));
    next = add(next, multiply(slice_columns(gate, e, 1), value));
  }
  return next;
}

Tensor FieldModel::cross(const Tensor& x, std::vector<NamedTensor>& parts) const {
  Tensor current = x;
  for (std::int64_t l = 0; l < options_.cross_layers; ++l) {
    const auto layer = static_cast<std::size_t>(l);
    current = options_.experts == 0 ? add(current, multiply(x, cross_[layer](current))) : mixture(layer, x, current, parts);
    parts.push_back({fmt::format("cross{}", l + 1), current});
  }
  return current;
}

Tensor FieldModel::attend(const Tensor& x, std::int64_t rows, std::vector<NamedTensor>& parts) const {
  const std::int64_t count = std::ssize(vectors_), width = options_.attention_width, head_dim = width / options_.heads;
  std::vector<std::int32_t> offsets;
  for (std::int64_t r = 0; r <= rows; ++r) offsets.push_back(static_cast<std::int32_t>(r * count));
  const Tensor sequences = Tensor::of(offsets, {rows + 1}, device_);
  const double scale = options_.scale ? 1.0 / std::sqrt(static_cast<double>(head_dim)) : 1.0;
  const AttentionShape shape{static_cast<int>(options_.heads), static_cast<int>(options_.heads), static_cast<int>(head_dim), false, scale};
  Tensor h = x.reshape({rows * count, options_.embedding});
  for (std::size_t l = 0; l < attention_.size(); ++l) {
    const Attention& layer = attention_[l];
    const auto project = [&](const Tensor& weight) { return matmul(h, weight, false, true); };
    Tensor y = attention(project(layer.query), project(layer.key), project(layer.value), sequences, shape);
    if (options_.residual) y = add(y, layer.residual.defined() ? project(layer.residual) : h);
    if (options_.layer_norm) y = layer_norm(y, layer.gain, layer.shift, 1e-5);
    h = relu(y);
    parts.push_back({fmt::format("attention{}", l + 1), h.reshape({rows, count, width})});
  }
  return h.reshape({rows, count * width});
}

FieldModelOutput FieldModel::forward(const std::vector<FieldIds>& fields, const CtrMode& mode) const {
  if (fields.size() != options_.fields.size())
    throw ShapeError(fmt::format("click model: {} fields, expected {}", fields.size(), options_.fields.size()),
                     "build the batch for the model's own fields");
  const std::int64_t rows = fields[0].offsets.defined() ? fields[0].offsets.dim(0) - 1 : fields[0].ids.dim(0);
  FieldModelOutput out;
  std::vector<Tensor> terms;  // [rows] each; the logit is their sum
  if (has_wide()) {
    Tensor wide = sum(embed(wide_, fields), 1);
    if (wide_bias_.defined()) wide = add(wide, wide_bias_);
    out.parts.push_back({"lr", wide});
    terms.push_back(wide);
  }
  const Tensor x = has_vectors() ? embed(vectors_, fields) : Tensor();
  const auto deep = [&](const Tensor& input) {
    const Tensor logit = mlp_(input, mode).reshape({rows});
    out.parts.push_back({"deep", logit});
    terms.push_back(logit);
  };
  switch (options_.kind) {
    case FieldModelKind::lr:
      break;
    case FieldModelKind::fm:
    case FieldModelKind::deepfm:
      terms.push_back(fm(x, rows));
      out.parts.push_back({"fm", terms.back()});
      if (options_.kind == FieldModelKind::deepfm) deep(x);
      break;
    case FieldModelKind::dnn:
      deep(x);
      break;
    case FieldModelKind::ipnn:
      out.parts.push_back({"products", products(x, rows)});
      deep(concat_columns({x, out.parts.back().tensor}));
      break;
    case FieldModelKind::dcnv2: {
      Tensor joined = cross(x, out.parts);
      if (!options_.mlp.empty()) {
        out.parts.push_back({"deep", mlp_(x, mode)});
        joined = concat_columns({joined, out.parts.back().tensor});
      }
      terms.push_back(output_(joined).reshape({rows}));
      break;
    }
    case FieldModelKind::autoint:
      terms.push_back(output_(attend(x, rows, out.parts)).reshape({rows}));
      if (!options_.mlp.empty()) deep(x);
      break;
  }
  out.logit = terms[0];
  for (std::size_t i = 1; i < terms.size(); ++i) out.logit = add(out.logit, terms[i]);
  return out;
}

std::vector<NamedTensor> FieldModel::tables() const {
  std::vector<NamedTensor> result;
  for (std::size_t f = 0; f < vectors_.size(); ++f) result.push_back({"emb." + options_.fields[f].name, vectors_[f]});
  for (std::size_t f = 0; f < wide_.size(); ++f) result.push_back({"lr." + options_.fields[f].name, wide_[f]});
  return result;
}

std::vector<NamedTensor> FieldModel::parameters() const {
  std::vector<NamedTensor> result = tables();
  const auto put = [&](const std::string& name, const Tensor& tensor) {
    if (tensor.defined()) result.push_back({name, tensor});
  };
  put("lr.bias", wide_bias_);
  mlp_.add_parameters(result);
  for (std::size_t l = 0; l < cross_.size(); ++l) {
    put(fmt::format("cross.{}.weight", l), cross_[l].weight());
    put(fmt::format("cross.{}.bias", l), cross_[l].bias());
  }
  for (std::size_t l = 0; l < experts_.size(); ++l) {
    put(fmt::format("cross.{}.U", l), experts_[l].u);
    put(fmt::format("cross.{}.V", l), experts_[l].v);
    put(fmt::format("cross.{}.C", l), experts_[l].c);
    put(fmt::format("cross.{}.bias", l), expert_bias_[l]);
  }
  put("gate.weight", gate_);
  for (std::size_t l = 0; l < attention_.size(); ++l) {
    const Attention& layer = attention_[l];
    for (const auto& [part, tensor] : {std::pair{"q", layer.query},
                                       {"k", layer.key},
                                       {"v", layer.value},
                                       {"res", layer.residual},
                                       {"ln.weight", layer.gain},
                                       {"ln.bias", layer.shift}})
      put(fmt::format("attention.{}.{}", l, part), tensor);
  }
  if (output_.defined()) {
    put("fc.weight", output_.weight());
    put("fc.bias", output_.bias());
  }
  return result;
}

}  // namespace expctr
