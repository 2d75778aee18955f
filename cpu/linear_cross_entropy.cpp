// Fused head and cross-entropy. The vocabulary is cut into tiles of vocabulary_tile classes; forward keeps three numbers a (tile, row),
// combined per row in tile order; backward computes a tile's logits again, turns them into gradients in place and adds their product with
// the weight to dx. Forward 2 rows outputs inputs operations, backward twice that; no [rows, outputs] buffer.
#include <algorithm>
#include <cmath>

#include "base/kernels/linear.h"
#include "base/kernels/matmul.h"
#include "cpu/linear_multiply.h"
#include "cpu/linear_pack.h"
#include "cpu/run.h"
#include "cpu/shape_check.h"
#include "cpu/softmax_total.h"
#include "cpu/thread_pool.h"

namespace expctr::cpu {
namespace {

constexpr std::int64_t forward_rows = 96;    // logits of a tile: 384 KB
constexpr std::int64_t backward_rows = 480;  // logits of a tile: 1.9 MB, shared by the threads
constexpr std::int64_t tile_panels = vocabulary_tile / panel_width;

View matrix(float* data, std::int64_t rows, std::int64_t columns) {
  View view;
  view.data = data;
  view.rank = 2;
  view.shape[0] = rows;
  view.shape[1] = columns;
  return view;
}

std::int64_t tile_count(const PackedWeight& weight) { return (weight.outputs + vocabulary_tile - 1) / vocabulary_tile; }

template <class Args>
void check_arguments(const char* kernel, const Args& args, const View& row_values, std::initializer_list<NamedView> views) {
  const PackedWeight& weight = args.weight;
  require_supported(kernel, weight.dtype, weight.mode);
  const auto check = [&](bool holds, const char* rule) { require_arguments(holds, kernel, rule, views); };
  const std::int64_t rows = args.x.rows();
  check(args.x.dtype == DType::f32 && args.x.width() == weight.inputs, "x is f32 [rows, inputs]");
  check(args.targets.dtype == DType::i32 && args.targets.size() == rows, "targets are i32 [rows]");
  check(args.log_sum_exp.dtype == DType::f32 && args.log_sum_exp.size() == rows, "log_sum_exp is f32 [rows]");
  check(row_values.dtype == DType::f32 && row_values.size() == rows, "log-probabilities or their gradients are f32 [rows]");
  check(view_bytes(args.scratch) >= scratch_bytes(args), "scratch has scratch_bytes()");
  if (!(args.temperature > 0)) throw ShapeError(std::string(kernel) + ": temperature is not positive", "use a temperature above 0");
  for (std::int64_t r = 0; r < rows; ++r)
    if (args.targets.template as<std::int32_t>()[r] >= weight.outputs)
      throw ShapeError(std::string(kernel) + ": target " + std::to_string(args.targets.template as<std::int32_t>()[r]) + " of row " +
                           std::to_string(r) + " is not below " + std::to_string(weight.outputs),
                       "targets are class ids, or negative to skip the row");
}

}  // namespace

template <>
std::size_t scratch_bytes(const LinearCrossEntropyForward& args) {
  const std::int64_t rows = args.x.rows();
  return sizeof(float) * rows * packed_input_floats(kernels(), args.weight) + sizeof(SoftmaxPart) * rows * tile_count(args.weight) + sizeof(float) * rows;
}

template <>
void run(const LinearCrossEntropyForward& args, Stream) {
  check_arguments("LinearCrossEntropyForward", args, args.log_probability,
                  {{"x", args.x},
                   {"targets", args.targets},
                   {"log_probability", args.log_probability},
                   {"log_sum_exp", args.log_sum_exp},
                   {"entropy", args.entropy},
                   {"scratch", args.scratch}});
  require_arguments(args.entropy.empty() || (args.entropy.dtype == DType::f32 && args.entropy.size() == args.x.rows()),
                    "LinearCrossEntropyForward", "entropy is f32 [rows] or absent", {{"entropy", args.entropy}});
  const KernelTable& table = kernels();
  const PackedWeight& weight = args.weight;
  const std::int64_t rows = args.x.rows(), tiles = tile_count(weight);
  const float scale = static_cast<float>(1.0 / args.temperature);
  const std::int32_t* targets = args.targets.as<std::int32_t>();
  float* packed = args.scratch.as<float>();
  const std::int64_t packed_row = packed_input_floats(table, weight);
  SoftmaxPart* parts = reinterpret_cast<SoftmaxPart*>(packed + rows * packed_row);
  float* target_logit = reinterpret_cast<float*>(parts + rows * tiles);
  const std::int64_t row_blocks = (rows + forward_rows - 1) / forward_rows;
  for (std::int64_t r0 = 0; r0 < rows; r0 += forward_rows)
    pack_inputs(table, weight, args.x.as<float>() + r0 * weight.inputs, std::min(forward_rows, rows - r0), packed + r0 * packed_row);
  parallel_for(tiles * row_blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    float* logits = reinterpret_cast<float*>(
        thread_scratch(sizeof(float) * (std::min(rows, forward_rows) * vocabulary_tile + multiply_scratch_floats(weight))).data());
    float* scratch = logits + std::min(rows, forward_rows) * vocabulary_tile;
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t tile = i / row_blocks, r0 = i % row_blocks * forward_rows, count = std::min(forward_rows, rows - r0);
      const std::int64_t n0 = tile * vocabulary_tile, classes = std::min(vocabulary_tile, weight.outputs - n0);
      multiply_panels(table, weight, packed + r0 * packed_row, count, tile * tile_panels, (classes + panel_width - 1) / panel_width,
                      nullptr, logits, vocabulary_tile, scratch);
      for (std::int64_t r = 0; r < count; ++r) {
        table.softmax_part(logits + r * vocabulary_tile, classes, scale, &parts[tile * rows + r0 + r]);
        const std::int64_t target = targets[r0 + r] - n0;
        if (target >= 0 && target < classes) target_logit[r0 + r] = logits[r * vocabulary_tile + target] * scale;
      }
    }
  });
  for (std::int64_t r = 0; r < rows; ++r) {
    SoftmaxTotal total;
    for (std::int64_t tile = 0; tile < tiles; ++tile) total.add(parts[tile * rows + r]);
    const bool skipped = targets[r] < 0;
    args.log_probability.as<float>()[r] = skipped ? 0.0f : static_cast<float>(total.log_probability(target_logit[r]));
    args.log_sum_exp.as<float>()[r] = static_cast<float>(total.log_sum_exp());
    if (!args.entropy.empty()) args.entropy.as<float>()[r] = skipped ? 0.0f : static_cast<float>(total.entropy());
  }
}

template <>
std::size_t scratch_bytes(const LinearCrossEntropyBackward& args) {
  const std::int64_t rows = std::min(args.x.rows(), backward_rows);
  return sizeof(float) * rows * (packed_input_floats(kernels(), args.weight) + 2 * vocabulary_tile);
}

template <>
void run(const LinearCrossEntropyBackward& args, Stream) {
  check_arguments("LinearCrossEntropyBackward", args, args.dlog_probability,
                  {{"x", args.x},
                   {"targets", args.targets},
                   {"log_sum_exp", args.log_sum_exp},
                   {"dlog_probability", args.dlog_probability},
                   {"dx", args.dx},
                   {"scratch", args.scratch}});
  require_arguments(args.dweight.empty() || (args.dweight.dtype == DType::f32 && args.dweight.rows() == args.weight.outputs &&
                                             args.dweight.width() == args.weight.inputs),
                    "LinearCrossEntropyBackward", "dweight is f32 [outputs, inputs] or absent", {{"dweight", args.dweight}});
  require_arguments(args.dx.empty() || (args.dx.dtype == DType::f32 && args.dx.rows() == args.x.rows() && args.dx.width() == args.weight.inputs),
                    "LinearCrossEntropyBackward", "dx is like x", {{"x", args.x}, {"dx", args.dx}});
  const KernelTable& table = kernels();
  const PackedWeight& weight = args.weight;
  const float scale = static_cast<float>(1.0 / args.temperature);
  for (std::int64_t r0 = 0; r0 < args.x.rows(); r0 += backward_rows) {
    const std::int64_t rows = std::min(backward_rows, args.x.rows() - r0);
    float* packed = args.scratch.as<float>();
    float* logits = packed + rows * packed_input_floats(table, weight);
    float* packed_gradient = logits + rows * vocabulary_tile;
    const std::int32_t* targets = args.targets.as<std::int32_t>() + r0;
    const float* log_sum_exp = args.log_sum_exp.as<float>() + r0;
    const float* gradient = args.dlog_probability.as<float>() + r0;
    pack_inputs(table, weight, args.x.as<float>() + r0 * weight.inputs, rows, packed);
    for (std::int64_t tile = 0; tile < tile_count(weight); ++tile) {
      const std::int64_t n0 = tile * vocabulary_tile, classes = std::min(vocabulary_tile, weight.outputs - n0);
      parallel_for((classes + panel_width - 1) / panel_width, 1, [&](std::int64_t begin, std::int64_t end) {
        float* scratch = reinterpret_cast<float*>(thread_scratch(sizeof(float) * multiply_scratch_floats(weight)).data());
        multiply_panels(table, weight, packed, rows, tile * tile_panels + begin, end - begin, nullptr, logits + begin * panel_width,
                        vocabulary_tile, scratch);
      });
      parallel_for(rows, 16, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t r = begin; r < end; ++r) {
          float* row = logits + r * vocabulary_tile;
          const float factor = targets[r] < 0 ? 0.0f : gradient[r] * scale;
          table.softmax_row(row, classes, scale, log_sum_exp[r], row);
          const std::int64_t target = targets[r] - n0;
          if (target >= 0 && target < classes) row[target] -= 1.0f;
          for (std::int64_t i = 0; i < classes; ++i) row[i] *= -factor;
        }
      });
      if (!args.dx.empty()) {
        pack_outputs(table, weight, logits, vocabulary_tile, rows, classes, packed_gradient);
        multiply_transposed(table, weight, packed_gradient, rows, n0, n0 + classes, args.dx.as<float>() + r0 * weight.inputs);
      }
      if (!args.dweight.empty()) {
        for (std::int64_t r = 1; r < rows && classes < vocabulary_tile; ++r) std::copy_n(logits + r * vocabulary_tile, classes, logits + r * classes);
        run(MatMul{1.0, true, false, true, matrix(logits, rows, classes), matrix(args.x.as<float>() + r0 * weight.inputs, rows, weight.inputs),
                   matrix(args.dweight.as<float>() + n0 * weight.inputs, classes, weight.inputs)},
            Stream{});
      }
    }
  }
}

}  // namespace expctr::cpu
