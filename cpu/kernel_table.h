// The kernels that exist once an instruction set. What they compute stands with their templates.
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "cpu/isa.h"

namespace expctr::cpu {

struct AttentionGradient;
struct AttentionRows;
struct SoftmaxPart;

struct KernelTable {
  int tile_rows;   ///< rows that gemm_panel takes at a time; pack_rows() groups by it
  int fused_rows;  ///< rows that quantised_rows takes
  void (*gemm_panel)(std::int64_t rows, std::int64_t k_count, const float* a, const float* b, std::int64_t ldb, float* c, std::int64_t ldc,
                     int columns, const float* bias, bool load);
  void (*quantised_rows)(DType dtype, int rows, std::int64_t inputs, const float* a, const void* panel, float* c, std::int64_t ldc,
                         int columns, const float* bias, float* unpacked);
  void (*transpose)(const float* in, std::int64_t in_stride, std::int64_t rows, std::int64_t columns, float* out, std::int64_t out_stride);
  void (*unpack_panel)(DType dtype, const void* panel, std::int64_t k0, std::int64_t k1, float* out);
  void (*softmax_part)(const float* logits, std::int64_t n, float scale, SoftmaxPart* part);
  void (*softmax_row)(const float* logits, std::int64_t n, float scale, float log_sum_exp, float* out);
  void (*attention_rows)(const AttentionRows& args, float* scratch);
  void (*attention_gradient)(const AttentionGradient& args, float* scratch);
  void (*exp_array)(const float* x, std::int64_t n, float* y);
  float (*softmax_tile)(const float* logits, std::int64_t n, float scale, float* out, float* top);
};

extern const KernelTable kernels_v3;
extern const KernelTable kernels_avx512;

/// Those of active_isa().
inline const KernelTable& kernels() { return active_isa() == Isa::avx512 ? kernels_avx512 : kernels_v3; }

}  // namespace expctr::cpu
