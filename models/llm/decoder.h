// A decoder of the Llama family (Llama, SmolLM, Mistral, Qwen2, Qwen3): RMSNorm, rotary positions, grouped-query attention, SwiGLU.
#pragma once

#include <memory>
#include <vector>

#include "engine/core/tensor.h"
#include "engine/nn/linear.h"
#include "engine/ops/attention.h"
#include "engine/ops/linear.h"
#include "models/llm/config.h"
#include "models/llm/kv_cache.h"
#include "models/lora.h"

namespace expctr {

struct DecoderLayer {
  Linear q, k, v, o, gate, up, down;
  Tensor attention_norm, ffn_norm;  ///< gains [width]
  Tensor q_norm, k_norm;            ///< gains [head_dim], Qwen3 only
};

/// Tokens of a batch of sequences, packed without padding, and where their keys and values are.
struct TokenContext {
  Tensor positions;         ///< [tokens] i32
  Tensor sequence_offsets;  ///< [sequences + 1] i32, tokens of each sequence in this batch
  std::int64_t last_position = 0;  ///< largest of positions; on the host, so that no pass waits for a device to read it
  /// With a cache: the tokens continue cached sequences; without one: each sequence is whole, positions count from 0, and gradients pass.
  const KvCache* cache = nullptr;
  Tensor context_lengths;   ///< [sequences] i32, cached tokens including the new ones
  Tensor page_table;        ///< [sequences, most pages] i32
  Tensor slots;             ///< [tokens] i32
};

/// Context of whole sequences of the given lengths.
TokenContext whole_sequences(std::span<const std::int64_t> lengths, Device device);
/// Context of new tokens: appends `counts[s]` tokens to each cached sequence.
TokenContext continue_sequences(KvCache& cache, std::span<CachedSequence* const> sequences, std::span<const std::int64_t> counts, Device device);

class Decoder {
 public:
  /// Called by the loaders; weights are shared handles.
  Decoder(DecoderConfig config, Tensor embedding, std::vector<DecoderLayer> layers, Tensor final_norm, Linear head);

  const DecoderConfig& config() const { return config_; }
  Device device() const { return final_norm_.device(); }
  DType dtype() const { return final_norm_.dtype(); }

  /// ids [tokens] i32 -> [tokens, width].
  Tensor embed(const Tensor& ids) const;
  /// Layers first .. last - 1: hidden [tokens, width] -> [tokens, width].
  Tensor blocks(std::int64_t first, std::int64_t last, Tensor hidden, const TokenContext& context, const AdapterPlan& adapters = {}) const;
  /// Final norm of chosen rows.
  Tensor normalise(const Tensor& hidden) const;
  /// normalised [rows, width] -> logits [rows, vocabulary].
  Tensor logits(const Tensor& normalised) const { return head_(normalised); }
  /// log softmax(logits / temperature)[target], targets [rows] i32; no [rows, vocabulary] buffer when the head is frozen.
  TokenScores score(const Tensor& normalised, const Tensor& targets, double temperature = 1.0, bool entropy = false) const;
  /// A head of chosen tokens only: [tokens, width] dense rows of the head, frozen.
  Linear head_rows(std::span<const std::int32_t> tokens) const;

  const Tensor& embedding() const { return embedding_; }
  const Linear& head() const { return head_; }
  const Tensor& final_norm() const { return final_norm_; }
  const std::vector<DecoderLayer>& layers() const { return layers_; }
  AttentionShape attention_shape() const;
  std::int64_t kv_row_width() const { return config_.kv_heads * config_.head_dim; }
  /// All weights under the names of a Hugging Face file, dense ones as tensors, frozen ones as packed bytes: for hashing.
  std::vector<NamedTensor> weights() const;

 private:
  Tensor block(std::int64_t layer, const Tensor& x, const TokenContext& context, const AdapterPlan& adapters, const Tensor& table) const;
  const Tensor& rope_table_for(std::int64_t positions) const;

  DecoderConfig config_;
  Tensor embedding_;
  std::vector<DecoderLayer> layers_;
  Tensor final_norm_;
  Linear head_;
  mutable Tensor table_;  ///< grows on demand; the values of a position never change
};

}  // namespace expctr
