// Forward: outputs in panels of 32; a panel is brought into its product's form once (second-level cache) and multiplied with all rows.
// Backward: inputs in columns of 32, outputs in chunks that are unpacked into [outputs][32] and added to dx in ascending order.
#include "cpu/linear_multiply.h"

#include <algorithm>

#include "cpu/int8_kernel.h"
#include "cpu/linear_pack.h"
#include "cpu/matmul_pack.h"
#include "cpu/thread_pool.h"

namespace expctr::cpu {
namespace {

/// Rows of the first tile: block formats are unpacked while that tile is multiplied.
int first_tile_rows(const KernelTable& table, const PackedWeight& weight) {
  if (panel_storage(weight) != PanelStorage::blocks) return 0;
  return weight.mode == ComputeMode::bf16 ? table.bf16_fused_rows : table.fused_rows;
}

int int8_parts(const PackedWeight& weight) {
  return with_int8(weight.dtype, []<class Block>() { return Block::parts; });
}

/// body(first row, rows, tile) over tiles of rows of `floats` floats each: the first one of first_rows (0: like the others), the others of
/// tile_rows.
template <class Body>
void for_tiles(std::int64_t rows, int first_rows, int tile_rows, std::int64_t floats, float* out, const Body& body) {
  const std::int64_t before = std::min<std::int64_t>(first_rows, rows),
                     grain = std::max<std::int64_t>(1, 65536 / (tile_rows * std::max<std::int64_t>(1, floats)));
  if (before > 0) body(std::int64_t{0}, before, out);
  parallel_for((rows - before + tile_rows - 1) / tile_rows, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = before + begin * tile_rows; r < std::min(rows, before + end * tile_rows); r += tile_rows)
      body(r, std::min<std::int64_t>(tile_rows, rows - r), out + r * floats);
  });
}

/// Rows rounded to bf16, in the tiles of bf16_panel, or of gemm_panel where there is none.
void pack_bf16(const KernelTable& table, const float* x, std::int64_t stride, std::int64_t rows, std::int64_t count, int first_rows,
               float* out) {
  const auto convert = table.bf16_panel ? table.bf16_row : table.bf16_round;
  const std::int64_t floats = table.bf16_panel ? (count + 1) / 2 : count;
  for_tiles(rows, first_rows, table.tile_rows, floats, out, [&](std::int64_t first, std::int64_t tile, float* to) {
    float* row = tile == 1 ? to : reinterpret_cast<float*>(thread_scratch(sizeof(float) * tile * floats).data());
    for (std::int64_t r = 0; r < tile; ++r) convert(x + (first + r) * stride, count, row + r * floats);
    if (tile > 1) table.transpose(row, floats, tile, floats, to, tile);
  });
}

/// Rows quantised for int8_panel, in its words.
void pack_int8(const KernelTable& table, const PackedWeight& weight, const float* x, std::int64_t rows, float* out) {
  const std::int64_t words = packed_input_floats(table, weight),
                     grain = std::max<std::int64_t>(1, 4096 / std::max<std::int64_t>(1, weight.inputs));
  parallel_for(rows, grain, [&](std::int64_t begin, std::int64_t end) {
    table.int8_pack(weight.dtype, x + begin * weight.inputs, end - begin, weight.inputs, out + begin * words);
  });
}

}  // namespace

std::int64_t packed_input_floats(const KernelTable& table, const PackedWeight& weight) {
  switch (weight.mode) {
    case ComputeMode::int8:
      return (weight.inputs + 31) / 32 * int8_words(int8_parts(weight));
    case ComputeMode::bf16:
      return table.bf16_panel ? (weight.inputs + 1) / 2 : weight.inputs;
    default:
      return weight.inputs;
  }
}

void pack_inputs(const KernelTable& table, const PackedWeight& weight, const float* x, std::int64_t rows, float* out) {
  if (weight.mode == ComputeMode::int8) return pack_int8(table, weight, x, rows, out);
  if (weight.mode == ComputeMode::bf16) return pack_bf16(table, x, weight.inputs, rows, weight.inputs, first_tile_rows(table, weight), out);
  pack_rows(table, x, weight.inputs, 1, rows, weight.inputs, 1.0f, first_tile_rows(table, weight), out);
}

void pack_outputs(const KernelTable& table, const PackedWeight& weight, const float* dy, std::int64_t stride, std::int64_t rows,
                  std::int64_t outputs, float* out) {
  if (weight.mode != ComputeMode::f32) return pack_bf16(table, dy, stride, rows, outputs, 0, out);
  pack_rows(table, dy, stride, 1, rows, outputs, 1.0f, 0, out);
}

std::int64_t multiply_scratch_floats(const PackedWeight& weight) { return weight.inputs * panel_width; }

void multiply_panels(const KernelTable& table, const PackedWeight& weight, const float* packed, std::int64_t rows, std::int64_t first,
                     std::int64_t count, const float* bias, float* y, std::int64_t y_stride, float* scratch) {
  const std::int64_t fused = std::min<std::int64_t>(rows, first_tile_rows(table, weight));
  const std::int64_t together = rows == 1 && fused == 1 ? 2 : 1;  // panels of one step
  const std::int64_t floats = packed_input_floats(table, weight);
  for (std::int64_t i = 0; i < count; i += together) {
    const std::int64_t n0 = (first + i) * panel_width, panels = std::min(together, count - i);
    const int columns = static_cast<int>(std::min(panels * panel_width, weight.outputs - n0));
    const std::byte* data = panel_data(weight, first + i);
    const float* panel_bias = bias ? bias + n0 : nullptr;
    float* c = y + i * panel_width;
    if (weight.mode == ComputeMode::int8) {
      table.int8_panel(weight.dtype, rows, (weight.inputs + 31) / 32, packed, data, c, y_stride, columns, panel_bias);
      continue;
    }
    const bool bf16 = weight.mode == ComputeMode::bf16, pairs = bf16 && table.bf16_panel;
    const float* panel = scratch;
    if (fused > 0)
      (bf16 ? table.quantised_bf16_rows : table.quantised_rows)(weight.dtype, static_cast<int>(fused), weight.inputs, packed, data, c,
                                                                y_stride, columns, panel_bias, rows > fused ? scratch : nullptr);
    else if (pairs || (!bf16 && panel_dtype(weight.dtype) == DType::f32))
      panel = reinterpret_cast<const float*>(data);
    else
      unpack(table, weight, data, 0, weight.inputs, scratch);
    if (rows > fused)
      (pairs ? table.bf16_panel : table.gemm_panel)(rows - fused, floats, packed + fused * floats, panel, panel_width, c + fused * y_stride,
                                                    y_stride, columns, panel_bias, false);
  }
}

void multiply_transposed(const KernelTable& table, const PackedWeight& weight, const float* packed, std::int64_t rows, std::int64_t n0,
                         std::int64_t n1, float* dx) {
  const std::int64_t blocks = (weight.inputs + panel_width - 1) / panel_width, outputs = n1 - n0;
  const bool rounded = weight.mode != ComputeMode::f32, pairs = rounded && table.bf16_panel != nullptr;
  const auto multiply = pairs ? table.bf16_panel : table.gemm_panel;
  parallel_for(blocks, std::max<std::int64_t>(1, 1024 / std::max<std::int64_t>(1, outputs)), [&](std::int64_t begin, std::int64_t end) {
    float* columns = reinterpret_cast<float*>(thread_scratch(sizeof(float) * outputs * panel_width).data());
    for (std::int64_t block = begin; block < end; ++block) {
      const std::int64_t k0 = block * panel_width;
      unpack_columns(table, weight, n0, n1, k0, columns);
      // In place: a pair of rows is read before the row of pairs that takes the first one's place is written.
      if (pairs)
        table.bf16_pairs(columns, outputs, columns);
      else if (rounded)
        table.bf16_round(columns, outputs * panel_width, columns);
      multiply(rows, pairs ? (outputs + 1) / 2 : outputs, packed, columns, panel_width, dx + k0, weight.inputs,
               static_cast<int>(std::min<std::int64_t>(panel_width, weight.inputs - k0)), nullptr, true);
    }
  });
}

}  // namespace expctr::cpu
