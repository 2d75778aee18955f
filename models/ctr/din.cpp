#include "models/ctr/din.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "engine/ops/elementwise.h"
#include "engine/ops/embedding.h"
#include "engine/ops/embedding_rows.h"
#include "engine/ops/loss.h"
#include "engine/ops/matmul.h"
#include "engine/ops/reduce.h"

namespace expctr {
namespace {

constexpr std::int64_t padding_row = 0;
// Dropout channels: the final MLP counts from 0; attention and adapter have none.
constexpr std::uint32_t mlp_channel = 0;

std::int64_t item_fields(const DinOptions& options) {
  return std::count_if(options.fields.begin(), options.fields.end(), [](const CtrField& field) { return field.of_item; });
}

Tensor embedding_table(const Initialiser& initial, const std::string& name, std::int64_t rows, const DinOptions& options) {
  Tensor table = initial.normal(name, {rows, options.embedding}, options.embedding_deviation);
  table.slice_rows(padding_row, 1).fill(0.0);
  return options.row_gradients ? table.require_row_gradient() : table.require_gradient();
}

}  // namespace

std::int64_t DinOptions::item_width() const { return embedding * item_fields(*this); }

Din::Din(const DinOptions& options, std::uint64_t seed, DType dtype, Device device) : options_(options), dtype_(dtype), device_(device) {
  const std::int64_t items = item_fields(options);
  if (items == 0) throw UsageError("DIN: no field describes the item", "the history is made of item fields");
  if (options.attention.empty() || options.embedding < 1)
    throw UsageError("DIN: the attention MLP needs a hidden layer and the embedding a width");
  if (options.text_width > 0 && options.adapter.empty()) throw UsageError("DIN: the text adapter has no layers");

  const Initialiser initial{seed, dtype, device};
  for (const CtrField& field : options.fields) {
    if (field.rows < 1) throw UsageError(fmt::format("DIN: field '{}' has no rows", field.name));
    tables_.push_back(embedding_table(initial, "emb." + field.name, field.rows, options));
  }
  const std::int64_t width = options.item_width();
  if (options.map_layer) {
    label_table_ = embedding_table(initial, "emb.rate", 3, options);
    Tensor weight = initial.xavier_normal("map.weight", width, width + options.embedding), bias = initial.constant({width}, 0.0);
    map_ = Linear::dense(weight.require_gradient(), bias.require_gradient());
  }
  attention_ = Mlp("att", {4 * width, options.attention, 1, options.attention_activation, 0.0}, initial);
  std::int64_t inputs = width + options.embedding * static_cast<std::int64_t>(options.fields.size());
  if (options.text_width > 0) {
    adapter_ = Mlp("adapter", {options.text_width, options.adapter, 0, CtrActivation::relu, 0.0}, initial);
    inputs += options.adapter.back();
  }
  mlp_ = Mlp("mlp", {inputs, options.mlp, 1, options.mlp_activation, options.dropout}, initial);
}

void Din::check(const DinBatch& batch) const {
  const auto fail = [](const char* what, std::int64_t got, std::int64_t wanted) {
    throw ShapeError(fmt::format("DIN: {} is {}, expected {}", what, got, wanted), "build the batch for the model's own fields");
  };
  if (batch.fields.size() != options_.fields.size()) fail("the number of fields", std::ssize(batch.fields), std::ssize(options_.fields));
  if (std::ssize(batch.history_fields) != item_fields(options_))
    fail("the number of history fields", std::ssize(batch.history_fields), item_fields(options_));
  require_shape("DIN", "history_entry", batch.history_entry, {batch.rows * batch.history});
  require_shape("DIN", "mask", batch.mask, {batch.rows, batch.history});
  if (options_.text_width > 0 && batch.text.defined()) {
    require_shape("DIN", "text", batch.text, {batch.text.dim(0), options_.text_width});
    require_shape("DIN", "text_of_row", batch.text_of_row, {batch.rows});
  }
}

// Vectors of the row fields, of the history's item fields and, with a map layer, of its labels: all look-ups in one launch.
Din::Embedded Din::embed(const DinBatch& batch) const {
  std::vector<Lookup> lookups;
  std::vector<const FieldIds*> of_lookup;
  const auto look_up = [&](std::size_t field, const FieldIds& ids) {
    lookups.push_back({tables_[field], ids.ids, padding_row});
    of_lookup.push_back(&ids);
  };
  std::size_t items = 0;
  for (std::size_t i = 0; i < tables_.size(); ++i) look_up(i, batch.fields[i]);
  for (std::size_t i = 0; i < tables_.size(); ++i)
    if (options_.fields[i].of_item) look_up(i, batch.history_fields[items++]);
  // The label of padding starts at zero and is trained like the others: padded positions enter Dice's statistics. The reference values have
  // it so.
  if (options_.map_layer) lookups.push_back({label_table_, batch.history_label});
  std::vector<Tensor> vectors = gather_many(lookups);
  for (std::size_t l = 0; l < of_lookup.size(); ++l)
    if (of_lookup[l]->offsets.defined()) vectors[l] = segment_mean(vectors[l], of_lookup[l]->offsets);
  const auto history = vectors.begin() + static_cast<std::ptrdiff_t>(tables_.size());
  return {{vectors.begin(), history}, {history, vectors.end()}};
}

// First attention layer on [t; h; t - h; t * h] = W_t t + W_h h + W_d (t - h) + W_p (t * h) + b, folded into one matrix a row:
// (W_h - W_d + W_p diag(t)) h + ((W_t + W_d) t + b), so the four-fold input is never built.
Tensor Din::attention_scores(const Tensor& target, const Tensor& history, const DinBatch& batch, const CtrMode& mode) const {
  const std::int64_t w = target.dim(1), rows = batch.rows, positions = batch.history;
  const Linear& first = attention_.layer(0);
  const std::int64_t width = first.outputs();
  const Tensor of_target = slice_columns(first.weight(), 0, w), of_history = slice_columns(first.weight(), w, w);
  const Tensor of_difference = slice_columns(first.weight(), 2 * w, w), of_product = slice_columns(first.weight(), 3 * w, w);

  const Tensor on_target = add(matmul(target, add(of_target, of_difference), false, true), first.bias());
  const Tensor scaled = multiply(of_product.reshape({1, width, w}), target.reshape({rows, 1, w}));
  const Tensor on_history = add(scaled, subtract(of_history, of_difference).reshape({1, width, w}));
  const Tensor z = add(matmul(history, on_history, false, true), on_target.reshape({rows, 1, width}));
  return attention_.after_first(z.reshape({rows * positions, width}), mode).reshape({rows, positions});
}

// Masked raw scores, or their softmax over valid positions. A row without history has no masked position: its weights are 1 / T on zero
// vectors.
Tensor Din::attention_weights(const Tensor& scores, const DinBatch& batch) const {
  const Tensor masked = multiply(scores, batch.mask);
  if (!options_.softmax) return masked;
  require_shape("DIN", "pick", batch.pick, {batch.rows});
  require_shape("DIN", "pick_one_hot", batch.pick_one_hot, batch.mask.shape());
  require_shape("DIN", "padding_shift", batch.padding_shift, batch.mask.shape());
  const Tensor x = add(masked, batch.padding_shift);
  // log_probability = x[pick] - log_sum_exp; what is subtracted from x is the log_sum_exp.
  const Tensor picked = sum(multiply(x, batch.pick_one_hot), 1);
  const Tensor log_sum_exp = subtract(picked, log_probability(x, batch.pick));
  return unary(Unary::exp, subtract(x, log_sum_exp.reshape({batch.rows, 1})));
}

Tensor Din::adapt(const DinBatch& batch, const CtrMode& mode) const {
  if (!batch.text.defined() || batch.text.dim(0) == 0) return Tensor::zeros({batch.rows, options_.adapter.back()}, dtype_, device_);
  return gather(adapter_(batch.text, mode), batch.text_of_row);
}

DinOutput Din::forward(const DinBatch& batch, const CtrMode& mode) const {
  check(batch);
  const auto [vectors, history_parts] = embed(batch);
  std::vector<Tensor> target_parts, other_parts;
  for (std::size_t i = 0; i < tables_.size(); ++i) (options_.fields[i].of_item ? target_parts : other_parts).push_back(vectors[i]);
  const Tensor target = concat_columns(target_parts);
  const Tensor raw = concat_columns(history_parts);
  const Tensor entries = options_.map_layer ? map_(raw) : raw;
  const std::int64_t w = target.dim(1);
  const Tensor history = gather(entries, batch.history_entry).reshape({batch.rows, batch.history, w});

  DinOutput out;
  out.weights = attention_weights(attention_scores(target, history, batch, mode), batch);
  out.interest = matmul(out.weights.reshape({batch.rows, 1, batch.history}), history).reshape({batch.rows, w});

  std::vector<Tensor> inputs;
  if (options_.interest_first) {
    inputs = {out.interest, target};
    inputs.insert(inputs.end(), other_parts.begin(), other_parts.end());
  } else {
    inputs = vectors;
    inputs.push_back(out.interest);
  }
  if (options_.text_width > 0) {
    out.a = adapt(batch, mode);
    inputs.push_back(out.a);
  }
  CtrMode with_samples = mode;
  with_samples.sample_ids = batch.sample_ids;
  out.logit = mlp_(concat_columns(inputs), with_samples, mlp_channel).reshape({batch.rows});
  return out;
}

std::vector<NamedTensor> Din::tables() const {
  std::vector<NamedTensor> result;
  for (std::size_t i = 0; i < tables_.size(); ++i) result.push_back({"emb." + options_.fields[i].name, tables_[i]});
  if (label_table_.defined()) result.push_back({"emb.rate", label_table_});
  return result;
}

std::vector<NamedTensor> Din::parameters() const {
  std::vector<NamedTensor> result = tables();
  if (map_.defined()) {
    result.push_back({"map.weight", map_.weight()});
    result.push_back({"map.bias", map_.bias()});
  }
  attention_.add_parameters(result);
  if (options_.text_width > 0) adapter_.add_parameters(result);
  mlp_.add_parameters(result);
  return result;
}

std::vector<NamedTensor> Din::buffers() const {
  std::vector<NamedTensor> result;
  attention_.add_buffers(result);
  mlp_.add_buffers(result);
  return result;
}

std::vector<NamedTensor> Din::state() const {
  std::vector<NamedTensor> result = parameters(), more = buffers();
  result.insert(result.end(), more.begin(), more.end());
  return result;
}

}  // namespace expctr
