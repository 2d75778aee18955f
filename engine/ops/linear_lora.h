// Products with a frozen weight and low-rank adapters.
#pragma once

#include "base/kernels/linear_lora.h"
#include "engine/ops/elementwise.h"
#include "engine/ops/linear.h"

namespace expctr {

/// Dropout on the adapters' input; the mask equals dropout(x, sample_ids, probability, key)'s.
struct LoraInputDropout {
  double probability = 0.0;
  Tensor sample_ids;  ///< [rows] i32
  DropoutKey key;
};

/// y = x w^T + bias + scale dropout(x) a[id]^T b[id]^T; x [rows, inputs] f32 or bf16 -> [rows, outputs].
/// a [rank, inputs], b [outputs, rank], or stacks [adapters, rank, inputs], [adapters, outputs, rank] with ids [rows] i32: each row's
/// adapter, negative for the weight alone; ids undefined: the first adapter for all rows. With du = scale dy b[id]: dx = dy w + dropout'(du
/// a[id]), da[id] = du^T dropout(x), db[id] = scale dy^T (dropout(x) a[id]^T); none for weight and bias. Saved: dropout(x) a^T [rows,
/// rank].   Source: Hu et al. 2022.
Tensor linear_lora(const Tensor& x, const FrozenWeight& weight, const Tensor& bias, const Tensor& a, const Tensor& b, double scale,
                   const Tensor& ids = {}, const LoraInputDropout& input_dropout = {});

}  // namespace expctr
