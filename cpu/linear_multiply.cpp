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
  return weight.mode == ComputeMode::f32 && is_quantised(weight.dtype) ? table.fused_rows : 0;
}

int int8_parts(const PackedWeight& weight) {
  return with_int8(weight.dtype, []<class Block>() { return Block::parts; });
}

/// Body(first row, rows, tile) over tiles of tile_rows rows of `floats` floats each.
template <class Body>
void for_tiles(std::int64_t rows, int tile_rows, std::int64_t floats, float* out, const Body& body) {
  const std::int64_t grain = std::max<std::int64_t>(1, 65536 / (tile_rows * std::max<std::int64_t>(1, floats)));
  parallel_for((rows + tile_rows - 1) / tile_rows, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t)
      body(t * tile_rows, std::min<std::int64_t>(tile_rows, rows - t * tile_rows), out + t * tile_rows * floats);
  });
}

/// Rows rounded to bf16, in the tiles of bf16_panel, or of gemm_panel where there is none.
void pack_bf16(const KernelTable& table, const float* x, std::int64_t stride, std::int64_t rows, std::int64_t count, float* out) {
  const auto convert = table.bf16_panel ? table.bf16_row : table.bf16_round;
  const std::int64_t floats = table.bf16_panel ? (count + 1) / 2 : count;
  for_tiles(rows, table.tile_rows, floats, out, [&](std::int64_t first, std::int64_t tile, float* to) {
    float* row = tile == 1 ? to : reinterpret_cast<float*>(thread_scratch(sizeof(float) * tile * floats).data());
    for (std::int64_t r = 0; r < tile; ++r) convert(x + (first + r) * stride, count, row + r * floats);
    if (tile > 1) table.transpose(row, floats, tile, floats, to, tile);
  });
}

/// Rows quantised for int8_panel, in its words.
void pack_int8(const KernelTable& table, const PackedWeight& weight, const float* x, std::int64_t rows, float* out) {
  const std::int64_t words = packed_input_floats(table, weight);
  for_tiles(rows, table.int8_rows, words, out, [&](std::int64_t first, std::int64_t tile, float* to) {
    float* row = tile == 1 ? to : reinterpret_cast<float*>(thread_scratch(sizeof(float) * tile * words).data());
    for (std::int64_t r = 0; r < tile; ++r) table.int8_row(weight.dtype, x + (first + r) * weight.inputs, weight.inputs, row + r * words);
    if (tile > 1) table.transpose(row, words, tile, words, to, tile);
  });
}

/// The panel in the form that the float32 or bf16 product takes: `data` itself, or made in scratch.
const float* bf16_operand(const KernelTable& table, const PackedWeight& weight, const std::byte* data, float* scratch) {
  const bool pairs = table.bf16_panel != nullptr;
  if (panel_storage(weight) == PanelStorage::pairs) {
    if (pairs) return reinterpret_cast<const float*>(data);
    table.unpack_pairs(data, 0, weight.inputs, scratch);
    return scratch;
  }
  float block[32 * panel_width];
  float* out = scratch;
  for (std::int64_t k = 0; k < weight.inputs; k += 32) {
    unpack(table, weight, data, k, k + 32, block);
    if (pairs)
      table.bf16_pairs(block, 32, out);
    else
      table.bf16_round(block, 32 * panel_width, out);
    out += (pairs ? 16 : 32) * panel_width;
  }
  return scratch;
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
  if (weight.mode == ComputeMode::bf16) return pack_bf16(table, x, weight.inputs, rows, weight.inputs, out);
  pack_rows(table, x, weight.inputs, 1, rows, weight.inputs, 1.0f, first_tile_rows(table, weight), out);
}

void pack_outputs(const KernelTable& table, const PackedWeight& weight, const float* dy, std::int64_t stride, std::int64_t rows,
                  std::int64_t outputs, float* out) {
  if (weight.mode != ComputeMode::f32) return pack_bf16(table, dy, stride, rows, outputs, out);
  pack_rows(table, dy, stride, 1, rows, outputs, 1.0f, 0, out);
}

std::int64_t multiply_scratch_floats(const PackedWeight& weight) { return weight.inputs * panel_width; }

void multiply_panels(const KernelTable& table, const PackedWeight& weight, const float* packed, std::int64_t rows, std::int64_t first,
                     std::int64_t count, const float* bias, float* y, std::int64_t y_stride, float* scratch) {
  const DType dtype = panel_dtype(weight.dtype);
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
    } else if (weight.mode == ComputeMode::bf16) {
      const auto multiply = table.bf16_panel ? table.bf16_panel : table.gemm_panel;
      multiply(rows, floats, packed, bf16_operand(table, weight, data, scratch), panel_width, c, y_stride, columns, panel_bias, false);
    } else {
      const float* panel = scratch;
      if (fused > 0)
        table.quantised_rows(dtype, static_cast<int>(fused), weight.inputs, packed, data, c, y_stride, columns, panel_bias,
                             rows > fused ? scratch : nullptr);
      else if (dtype == DType::f32)
        panel = reinterpret_cast<const float*>(data);
      else
        table.unpack_panel(dtype, data, 0, weight.inputs, scratch);
      if (rows > fused)
        table.gemm_panel(rows - fused, weight.inputs, packed + fused * weight.inputs, panel, panel_width, c + fused * y_stride, y_stride,
                         columns, panel_bias, false);
    }
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
