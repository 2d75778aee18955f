// What the kernels of the linear family share: operands as bf16 rows, the values of a packed weight, and the product of bf16 rows with a
// slice of a packed weight.
#pragma once

#include "base/kernels/linear.h"
#include "base/view.h"

namespace expctr::cuda {

/// Rows of bf16 that start on 16 bytes; `stride` elements from row to row.
struct Bf16Rows {
  const std::uint16_t* data = nullptr;
  std::int64_t stride = 0;
  std::size_t bytes = 0;  ///< of scratch; 0 when the operand is used where it lies
};

/// Scratch that bf16_rows(x) needs (0 when x already is bf16 rows) and its stride; data is x's own.
Bf16Rows bf16_rows_size(const View& x);
/// x [rows, width], f32 (rounded) or bf16, as bf16 rows: itself, or a copy in `scratch`.
Bf16Rows bf16_rows(const View& x, void* scratch, Stream stream);

/// The packed weight is dense f32: products take it as it is.
bool stored_as_f32(const PackedWeight& weight);
/// values [rows, inputs] f32 = rows first .. first + rows - 1 of the weight, exact. `values` 16-byte aligned.
void unpack_rows(const PackedWeight& weight, std::int64_t first, std::int64_t rows, float* values, Stream stream);

/// y = alpha (a w^T + low v^T) + bias + addend + old y, or (transposed) y = alpha (a w + low v) + addend + old y, over rows first .. first
/// + count - 1 of a weight that is block-quantised or bf16. a: bf16 rows [rows, inputs], transposed [rows, count].
struct WeightProduct {
  PackedWeight weight;
  std::int64_t first = 0, count = 0;  ///< first: a multiple of 16
  bool transposed = false;
  Bf16Rows a;
  std::int64_t rows = 0;
  float alpha = 1;
  void* y = nullptr;  ///< [rows, count], transposed [rows, inputs]; f32 or bf16
  DType y_dtype = DType::f32;
  std::int64_t y_stride = 0;
  const float* bias = nullptr;    ///< [count]
  const float* addend = nullptr;  ///< laid out like y, f32
  bool accumulate = false;
  // A second, thin product into the same sums (adapters): low [rows, low_depth] bf16 rows, zero up to their stride.
  Bf16Rows low;
  std::int64_t low_depth = 0;        ///< 0: none
  const std::uint16_t* v = nullptr;  ///< bf16 [count, v_stride], zero beyond low_depth; transposed [low_depth, v_stride]; 16-byte rows
  std::int64_t v_stride = 0;
};
/// Tensor cores, float32 accumulation, tiles of 128 x 128 (cuda/linear_tile.cu).
void multiply_tiled(const WeightProduct& product, Stream stream);
/// The product is one for multiply_decoding: a block-quantised weight, at most 16 rows, y overwritten.
bool decodes(const WeightProduct& product);
/// The same product, bound by reading the weight (cuda/linear_decode.cu).
void multiply_decoding(const WeightProduct& product, Stream stream);
inline void multiply(const WeightProduct& product, Stream stream) {
  decodes(product) ? multiply_decoding(product, stream) : multiply_tiled(product, stream);
}

constexpr std::int64_t classes_per_tile = 128;
/// parts [ceil(outputs / 128)][3][rows] f32: maximum, sum and weighted sum (OnlineSum) of each tile of classes of logits = alpha a w^T.
/// target_logits [rows]: written where the target is a class of the weight.
struct SoftmaxParts {
  PackedWeight weight;
  Bf16Rows a;
  std::int64_t rows = 0;
  float alpha = 1;
  const std::int32_t* targets = nullptr;
  float* parts = nullptr;
  float* target_logits = nullptr;
};
void softmax_parts(const SoftmaxParts& args, Stream stream);

/// dlogits [rows, stride] bf16 = gradient alpha (onehot(target) - exp(alpha a w^T - log_sum_exp)) for classes first .. first + count - 1; 0
/// for rows with a negative target. Columns count .. stride - 1 are zero.
struct LogitGradients {
  PackedWeight weight;
  std::int64_t first = 0, count = 0;
  Bf16Rows a;
  std::int64_t rows = 0;
  float alpha = 1;
  const std::int32_t* targets = nullptr;
  const float *log_sum_exp = nullptr, *gradient = nullptr;
  std::uint16_t* dlogits = nullptr;
  std::int64_t stride = 0;  ///< a multiple of 8
};
void logit_gradients(const LogitGradients& args, Stream stream);

}  // namespace expctr::cuda
