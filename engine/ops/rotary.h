// Rotary position embedding.
#pragma once

#include "base/kernels/rotary.h"
#include "engine/core/tensor.h"

namespace expctr {

/// y_i = x_i cos - x_j sin, y_j = x_j cos + x_i sin for pairs (i, j = i + head_dim / 2) of each head; angle = position * frequency_i, from the table
/// [positions, head_dim] (cos | sin). x [tokens, heads * head_dim], positions [tokens] i32. dx = inverse rotation of dy.   Source: Su et al. 2021.
Tensor rotary(const Tensor& x, const Tensor& positions, const Tensor& table);

}  // namespace expctr
