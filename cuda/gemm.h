// Matrix products through cuBLASLt, on row-major operands.
#pragma once

#include <cstdint>

#include "base/kernels/matmul.h"
#include "base/view.h"

namespace expctr::cuda {

/// c[i] = activation(alpha op(a[i]) op(b[i]) + beta c[i] + bias over columns), c [m, n], op(a) [m, k], op(b) [k, n]; a and b both f32 (c
/// f32), or both bf16 (c f32 or bf16). Float32 accumulation; f32 operands are multiplied as f32 (no TF32).
struct Gemm {
  std::int64_t m = 0, n = 0, k = 0;
  bool transpose_a = false, transpose_b = false;
  DType operands = DType::f32, result = DType::f32;
  const void* a = nullptr;
  const void* b = nullptr;
  void* c = nullptr;
  float alpha = 1, beta = 0;
  const void* bias = nullptr;                ///< [n] in c's type
  Activation activation = Activation::none;  ///< not gelu: the library has the tanh form only
  void* before_activation = nullptr;         ///< with gelu_tanh: its argument is kept here, laid out like dense c; n a multiple of 8
  std::int64_t a_stride = 0, b_stride = 0, c_stride = 0;  ///< row strides in elements; 0: dense
  std::int64_t batches = 1;
  bool share_a = false, share_b = false;  ///< one matrix for all batches; otherwise batches are dense
};

/// Queues the product. The algorithm is the library's first choice for the shape, asked for once a shape and kept: no timing, no atomics.
void gemm(const Gemm& product, Stream stream);

/// Frees what the stream's products allocated. The stream must be idle.
void release_workspace(Stream stream) noexcept;

}  // namespace expctr::cuda
