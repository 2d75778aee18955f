// Products with packed weights, on parts: what LinearFrozen and the fused cross-entropy share. Rows are packed once in the form that the
// weight's compute mode wants:
//   f32   float tiles;
//   bf16  rounded to bf16, pairs where the processor multiplies pairs, else as float; the weight is rounded in the same way;
//   int8  32 inputs quantised to bytes with one scale (cpu/quantise.h), integer products, float32 sums over the blocks.
// The backward product of int8 is that of bf16 on the dequantised weight: scales that change along the sum have no integer form.
#pragma once

#include "base/kernels/linear.h"
#include "cpu/kernel_table.h"

namespace expctr::cpu {

/// Floats that pack_inputs() writes a row.
std::int64_t packed_input_floats(const KernelTable& table, const PackedWeight& weight);

/// Rows of x [rows, inputs] for multiply_panels(). Runs on the pool.
void pack_inputs(const KernelTable& table, const PackedWeight& weight, const float* x, std::int64_t rows, float* out);

/// Floats of scratch that multiply_panels needs.
std::int64_t multiply_scratch_floats(const PackedWeight& weight);

/// Columns of panels first .. first + count - 1 of y = x w^T (+ bias): y points at row 0 and the first panel's first column.
void multiply_panels(const KernelTable& table, const PackedWeight& weight, const float* packed, std::int64_t rows, std::int64_t first,
                     std::int64_t count, const float* bias, float* y, std::int64_t y_stride, float* scratch);

/// Rows of dy[:, n0 .. n1), given as [rows, n1 - n0] with a row stride, for multiply_transposed(); at most n1 - n0 floats a row. Runs on
/// the pool.
void pack_outputs(const KernelTable& table, const PackedWeight& weight, const float* dy, std::int64_t stride, std::int64_t rows,
                  std::int64_t outputs, float* out);

/// dx += dy w[n0 .. n1), packed by pack_outputs(). n0 is a multiple of 32. Runs on the pool.
void multiply_transposed(const KernelTable& table, const PackedWeight& weight, const float* packed, std::int64_t rows, std::int64_t n0,
                         std::int64_t n1, float* dx);

}  // namespace expctr::cpu
