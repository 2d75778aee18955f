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
  int tile_rows;        ///< rows that gemm_panel and bf16_panel take at a time; pack_rows() groups by it
  int fused_rows;       ///< rows that quantised_rows takes
  int bf16_fused_rows;  ///< rows that quantised_bf16_rows takes
  int direct_rows;      ///< rows that direct_panel takes
  int int8_rows;        ///< rows that int8_panel takes at a time
  void (*gemm_panel)(std::int64_t rows, std::int64_t k_count, const float* a, const float* b, std::int64_t ldb, float* c, std::int64_t ldc,
                     int columns, const float* bias, bool load);
  void (*direct_panel)(int rows, std::int64_t k_count, const float* a, const float* b, std::int64_t ldb, float* c, std::int64_t ldc,
                       int columns, bool load);
  /// As gemm_panel on pairs of bf16, k_count words; null where the processor has no such instruction.
  void (*bf16_panel)(std::int64_t rows, std::int64_t k_count, const float* a, const float* b, std::int64_t ldb, float* c, std::int64_t ldc,
                     int columns, const float* bias, bool load);
  void (*int8_panel)(DType dtype, std::int64_t rows, std::int64_t blocks, const float* a, const void* panel, float* c, std::int64_t ldc,
                     int columns, const float* bias);
  void (*quantised_rows)(DType dtype, int rows, std::int64_t inputs, const float* a, const void* panel, float* c, std::int64_t ldc,
                         int columns, const float* bias, float* unpacked);
  /// The same with values rounded to bf16, for the operands that bf16_panel, or where it is null gemm_panel, takes.
  void (*quantised_bf16_rows)(DType dtype, int rows, std::int64_t inputs, const float* a, const void* panel, float* c, std::int64_t ldc,
                              int columns, const float* bias, float* unpacked);
  void (*transpose)(const float* in, std::int64_t in_stride, std::int64_t rows, std::int64_t columns, float* out, std::int64_t out_stride);
  void (*unpack_panel)(DType dtype, const void* panel, std::int64_t k0, std::int64_t k1, float* out);
  void (*unpack_pairs)(const void* panel, std::int64_t k0, std::int64_t k1, float* out);
  void (*unpack_int8)(DType dtype, const void* panel, std::int64_t k0, std::int64_t k1, float* out);
  void (*int8_pack)(DType dtype, const float* x, std::int64_t rows, std::int64_t inputs, float* words);
  void (*bf16_pairs)(const float* in, std::int64_t count, float* out);
  void (*bf16_row)(const float* in, std::int64_t count, float* out);
  void (*bf16_round)(const float* in, std::int64_t count, float* out);
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
const KernelTable& kernels();

}  // namespace expctr::cpu
