// Arguments of products with frozen weights, block-quantised ones included.
#pragma once

#include <cstddef>

#include "base/view.h"

namespace expctr {

/// How products with frozen weights are computed.
enum class ComputeMode : std::uint8_t { f32, bf16, int8 };

/// A frozen weight matrix [outputs, inputs] in a backend's own layout; made once by PackWeight, immutable.
struct PackedWeight {
  void* data = nullptr;
  std::size_t bytes = 0;
  std::int64_t outputs = 0, inputs = 0;
  DType dtype = DType::f32;            ///< what the file held
  ComputeMode mode = ComputeMode::f32;
};

/// Fills packed.data (packed_weight_bytes(...) bytes, 64-byte aligned) from source [outputs, inputs]: f32, f64 (rounded), bf16, f16, or block-quantised along inputs.
struct PackWeight {
  View source;
  PackedWeight packed;
};

/// y[m, n] = sum_k x[m, k] w[n, k] + bias[n]: x [rows, inputs] -> y [rows, outputs]; bias f32, may be empty. x and y are f32; on CUDA each may be
/// bf16, in any mode.
/// CPU, mode f32: the same k order as MatMul on the dequantised weight, so the same bits.
struct LinearFrozen {
  PackedWeight weight;
  View x, bias, y;
  View scratch{};
};
/// dx[m, k] += sum_n dy[m, n] w[n, k].
struct LinearFrozenBackward {
  PackedWeight weight;
  View dy, dx;
  View scratch;
};

/// Fused head and cross-entropy over a large vocabulary; logits = x w^T / temperature are never kept.
/// x [rows, inputs], targets [rows] i32 (negative: row is skipped, result 0) -> log_probability [rows] = log softmax(logits)[target],
/// log_sum_exp [rows], entropy [rows] (may be empty) = -sum p log p.
struct LinearCrossEntropyForward {
  PackedWeight weight;
  double temperature;
  View x, targets, log_probability, log_sum_exp, entropy;
  View scratch;
};
/// dx += dlogits w, dweight += dlogits^T x with dlogits = dlog_probability (onehot(target) - softmax(logits)) / temperature. dweight
/// [outputs, inputs] f32 is for a weight that is trained (packed anew every step); either of dx and dweight may be empty.
struct LinearCrossEntropyBackward {
  PackedWeight weight;
  double temperature;
  View x, targets, log_sum_exp, dlog_probability, dx;
  View scratch;
  View dweight{};
};

}  // namespace expctr
