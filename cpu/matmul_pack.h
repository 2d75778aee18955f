// Operands of gemm_panel() laid out for it.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/gemm_kernel.h"
#include "cpu/kernel_table.h"
#include "cpu/thread_pool.h"

namespace expctr::cpu {

/// A[rows, k], element (r, k) at a[r * row_stride + k * k_stride], times alpha -> tiles of `tile_rows` rows, each [k][rows of the tile].
inline void pack_rows(const float* a, std::int64_t row_stride, std::int64_t k_stride, std::int64_t rows, std::int64_t k_count, float alpha,
                      int tile_rows, float* out) {
  const std::int64_t tiles = (rows + tile_rows - 1) / tile_rows;
  parallel_for(tiles, std::max<std::int64_t>(1, 32768 / (tile_rows * std::max<std::int64_t>(1, k_count))),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t t = begin; t < end; ++t) {
                   const std::int64_t first = t * tile_rows, count = std::min<std::int64_t>(tile_rows, rows - first);
                   float* tile = out + first * k_count;
                   for (std::int64_t r = 0; r < count; ++r) {
                     const float* source = a + (first + r) * row_stride;
                     for (std::int64_t k = 0; k < k_count; ++k) tile[k * count + r] = source[k * k_stride] * alpha;
                   }
                 }
               });
}

/// B[k, columns], element (k, n) at b[k * k_stride + n * column_stride] -> [k][32], columns beyond `columns` zero.
inline void pack_panel(const float* b, std::int64_t k_stride, std::int64_t column_stride, std::int64_t k_count, int columns, float* out) {
  if (column_stride == 1) {
    for (std::int64_t k = 0; k < k_count; ++k) {
      std::copy_n(b + k * k_stride, columns, out + k * panel_width);
      std::fill_n(out + k * panel_width + columns, panel_width - columns, 0.0f);
    }
    return;
  }
  for (int n = 0; n < panel_width; ++n)
    for (std::int64_t k = 0; k < k_count; ++k) out[k * panel_width + n] = n < columns ? b[k * k_stride + n * column_stride] : 0.0f;
}

}  // namespace expctr::cpu
