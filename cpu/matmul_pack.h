// Operands of gemm_panel() laid out for it.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/gemm_kernel.h"
#include "cpu/kernel_table.h"
#include "cpu/thread_pool.h"

namespace expctr::cpu {

/// A[rows, k], element (r, k) at a[r * row_stride + k * k_stride] (one stride is 1), times alpha -> tiles [k][rows of the tile]: the first
/// one of first_rows rows (0: like the others), the others of table.tile_rows. Runs on the pool.
inline void pack_rows(const KernelTable& table, const float* a, std::int64_t row_stride, std::int64_t k_stride, std::int64_t rows,
                      std::int64_t k_count, float alpha, int first_rows, float* out) {
  const std::int64_t before = std::min<std::int64_t>(first_rows, rows);
  const std::int64_t tiles = (before > 0) + (rows - before + table.tile_rows - 1) / table.tile_rows;
  const std::int64_t grain = std::max<std::int64_t>(1, 65536 / (table.tile_rows * std::max<std::int64_t>(1, k_count)));
  parallel_for(tiles, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const std::int64_t first = before == 0 ? t * table.tile_rows : t == 0 ? 0 : before + (t - 1) * table.tile_rows;
      const std::int64_t count = before > 0 && t == 0 ? before : std::min<std::int64_t>(table.tile_rows, rows - first);
      float* tile = out + first * k_count;
      if (k_stride == 1) {
        table.transpose(a + first * row_stride, row_stride, count, k_count, tile, count);
      } else {
        for (std::int64_t k = 0; k < k_count; ++k) std::copy_n(a + first + k * k_stride, count, tile + k * count);
      }
      if (alpha != 1.0f)
        for (std::int64_t i = 0; i < count * k_count; ++i) tile[i] *= alpha;
    }
  });
}

/// B[k, columns], element (k, n) at b[k * k_stride + n * column_stride] (one stride is 1) -> [k][32], columns beyond `columns` zero.
inline void pack_panel(const KernelTable& table, const float* b, std::int64_t k_stride, std::int64_t column_stride, std::int64_t k_count,
                       int columns, float* out) {
  if (column_stride == 1) {
    for (std::int64_t k = 0; k < k_count; ++k) std::copy_n(b + k * k_stride, columns, out + k * panel_width);
  } else {
    table.transpose(b, column_stride, columns, k_count, out, panel_width);
  }
  if (columns < panel_width)
    for (std::int64_t k = 0; k < k_count; ++k) std::fill_n(out + k * panel_width + columns, panel_width - columns, 0.0f);
}

}  // namespace expctr::cpu
