// Products with packed weights, on parts: what LinearFrozen and the fused cross-entropy share.
#pragma once

#include "base/kernels/linear.h"
#include "cpu/kernel_table.h"

namespace expctr::cpu {

/// Rows of x in the first tile that multiply_panels expects of pack_rows(): block formats are unpacked while that tile is multiplied.
int first_tile_rows(const KernelTable& table, const PackedWeight& weight);

/// Floats of scratch that multiply_panels needs.
std::int64_t multiply_scratch_floats(const PackedWeight& weight);

/// Columns of panels first .. first + count - 1 of y = x w^T (+ bias): y points at row 0 and the first panel's first column.
/// packed: rows of x as pack_rows() lays them out with first_tile_rows().
void multiply_panels(const KernelTable& table, const PackedWeight& weight, const float* packed, std::int64_t rows, std::int64_t first,
                     std::int64_t count, const float* bias, float* y, std::int64_t y_stride, float* scratch);

/// dx += dy w[n0 .. n1), packed: rows of dy [rows, n1 - n0] as pack_rows() lays them out. Runs on the pool.
void multiply_transposed(const KernelTable& table, const PackedWeight& weight, const float* packed, std::int64_t rows, std::int64_t n0,
                         std::int64_t n1, float* dx);

}  // namespace expctr::cpu
