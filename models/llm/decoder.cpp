#include "models/llm/decoder.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "engine/ops/elementwise.h"
#include "engine/ops/embedding.h"
#include "engine/ops/loss.h"
#include "engine/ops/norm.h"
#include "engine/ops/rotary.h"

namespace expctr {
namespace {

std::int64_t last_of(const std::vector<std::int32_t>& positions) { return positions.empty() ? 0 : *std::max_element(positions.begin(), positions.end()); }

}  // namespace

TokenContext whole_sequences(std::span<const std::int64_t> lengths, Device device) {
  std::vector<std::int32_t> positions, offsets = {0};
  for (const std::int64_t length : lengths) {
    for (std::int64_t t = 0; t < length; ++t) positions.push_back(static_cast<std::int32_t>(t));
    offsets.push_back(static_cast<std::int32_t>(positions.size()));
  }
  TokenContext context;
  context.last_position = last_of(positions);
  context.positions = Tensor::of(positions, {static_cast<std::int64_t>(positions.size())}, device);
  context.sequence_offsets = Tensor::of(offsets, {static_cast<std::int64_t>(offsets.size())}, device);
  return context;
}

TokenContext continue_sequences(KvCache& cache, std::span<CachedSequence* const> sequences, std::span<const std::int64_t> counts, Device device) {
  std::vector<std::int32_t> positions, offsets = {0}, lengths, slots;
  std::size_t most_pages = 1;
  for (std::size_t s = 0; s < sequences.size(); ++s) {
    CachedSequence& sequence = *sequences[s];
    for (std::int64_t t = 0; t < counts[s]; ++t) positions.push_back(static_cast<std::int32_t>(sequence.length + t));
    const std::vector<std::int32_t> own = cache.append(sequence, counts[s]);
    slots.insert(slots.end(), own.begin(), own.end());
    offsets.push_back(static_cast<std::int32_t>(positions.size()));
    lengths.push_back(static_cast<std::int32_t>(sequence.length));
    most_pages = std::max(most_pages, sequence.pages.size());
  }
  std::vector<std::int32_t> table(sequences.size() * most_pages, 0);
  for (std::size_t s = 0; s < sequences.size(); ++s) std::copy(sequences[s]->pages.begin(), sequences[s]->pages.end(), table.begin() + static_cast<std::ptrdiff_t>(s * most_pages));
  const auto count = static_cast<std::int64_t>(sequences.size()), tokens = static_cast<std::int64_t>(positions.size());
  TokenContext context;
  context.last_position = last_of(positions);
  context.positions = Tensor::of(positions, {tokens}, device);
  context.sequence_offsets = Tensor::of(offsets, {count + 1}, device);
  context.cache = &cache;
  context.context_lengths = Tensor::of(lengths, {count}, device);
  context.page_table = Tensor::of(table, {count, static_cast<std::int64_t>(most_pages)}, device);
  context.slots = Tensor::of(slots, {tokens}, device);
  return context;
}

Decoder::Decoder(DecoderConfig config, Tensor embedding, std::vector<DecoderLayer> layers, Tensor final_norm, Linear head)
    : config_(std::move(config)), embedding_(std::move(embedding)), layers_(std::move(layers)), final_norm_(std::move(final_norm)), head_(std::move(head)) {}

AttentionShape Decoder::attention_shape() const {
  return {static_cast<int>(config_.heads), static_cast<int>(config_.kv_heads), static_cast<int>(config_.head_dim), true,
          1.0 / std::sqrt(static_cast<double>(config_.head_dim))};
}

const Tensor& Decoder::rope_table_for(std::int64_t positions) const {
  if (!table_.defined() || table_.dim(0) < positions) {
    std::int64_t rows = 256;
    while (rows < positions) rows *= 2;
    table_ = rope_table(config_, rows, dtype(), device());
  }
  return table_;
}

Tensor Decoder::embed(const Tensor& ids) const { return gather(embedding_, ids); }

Tensor Decoder::blocks(std::int64_t first, std::int64_t last, Tensor hidden, const TokenContext& context, const AdapterPlan& adapters) const {
  if (hidden.dim(0) == 0) return hidden;
  if (context.last_position >= config_.positions) {
    throw UsageError(fmt::format("a prompt reaches position {}, the model was built for {}", context.last_position, config_.positions),
                     "shorten the prompt or lower prompt.max_tokens");
  }
  const Tensor& table = rope_table_for(context.last_position + 1);
  for (std::int64_t layer = first; layer < last; ++layer) hidden = block(layer, hidden, context, adapters, table);
  return hidden;
}

Tensor Decoder::block(std::int64_t layer, const Tensor& x, const TokenContext& context, const AdapterPlan& adapters, const Tensor& table) const {
  const DecoderLayer& w = layers_[static_cast<std::size_t>(layer)];
  Tensor h = rms_norm(x, w.attention_norm, config_.norm_epsilon);
  Tensor q = adapters.apply(w.q, layer, Projection::q, h);
  Tensor k = adapters.apply(w.k, layer, Projection::k, h);
  const Tensor v = adapters.apply(w.v, layer, Projection::v, h);
  if (config_.qk_norm) {
    q = rms_norm(q.reshape({q.size() / config_.head_dim, config_.head_dim}), w.q_norm, config_.norm_epsilon).reshape(q.shape());
    k = rms_norm(k.reshape({k.size() / config_.head_dim, config_.head_dim}), w.k_norm, config_.norm_epsilon).reshape(k.shape());
  }
  q = rotary(q, context.positions, table);
  k = rotary(k, context.positions, table);
  Tensor mixed;
  if (context.cache != nullptr) {
    store_keys_values(k, v, context.slots, context.cache->keys(layer), context.cache->values(layer));
    mixed = paged_attention(q, context.sequence_offsets, context.context_lengths, context.page_table, context.cache->keys(layer), context.cache->values(layer), attention_shape());
  } else {
    mixed = attention(q, k, v, context.sequence_offsets, attention_shape());
  }
  const Tensor attended = add(x, adapters.apply(w.o, layer, Projection::o, mixed));
  h = rms_norm(attended, w.ffn_norm, config_.norm_epsilon);
  const Tensor inner = swiglu(adapters.apply(w.gate, layer, Projection::gate, h), adapters.apply(w.up, layer, Projection::up, h));
  return add(attended, adapters.apply(w.down, layer, Projection::down, inner));
}

Tensor Decoder::normalise(const Tensor& hidden) const { return rms_norm(hidden, final_norm_, config_.norm_epsilon); }

TokenScores Decoder::score(const Tensor& normalised, const Tensor& targets, double temperature, bool entropy) const {
  if (head_.is_frozen()) return linear_cross_entropy(normalised, head_.frozen_weight(), targets, temperature, entropy);
  if (entropy) throw Error("entropy is computed with a frozen head only", "load the model with frozen weights");
  const Tensor all = head_(normalised);
  return {log_probability(temperature == 1.0 ? all : affine(all, 1.0 / temperature), targets), {}};
}

Linear Decoder::head_rows(std::span<const std::int32_t> tokens) const {
  const auto count = static_cast<std::int64_t>(tokens.size());
  const Tensor ids = Tensor::of(tokens, {count}, device());
  for (const std::int32_t token : tokens) {
    if (token < 0 || token >= config_.vocabulary)
      throw UsageError(fmt::format("token {} is not one of the model's {}", token, config_.vocabulary), "check the vocabulary that it was made with");
  }
  const ComputeMode mode = head_.is_frozen() ? head_.frozen_weight().packed().mode : ComputeMode::f32;
  if (config_.tied_head && device().is_cuda()) return Linear::frozen(FrozenWeight(gather(embedding_.detached(), ids), mode));
  if (config_.tied_head) {
    // The file's bytes, so that block formats keep their codes and every mode gives the whole head's logits.
    const std::size_t row = dtype_bytes(embedding_.dtype(), config_.width);
    std::vector<std::byte> bytes(row * tokens.size());
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      std::memcpy(bytes.data() + i * row, static_cast<const std::byte*>(embedding_.data()) + static_cast<std::size_t>(tokens[i]) * row, row);
    }
    return Linear::frozen(FrozenWeight(Tensor::of_bytes(bytes, {count, config_.width}, embedding_.dtype()), mode));
  }
  if (!head_.is_frozen()) return Linear::frozen(FrozenWeight(gather(head_.weight().detached(), ids)));
  // An untied packed head: its rows are the logits of unit vectors.
  std::vector<float> units(static_cast<std::size_t>(config_.width * config_.width), 0.0f);
  for (std::int64_t i = 0; i < config_.width; ++i) units[static_cast<std::size_t>(i * config_.width + i)] = 1.0f;
  const std::vector<float> all = head_(Tensor::of(units, {config_.width, config_.width}, device())).to_vector<float>();
  std::vector<float> rows;
  for (const std::int32_t token : tokens) {
    for (std::int64_t i = 0; i < config_.width; ++i) rows.push_back(all[static_cast<std::size_t>(i * config_.vocabulary + token)]);
  }
  return Linear::frozen(FrozenWeight(Tensor::of(rows, {count, config_.width}, device()), mode));
}

std::vector<NamedTensor> Decoder::weights() const {
  std::vector<NamedTensor> result = {{"model.embed_tokens.weight", embedding_}, {"model.norm.weight", final_norm_}};
  const auto add_linear = [&](const std::string& name, const Linear& linear) {
    result.push_back({name + ".weight", linear.is_frozen() ? linear.frozen_weight().memory() : linear.weight()});
    if (linear.bias().defined()) result.push_back({name + ".bias", linear.bias()});
  };
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const DecoderLayer& layer = layers_[i];
    const std::string stem = fmt::format("model.layers.{}.", i);
    add_linear(stem + "self_attn.q_proj", layer.q);
    add_linear(stem + "self_attn.k_proj", layer.k);
    add_linear(stem + "self_attn.v_proj", layer.v);
    add_linear(stem + "self_attn.o_proj", layer.o);
    add_linear(stem + "mlp.gate_proj", layer.gate);
    add_linear(stem + "mlp.up_proj", layer.up);
    add_linear(stem + "mlp.down_proj", layer.down);
    result.push_back({stem + "input_layernorm.weight", layer.attention_norm});
    result.push_back({stem + "post_attention_layernorm.weight", layer.ffn_norm});
    if (layer.q_norm.defined()) result.push_back({stem + "self_attn.q_norm.weight", layer.q_norm});
    if (layer.k_norm.defined()) result.push_back({stem + "self_attn.k_norm.weight", layer.k_norm});
  }
  if (!config_.tied_head) add_linear("lm_head", head_);
  return result;
}

}  // namespace expctr
