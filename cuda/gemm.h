// Matrix products through cuBLASLt, on row-major operands.
#pragma once

#include <cstdint>

#include "base/view.h"

namespace expctr::cuda {

/// c[i] = alpha op(a[i]) op(b[i]) + beta c[i] (+ bias over columns), c [m, n] f32, op(a) [m, k], op(b) [k, n]; a and b both f32, or both
/// bf16. Float32 accumulation; f32 operands are multiplied as f32 (no TF32).
struct Gemm {
  std::int64_t m = 0, n = 0, k = 0;
  bool transpose_a = false, transpose_b = false;
  DType operands = DType::f32;
  const void* a = nullptr;
  const void* b = nullptr;
  float* c = nullptr;
  float alpha = 1, beta = 0;
  const float* bias = nullptr;              ///< [n], with batches == 1
  std::int64_t a_stride = 0, b_stride = 0;  ///< row strides in elements; 0: dense
  std::int64_t batches = 1;                 ///< dense batches when more than 1
};

/// Queues the product. The algorithm is the library's first choice for the shape, asked for once a shape and kept: no timing, no atomics.
void gemm(const Gemm& product, Stream stream);

/// Memory of the stream for staging bf16 operands: `bytes` of it, made with the workspace at the stream's first product.
constexpr std::size_t staging_bytes = std::size_t{32} << 20;
void* staging(Stream stream);

/// Frees what the stream's products allocated. The stream must be idle.
void release_workspace(Stream stream) noexcept;

}  // namespace expctr::cuda
