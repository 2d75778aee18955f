// Products with frozen weights (cpu/linear_multiply.h): rows in chunks that are packed once. 2 rows outputs inputs operations; few rows:
// bound by reading the packed weight once.
#include "base/kernels/linear.h"

#include <algorithm>

#include "cpu/linear_multiply.h"
#include "cpu/linear_pack.h"
#include "cpu/run.h"
#include "cpu/shape_check.h"
#include "cpu/thread_pool.h"

namespace expctr::cpu {
namespace {

constexpr std::int64_t output_chunk = 1024;
constexpr std::int64_t row_chunk = 96 * 12;

/// Panels that a thread takes at a time: enough work to be worth handing over (the 4: reading the weight), an even number of pieces.
std::int64_t panels_of_piece(const PackedWeight& weight, std::int64_t rows) {
  const std::int64_t panels = panel_count(weight);
  const std::int64_t least = std::max<std::int64_t>(1, 16384 / std::max<std::int64_t>(1, (rows + 4) * weight.inputs));
  const std::int64_t pairs = std::max<std::int64_t>(1, panels / (2 * least));
  return std::max<std::int64_t>(1, (panels + 2 * pairs - 1) / (2 * pairs));
}

}  // namespace

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
    float* packed = reinterpret_cast<float*>(thread_scratch(sizeof(float) * rows * packed_input_floats(table, weight), 1).data());
    pack_inputs(table, weight, args.x.as<float>() + r0 * weight.inputs, rows, packed);
    float* y = args.y.as<float>() + r0 * weight.outputs;
    parallel_for(panel_count(weight), panels_of_piece(weight, rows), [&](std::int64_t begin, std::int64_t end) {
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
      pack_outputs(table, weight, args.dy.as<float>() + r0 * weight.outputs + n0, weight.outputs, rows, n1 - n0, packed);
      multiply_transposed(table, weight, packed, rows, n0, n1, args.dx.as<float>() + r0 * weight.inputs);
    }
  }
}

}  // namespace expctr::cpu
