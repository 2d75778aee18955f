// Arguments of products with a frozen weight and low-rank adapters.   Source: Hu et al. 2022, "LoRA".
#pragma once

#include "base/kernels/linear.h"

namespace expctr {

/// Dropout on the adapters' input; the mask is the kernel Dropout's. probability 0: none.
struct LoraDropout {
  float probability = 0;
  std::uint32_t key_low = 0, key_high = 0, step = 0, channel = 0;
  View sample{};  ///< [rows] i32
};

/// y = x w^T + bias + scale low b[id]^T with low = dropout(x) a[id]^T, id the row's adapter.
/// x [rows, inputs], y [rows, outputs]: f32, on CUDA each may be bf16. bias [outputs], a [adapters, rank, inputs], b [adapters, outputs,
/// rank], low [rows, rank]: f32; low is kept for the backward pass. ids [rows] i32: negative means the weight alone, and low 0; ids absent:
/// adapter 0 for all rows.
struct LinearLoraForward {
  PackedWeight weight;
  double scale;
  LoraDropout dropout;
  View x, bias, a, b, ids, y, low;
  View scratch{};
};
/// With du = scale dy b[id]:  dx += dy w + dropout'(du a[id]);  da[id] += du^T dropout(x);  db[id] += scale dy^T low. Sums over rows in
/// ascending order of fixed pieces. Empty gradients are skipped; nothing is computed for the weight and the bias.
struct LinearLoraBackward {
  PackedWeight weight;
  double scale;
  LoraDropout dropout;
  View x, a, b, ids, low, dy, dx, da, db;
  View scratch{};
};

}  // namespace expctr
