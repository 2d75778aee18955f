// Products with frozen weights. Forward: outputs in panels of 32; a panel is dequantised once into [inputs][32] (second-level cache) and
// multiplied with all rows. Backward: inputs in columns of 32, outputs in chunks that are dequantised into [outputs][32] and added to dx in
// ascending order. 2 rows outputs inputs operations; few rows: bound by reading the packed weight once.
#include "base/kernels/linear.h"

#include <algorithm>

#include "cpu/linear_multiply.h"
#include "cpu/linear_pack.h"
#include "cpu/matmul_pack.h"
#include "cpu/run.h"
#include "cpu/shape_check.h"
#include "cpu/thread_pool.h"

namespace expctr::cpu {
namespace {

constexpr std::int64_t output_chunk = 1024;
constexpr std::int64_t row_chunk = 96 * 12;

}  // namespace

int first_tile_rows(const KernelTable& table, const PackedWeight& weight) { return is_quantised(weight.dtype) ? table.fused_rows : 0; }

std::int64_t multiply_scratch_floats(const PackedWeight& weight) { return weight.inputs * panel_width; }

void multiply_panels(const KernelTable& table, const PackedWeight& weight, const float* packed, std::int64_t rows, std::int64_t first,
                     std::int64_t count, const float* bias, float* y, std::int64_t y_stride, float* scratch) {
  const DType dtype = panel_dtype(weight.dtype);
  const std::int64_t fused = std::min<std::int64_t>(rows, first_tile_rows(table, weight));
  const std::int64_t together = rows == 1 && fused == 1 ? 2 : 1;  // panels of one step
  for (std::int64_t i = 0; i < count; i += together) {
    const std::int64_t n0 = (first + i) * panel_width, panels = std::min(together, count - i);
    const int columns = static_cast<int>(std::min(panels * panel_width, weight.outputs - n0));
    const std::byte* data = panel_data(weight, first + i);
    const float* panel_bias = bias ? bias + n0 : nullptr;
    float* c = y + i * panel_width;
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

void multiply_transposed(const KernelTable& table, const PackedWeight& weight, const float* packed, std::int64_t rows, std::int64_t n0,
                         std::int64_t n1, float* dx) {
  const std::int64_t blocks = (weight.inputs + panel_width - 1) / panel_width, outputs = n1 - n0;
  parallel_for(blocks, std::max<std::int64_t>(1, 1024 / std::max<std::int64_t>(1, outputs)), [&](std::int64_t begin, std::int64_t end) {
    float* columns = reinterpret_cast<float*>(thread_scratch(sizeof(float) * outputs * panel_width).data());
    for (std::int64_t block = begin; block < end; ++block) {
      const std::int64_t k0 = block * panel_width;
      unpack_columns(weight, n0, n1, k0, columns);
      table.gemm_panel(rows, outputs, packed, columns, panel_width, dx + k0, weight.inputs,
                       static_cast<int>(std::min<std::int64_t>(panel_width, weight.inputs - k0)), nullptr, true);
    }
  });
}

template <>
std::size_t scratch_bytes(const LinearFrozen&) {
  return 0;
}

template <>
void run(const LinearFrozen& args, Stream) {
  const PackedWeight& weight = args.weight;
  require_supported("LinearFrozen", weight.dtype, weight.mode);
  const auto check = [&](bool holds, const char* rule) {
    require_arguments(holds, "LinearFrozen", rule, {{"x", args.x}, {"bias", args.bias}, {"y", args.y}});
  };
  check(args.x.dtype == DType::f32 && args.y.dtype == DType::f32, "x and y are f32");
  check(args.x.width() == weight.inputs && args.y.width() == weight.outputs && args.x.rows() == args.y.rows(),
        "x is [rows, inputs], y [rows, outputs]");
  check(args.bias.empty() || (args.bias.dtype == DType::f32 && args.bias.size() == weight.outputs), "bias is f32 [outputs]");
  const KernelTable& table = kernels();
  const float* bias = args.bias.as<float>();
  for (std::int64_t r0 = 0; r0 < args.x.rows(); r0 += row_chunk) {
    const std::int64_t rows = std::min(row_chunk, args.x.rows() - r0);
    float* packed = reinterpret_cast<float*>(thread_scratch(sizeof(float) * rows * weight.inputs, 1).data());
    pack_rows(table, args.x.as<float>() + r0 * weight.inputs, weight.inputs, 1, rows, weight.inputs, 1.0f, first_tile_rows(table, weight),
              packed);
    float* y = args.y.as<float>() + r0 * weight.outputs;
    const std::int64_t grain = std::max<std::int64_t>(1, 65536 / std::max<std::int64_t>(1, (rows + 4) * weight.inputs));
    parallel_for(panel_count(weight), grain, [&](std::int64_t begin, std::int64_t end) {
      float* scratch = reinterpret_cast<float*>(thread_scratch(sizeof(float) * multiply_scratch_floats(weight)).data());
      multiply_panels(table, weight, packed, rows, begin, end - begin, bias, y + begin * panel_width, weight.outputs, scratch);
    });
  }
}

template <>
std::size_t scratch_bytes(const LinearFrozenBackward& args) {
  return sizeof(float) * std::min(args.dy.rows(), row_chunk) * std::min(args.weight.outputs, output_chunk);
}

template <>
void run(const LinearFrozenBackward& args, Stream) {
  const PackedWeight& weight = args.weight;
  require_supported("LinearFrozenBackward", weight.dtype, weight.mode);
  const auto check = [&](bool holds, const char* rule) {
    require_arguments(holds, "LinearFrozenBackward", rule, {{"dy", args.dy}, {"dx", args.dx}, {"scratch", args.scratch}});
  };
  check(args.dx.dtype == DType::f32 && args.dy.dtype == DType::f32, "dx and dy are f32");
  check(args.dx.width() == weight.inputs && args.dy.width() == weight.outputs && args.dx.rows() == args.dy.rows(),
        "dx is [rows, inputs], dy [rows, outputs]");
  check(view_bytes(args.scratch) >= scratch_bytes(args), "scratch has scratch_bytes()");
  const KernelTable& table = kernels();
  float* packed = args.scratch.as<float>();
  for (std::int64_t r0 = 0; r0 < args.dy.rows(); r0 += row_chunk) {
    const std::int64_t rows = std::min(row_chunk, args.dy.rows() - r0);
    for (std::int64_t n0 = 0; n0 < weight.outputs; n0 += output_chunk) {
      const std::int64_t n1 = std::min(weight.outputs, n0 + output_chunk);
      pack_rows(table, args.dy.as<float>() + r0 * weight.outputs + n0, weight.outputs, 1, rows, n1 - n0, 1.0f, 0, packed);
      multiply_transposed(table, weight, packed, rows, n0, n1, args.dx.as<float>() + r0 * weight.inputs);
    }
  }
}

}  // namespace expctr::cpu
