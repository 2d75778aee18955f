// Arguments of matrix products between dense operands.
#pragma once

#include "base/view.h"

namespace expctr {

/// What is done to an element of a product before it is stored. gelu_tanh: the tanh form; gelu: the exact one (base/scalar_math.h).
enum class Activation : std::uint8_t { none, relu, gelu_tanh, gelu };

/// c[b] = activation(alpha op(a[b]) op(b[b]) (+ c[b] if accumulate) + bias), op = transpose of the last two axes where asked; bias [columns
/// of c] f32 (f64 for f64), or absent. a, b, c have rank 2, or rank 3 (batched); a first extent of 1 in a or b shares that matrix among c's
/// batches. Dense. CPU: all f32 or all f64. CUDA: each f32 or bf16; where a or b is bf16 the other is rounded to bf16 and the sums are f32.
/// before_activation, if given, is like c and receives the activation's argument (for its derivative).
/// On the CPU every element of c adds its products along k in ascending order with fused multiply-add in c's dtype, whatever the other
/// extents are (row invariance).
struct MatMul {
  double alpha;
  bool transpose_a, transpose_b, accumulate;
  View a, b, c;
  View bias{};
  Activation activation = Activation::none;
  View before_activation{};
  View scratch{};
};

}  // namespace expctr
