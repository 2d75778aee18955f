// Low-rank adapters: y = W x + (alpha / rank) B A x on chosen linear maps of chosen layers. Several adapters live on one trunk.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/core/tensor.h"
#include "engine/nn/linear.h"
#include "engine/ops/elementwise.h"
#include "models/llm/config.h"
#include "models/named_tensor.h"

namespace expctr {

/// Linear maps of a decoder layer, by their Hugging Face names.
enum class Projection { q, k, v, o, gate, up, down };
constexpr int projection_count = 7;
const char* projection_name(Projection projection);  ///< "q_proj", ...
/// Throws UsageError with the nearest name.
Projection parse_projection(const std::string& name);

struct LoraConfig {
  std::int64_t rank = 8;
  double alpha = 16.0, dropout = 0.0;
  std::vector<Projection> targets = {Projection::q, Projection::v};
  std::int64_t first_layer = 0, last_layer = 0;  ///< layers first .. last - 1

  double scale() const { return alpha / static_cast<double>(rank); }
};

/// "all", "last N", "first N" or "a-b" (inclusive, from 0) -> first and last layer of a decoder with `layers` layers. Throws UsageError.
void parse_layer_range(const std::string& text, std::int64_t layers, std::int64_t& first, std::int64_t& last);

class LoraAdapter {
 public:
  /// A is Kaiming-uniform (bound 1 / sqrt(inputs), as PEFT), B zero: a fresh adapter changes nothing. All parameters require a gradient when `trained`.
  LoraAdapter(const DecoderConfig& decoder, const LoraConfig& config, std::uint64_t seed, DType dtype, Device device, bool trained);

  const LoraConfig& config() const { return config_; }
  bool covers(std::int64_t layer, Projection projection) const;
  /// A [rank, inputs], B [outputs, rank].
  const Tensor& a(std::int64_t layer, Projection projection) const { return slot(layer, projection).a; }
  const Tensor& b(std::int64_t layer, Projection projection) const { return slot(layer, projection).b; }
  /// PEFT's names: base_model.model.model.layers.N.self_attn.q_proj.lora_A.weight, ...
  std::vector<NamedTensor> parameters() const;
  /// Stops gradients: for scorers and references.
  void freeze();

  /// (alpha / rank) B A x; x [rows, inputs] -> [rows, outputs].
  Tensor delta(std::int64_t layer, Projection projection, const Tensor& x) const;

 private:
  struct Slot {
    Tensor a, b;
  };
  const Slot& slot(std::int64_t layer, Projection projection) const;
  LoraConfig config_;
  std::vector<Slot> slots_;  ///< (layer - first) * targets + index of target
};

/// Rows begin .. begin + count - 1 of a batch go through this adapter.
struct AdapterRows {
  const LoraAdapter* adapter = nullptr;
  std::int64_t begin = 0, count = 0;
};

/// Which adapter works on which rows of a batch: none, one for all rows, or one per span of rows (without gradients).
class AdapterPlan {
 public:
  AdapterPlan() = default;
  explicit AdapterPlan(const LoraAdapter* adapter) : all_(adapter) {}
  explicit AdapterPlan(std::vector<AdapterRows> spans) : spans_(std::move(spans)) {}

  /// Dropout on the adapters' input while training (PEFT's lora_dropout); rows are named by sample ids, so the mask does not depend on the batch.
  void set_dropout(const Tensor& sample_ids, const DropoutKey& key) {
    sample_ids_ = sample_ids;
    dropout_key_ = key;
  }
  /// linear(x) plus the adapters' contributions.
  Tensor apply(const Linear& linear, std::int64_t layer, Projection projection, const Tensor& x) const;
  bool empty() const { return all_ == nullptr && spans_.empty(); }

 private:
  const LoraAdapter* all_ = nullptr;
  std::vector<AdapterRows> spans_;
  Tensor sample_ids_;
  DropoutKey dropout_key_;
};

}  // namespace expctr
