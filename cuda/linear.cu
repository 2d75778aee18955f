// Products with frozen weights. Packed: the exact dequantised values as f32 (mode f32) or rounded to bf16 (mode bf16), [outputs, inputs],
// so that products are plain cuBLASLt calls: 2 rows inputs outputs FLOPs; with few rows bound by reading the weight (4 or 2 bytes an
// element), with many by arithmetic. bf16 mode rounds the other operand to bf16 too, in pieces that fit the stream's staging memory, and
// accumulates in float32. Head and cross-entropy: logits of up to 2048 rows and 8192 classes at a time in scratch (64 MiB of logits at
// most, whatever the vocabulary; bf16 adds half of that backward), each tile a product, then one pass that folds it into running sums a row. 2 rows inputs outputs FLOPs forward, twice
// that backward (the logits are computed again); the passes over a tile move 4 to 12 bytes a logit. Bound by arithmetic, with few rows by
// reading the weight.
#include <algorithm>

#include "base/blocks.h"
#include "base/kernels/elementwise.h"
#include "base/kernels/linear.h"
#include "cuda/gemm.h"
#include "cuda/online_softmax.cuh"
#include "cuda/rows.cuh"

namespace expctr::cuda {

namespace {

View as_view(const PackedWeight& weight) {
  View view;
  view.data = weight.data;
  view.dtype = weight.mode == ComputeMode::bf16 ? DType::bf16 : DType::f32;
  view.rank = 2;
  view.shape[0] = weight.outputs;
  view.shape[1] = weight.inputs;
  return view;
}

View rows_of(const View& view, std::int64_t begin, std::int64_t rows) {
  View part = view;
  part.rank = 2;
  part.shape[0] = rows;
  part.shape[1] = view.width();
  part.data = view.as<float>() + begin * view.width();
  return part;
}

/// The left operand [rows, width] as the product wants it: itself, or rounded to bf16 in the stream's staging memory.
const void* operand(const View& x, ComputeMode mode, Stream stream) {
  if (mode == ComputeMode::f32) return x.data;
  View rounded = x;
  rounded.dtype = DType::bf16;
  rounded.data = staging(stream);
  run(Convert{x, rounded}, stream);
  return rounded.data;
}

std::int64_t rows_at_once(std::int64_t rows, std::int64_t width, ComputeMode mode) {
  if (mode == ComputeMode::f32) return rows;
  return std::max<std::int64_t>(1, static_cast<std::int64_t>(staging_bytes / 2) / std::max<std::int64_t>(width, 1));
}

void check_mode(const char* kernel, const PackedWeight& weight, const View& input) {
  if (weight.mode == ComputeMode::int8)
    throw Error(std::string("cuda: ") + kernel + ": int8 products exist on the CPU only", "choose llm.compute: bf16");
  if (weight.mode == ComputeMode::bf16 && static_cast<std::size_t>(input.width()) * 2 > staging_bytes)
    throw Error(std::string("cuda: ") + kernel + ": rows of " + std::to_string(input.width()) + " elements exceed the staging memory",
                "choose llm.compute: f32");
}

constexpr std::int64_t most_rows = 2048, most_classes = 8192;

/// Running sums of a row over the tiles visited so far. target_logit is NaN until its tile comes, so a target that is no class shows.
struct RowState {
  float maximum, sum, weighted, target_logit;
};

/// Memory of one tile of rows. The bf16 parts exist in mode bf16 only.
struct Tile {
  std::int64_t rows, classes;
  std::size_t state_bytes, logits_bytes, x_bytes, dlogits_bytes;
  std::size_t bytes() const { return state_bytes + logits_bytes + x_bytes + dlogits_bytes; }
};

std::size_t rounded_up(std::int64_t bytes) { return static_cast<std::size_t>(ceil_div(bytes, 256) * 256); }

Tile tile_of(const PackedWeight& weight, const View& x, bool backward) {
  Tile tile{};
  tile.rows = std::min(x.rows(), most_rows);
  tile.classes = std::min(weight.outputs, most_classes);
  tile.state_bytes = backward ? 0 : rounded_up(tile.rows * static_cast<std::int64_t>(sizeof(RowState)));
  tile.logits_bytes = rounded_up(tile.rows * tile.classes * 4);
  if (weight.mode == ComputeMode::bf16) {
    tile.x_bytes = rounded_up(tile.rows * x.width() * 2);
    if (backward) tile.dlogits_bytes = rounded_up(tile.rows * tile.classes * 2);
  }
  return tile;
}

/// A block a row: folds the tile's logits [rows, classes] of classes first .. first + classes - 1 into the row's state, and finishes after
/// the last tile.
__global__ void __launch_bounds__(block_threads)
    fold_kernel(std::int64_t classes, std::int64_t first, bool last, const float* logits, const std::int32_t* targets, RowState* states,
                float* log_probability, float* log_sum_exp, float* entropy) {
  __shared__ float shared[8];
  const std::int64_t row = blockIdx.x;
  const int lane = static_cast<int>(threadIdx.x);
  const std::int32_t target = targets[row];
  logits += row * classes;
  OnlineSum sums;
  visit_row<256>(
      lane, classes, [&](std::int64_t, float logit) { sums.add(logit); }, logits);
  const float most = group_reduce<256, true>(sums.maximum, shared);
  OnlineSum tile;
  tile.maximum = most;
  tile.sum = group_reduce<256>(sums.sum_at(most), shared);
  tile.weighted = group_reduce<256>(sums.weighted_at(most), shared);
  if (lane != 0) return;
  RowState state = first == 0 ? RowState{-INFINITY, 0, 0, NAN} : states[row];
  if (target >= first && target < first + classes) state.target_logit = logits[target - first];
  OnlineSum total;
  total.maximum = state.maximum;
  total.sum = state.sum;
  total.weighted = state.weighted;
  const float top = fmaxf(total.maximum, tile.maximum);
  total.rescale(top);
  total.sum += tile.sum_at(top);
  total.weighted += tile.weighted_at(top);
  if (!last) {
    states[row] = {total.maximum, total.sum, total.weighted, state.target_logit};
    return;
  }
  const float log_sum = total.maximum + logf(total.sum);
  log_probability[row] = target < 0 ? 0.0f : state.target_logit - log_sum;
  log_sum_exp[row] = log_sum;
  if (entropy != nullptr) entropy[row] = target < 0 ? 0.0f : total.entropy();
}

__device__ __forceinline__ void store(float* to, std::int64_t i, float value) { to[i] = value; }
__device__ __forceinline__ void store(std::uint16_t* to, std::int64_t i, float value) { to[i] = bf16_of_float(value); }

/// dlogits = dlog_probability (onehot - softmax) / temperature; in place when both are f32.
template <class T>
__global__ void __launch_bounds__(block_threads)
    dlogits_kernel(std::int64_t total, std::int64_t classes, std::int64_t first, float inverse_temperature, const float* logits,
                   const std::int32_t* targets, const float* log_sum_exp, const float* dlog_probability, T* dlogits) {
  const std::int64_t start = static_cast<std::int64_t>(blockIdx.x) * (4 * block_threads) + threadIdx.x;
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    const std::int64_t i = start + step * block_threads;
    if (i >= total) return;
    const std::int64_t row = i / classes;
    const std::int32_t target = targets[row];
    const float onehot = first + (i - row * classes) == target ? 1.0f : 0.0f;
    store(dlogits, i, target < 0 ? 0.0f : dlog_probability[row] * (onehot - expf(logits[i] - log_sum_exp[row])) * inverse_temperature);
  }
}

void check(const char* kernel, const PackedWeight& weight, double temperature) {
  if (weight.mode == ComputeMode::int8)
    throw Error(std::string("cuda: ") + kernel + ": int8 products exist on the CPU only", "choose llm.compute: bf16");
  if (!(temperature > 0))
    throw Error(std::string("cuda: ") + kernel + ": temperature " + std::to_string(temperature), "temperature must be positive");
}

/// What the two passes share: the rows of a tile, their inputs as the product wants them, and logits of one tile of classes.
class TileRows {
 public:
  TileRows(const PackedWeight& weight, double temperature, const View& x, std::int64_t begin, const Tile& tile, char* scratch,
           Stream stream)
      : weight_(weight), temperature_(temperature), stream_(stream), count_(std::min(tile.rows, x.rows() - begin)) {
    const float* rows = x.as<float>() + begin * x.width();
    logits_ = reinterpret_cast<float*>(scratch + tile.state_bytes);
    x_ = rows;
    if (weight.mode == ComputeMode::bf16) {
      View from, to;
      from.data = const_cast<float*>(rows);
      from.rank = to.rank = 1;
      from.shape[0] = to.shape[0] = count_ * x.width();
      to.dtype = DType::bf16;
      to.data = scratch + tile.state_bytes + tile.logits_bytes;
      run(Convert{from, to}, stream);
      x_ = to.data;
    }
  }
  std::int64_t count() const { return count_; }
  float* logits() const { return logits_; }
  const void* weight_rows(std::int64_t first) const {
    return static_cast<const char*>(weight_.data) + first * weight_.inputs * (weight_.mode == ComputeMode::bf16 ? 2 : 4);
  }
  DType operands() const { return weight_.mode == ComputeMode::bf16 ? DType::bf16 : DType::f32; }
  void compute_logits(std::int64_t first, std::int64_t classes) const {
    Gemm product;
    product.m = count_;
    product.n = classes;
    product.k = weight_.inputs;
    product.transpose_b = true;
    product.operands = operands();
    product.a = x_;
    product.b = weight_rows(first);
    product.c = logits_;
    product.alpha = static_cast<float>(1.0 / temperature_);
    gemm(product, stream_);
  }

 private:
  const PackedWeight& weight_;
  double temperature_;
  Stream stream_;
  std::int64_t count_;
  const void* x_;
  float* logits_;
};

}  // namespace

std::size_t packed_weight_bytes(std::int64_t outputs, std::int64_t inputs, DType, ComputeMode mode) {
  if (mode == ComputeMode::int8) throw Error("cuda: int8 products exist on the CPU only", "choose llm.compute: bf16");
  return static_cast<std::size_t>(outputs * inputs) * (mode == ComputeMode::bf16 ? 2 : 4);
}

template <>
void run(const PackWeight& args, Stream stream) {
  check_mode("pack_weight", args.packed, View{});
  run(Convert{args.source, as_view(args.packed)}, stream);
}

template <>
void run(const LinearFrozen& args, Stream stream) {
  require_f32("linear_frozen", {&args.x, &args.bias, &args.y});
  check_mode("linear_frozen", args.weight, args.x);
  const std::int64_t rows = args.x.rows(), piece = rows_at_once(rows, args.weight.inputs, args.weight.mode);
  for (std::int64_t begin = 0; begin < rows; begin += piece) {
    const std::int64_t count = std::min(piece, rows - begin);
    Gemm product;
    product.m = count;
    product.n = args.weight.outputs;
    product.k = args.weight.inputs;
    product.transpose_b = true;
    product.operands = as_view(args.weight).dtype;
    product.a = operand(rows_of(args.x, begin, count), args.weight.mode, stream);
    product.b = args.weight.data;
    product.c = args.y.as<float>() + begin * product.n;
    product.bias = args.bias.as<float>();
    gemm(product, stream);
  }
}

template <>
std::size_t scratch_bytes(const LinearFrozenBackward&) {
  return 0;
}

template <>
void run(const LinearFrozenBackward& args, Stream stream) {
  require_f32("linear_frozen_backward", {&args.dy, &args.dx});
  check_mode("linear_frozen_backward", args.weight, args.dy);
  const std::int64_t rows = args.dy.rows(), piece = rows_at_once(rows, args.weight.outputs, args.weight.mode);
  for (std::int64_t begin = 0; begin < rows; begin += piece) {
    const std::int64_t count = std::min(piece, rows - begin);
    Gemm product;
    product.m = count;
    product.n = args.weight.inputs;
    product.k = args.weight.outputs;
    product.operands = as_view(args.weight).dtype;
    product.a = operand(rows_of(args.dy, begin, count), args.weight.mode, stream);
    product.b = args.weight.data;
    product.c = args.dx.as<float>() + begin * product.n;
    product.beta = 1;
    gemm(product, stream);
  }
}

template <>
std::size_t scratch_bytes(const LinearCrossEntropyForward& args) {
  return tile_of(args.weight, args.x, false).bytes();
}

template <>
void run(const LinearCrossEntropyForward& args, Stream stream) {
  require_f32("linear_cross_entropy", {&args.x, &args.log_probability, &args.log_sum_exp, &args.entropy});
  require("linear_cross_entropy", DType::i32, {&args.targets});
  check("linear_cross_entropy", args.weight, args.temperature);
  const Tile tile = tile_of(args.weight, args.x, false);
  require_scratch("linear_cross_entropy", args.scratch, tile.bytes());
  char* scratch = args.scratch.as<char>();
  for (std::int64_t begin = 0; begin < args.x.rows(); begin += tile.rows) {
    const TileRows rows(args.weight, args.temperature, args.x, begin, tile, scratch, stream);
    for (std::int64_t first = 0; first < args.weight.outputs; first += tile.classes) {
      const std::int64_t classes = std::min(tile.classes, args.weight.outputs - first);
      rows.compute_logits(first, classes);
      fold_kernel<<<blocks_for(rows.count(), 1), block_threads, 0, native(stream)>>>(
          classes, first, first + classes == args.weight.outputs, rows.logits(), args.targets.as<std::int32_t>() + begin,
          reinterpret_cast<RowState*>(scratch), args.log_probability.as<float>() + begin, args.log_sum_exp.as<float>() + begin,
          args.entropy.empty() ? nullptr : args.entropy.as<float>() + begin);
      check_launch("linear_cross_entropy");
    }
  }
}

template <>
std::size_t scratch_bytes(const LinearCrossEntropyBackward& args) {
  return tile_of(args.weight, args.x, true).bytes();
}

template <>
void run(const LinearCrossEntropyBackward& args, Stream stream) {
  require_f32("linear_cross_entropy_backward", {&args.x, &args.log_sum_exp, &args.dlog_probability, &args.dx});
  require("linear_cross_entropy_backward", DType::i32, {&args.targets});
  check("linear_cross_entropy_backward", args.weight, args.temperature);
  const Tile tile = tile_of(args.weight, args.x, true);
  require_scratch("linear_cross_entropy_backward", args.scratch, tile.bytes());
  char* scratch = args.scratch.as<char>();
  const float inverse_temperature = static_cast<float>(1.0 / args.temperature);
  const std::int64_t inputs = args.weight.inputs;
  for (std::int64_t begin = 0; begin < args.x.rows(); begin += tile.rows) {
    const TileRows rows(args.weight, args.temperature, args.x, begin, tile, scratch, stream);
    for (std::int64_t first = 0; first < args.weight.outputs; first += tile.classes) {
      const std::int64_t classes = std::min(tile.classes, args.weight.outputs - first), total = rows.count() * classes;
      rows.compute_logits(first, classes);
      const unsigned blocks = blocks_for(total, 4 * block_threads);
      const std::int32_t* targets = args.targets.as<std::int32_t>() + begin;
      const float *log_sum_exp = args.log_sum_exp.as<float>() + begin, *gradient = args.dlog_probability.as<float>() + begin;
      void* dlogits = rows.logits();
      if (rows.operands() == DType::bf16) {
        dlogits = scratch + tile.state_bytes + tile.logits_bytes + tile.x_bytes;
        dlogits_kernel<<<blocks, block_threads, 0, native(stream)>>>(total, classes, first, inverse_temperature, rows.logits(), targets,
                                                                     log_sum_exp, gradient, static_cast<std::uint16_t*>(dlogits));
      } else {
        dlogits_kernel<<<blocks, block_threads, 0, native(stream)>>>(total, classes, first, inverse_temperature, rows.logits(), targets,
                                                                     log_sum_exp, gradient, rows.logits());
      }
      check_launch("linear_cross_entropy_backward");
      Gemm product;
      product.m = rows.count();
      product.n = inputs;
      product.k = classes;
      product.operands = rows.operands();
      product.a = dlogits;
      product.b = rows.weight_rows(first);
      product.c = args.dx.as<float>() + begin * inputs;
      product.beta = 1;
      gemm(product, stream);
    }
  }
}

}  // namespace expctr::cuda
