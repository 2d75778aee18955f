// Products with frozen weights. The weight is packed once into the backend's own layout and never changes; it has no gradient.
#pragma once

#include "base/kernels/linear.h"
#include "engine/core/tensor.h"

namespace expctr {

/// A frozen matrix [outputs, inputs] ready for products on one device. Cheap to copy: copies share memory.
class FrozenWeight {
 public:
  FrozenWeight() = default;
  /// source [outputs, inputs] on the device: f32, f64, bf16, f16 or block-quantised along inputs.
  explicit FrozenWeight(const Tensor& source, ComputeMode mode = ComputeMode::f32);
  std::int64_t outputs() const { return packed_.outputs; }
  std::int64_t inputs() const { return packed_.inputs; }
  const PackedWeight& packed() const { return packed_; }
  Device device() const { return memory_.device(); }
  bool defined() const { return memory_.defined(); }
  std::size_t bytes() const { return packed_.bytes; }
  /// The packed bytes, for hashing.
  const Tensor& memory() const { return memory_; }

 private:
  Tensor memory_;
  PackedWeight packed_;
};

/// y = x w^T + bias; x [rows, inputs] f32 or bf16 -> [rows, outputs] of x's dtype; bias [outputs] f32 or undefined (frozen). dx = dy w.
Tensor linear_frozen(const Tensor& x, const FrozenWeight& weight, const Tensor& bias = {});

struct TokenScores {
  Tensor log_probability;  ///< [rows]
  Tensor entropy;          ///< [rows] when asked for; no gradient
};
/// log softmax(x w^T / temperature)[target] per row without keeping [rows, vocabulary]; targets [rows] i32, negative: skipped, 0.
/// dx = dlog_probability (onehot - softmax) w / temperature, recomputed tile by tile.
TokenScores linear_cross_entropy(const Tensor& x, const FrozenWeight& weight, const Tensor& targets, double temperature = 1.0, bool entropy = false);
/// The same with a weight [classes, inputs] that may be trained, f32: dweight = (dlog_probability (onehot - softmax) / temperature)^T x, its rows
/// added in ascending order. It is packed once a call. f64 (CPU, tests): by way of the whole logits, without entropy.
TokenScores linear_cross_entropy(const Tensor& x, const Tensor& weight, const Tensor& targets, double temperature = 1.0, bool entropy = false);

}  // namespace expctr
