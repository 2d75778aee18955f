// Fused head and cross-entropy, [rows, vocabulary] never kept.
//
// Mode bf16, own tensor-core kernels (cuda/linear_tile.cu), R rows, C classes, I inputs, b bytes a weight element:
//   forward   a tile of 128 x 128 logits is reduced in registers to three numbers a row, then one pass folds a row's ceil(C / 128) parts.
//             2 R C I FLOPs. Requested bytes: 2 R I ceil(C / 128) + b C I ceil(R / 128) + 24 R ceil(C / 128); logits are not written.
//   backward  for 8192 classes and 2048 rows at a time: the logits again, turned into gradients (bf16) as they leave the registers, then
//   their
//             products with the weight (own kernel) and, for a trained weight, with x (cuBLASLt). 4 R C I FLOPs, 6 with dweight. Bytes
//             besides the operands of each product: 2 R C written once, read once a 128 columns of dx (and once for dweight); dx once a
//             8192 classes.
//   Bound by tensor cores, with few rows by reading the weight.
// Mode f32: tiles of 2048 x 8192 logits from cuBLASLt in scratch (64 MiB at most, and 16 MiB for the unpacked slice of a packed weight),
// each folded into running sums in one pass, or turned into gradients in place: 4 to 12 bytes a logit a pass. Bound by f32 arithmetic.
#include <algorithm>

#include "base/kernels/elementwise.h"
#include "base/kernels/linear.h"
#include "cuda/gemm.h"
#include "cuda/linear_weight.h"
#include "cuda/online_softmax.cuh"
#include "cuda/rows.cuh"

namespace expctr::cuda {

namespace {

constexpr std::int64_t most_rows = 2048, most_classes = 8192, slice_bytes = std::int64_t{16} << 20;

std::int64_t rounded_up(std::int64_t bytes) { return ceil_div(bytes, 256) * 256; }

View matrix(std::int64_t rows, std::int64_t width, DType dtype, void* data) {
  View view;
  view.data = data;
  view.dtype = dtype;
  view.rank = 2;
  view.shape[0] = rows;
  view.shape[1] = width;
  return view;
}

View rows_of(const View& x, std::int64_t begin, std::int64_t rows) {
  return matrix(rows, x.width(), x.dtype, x.as<char>() + dtype_bytes(x.dtype, begin * x.width()));
}

/// Results of a row from its sums; a target that is no class gives NaN.
__device__ __forceinline__ void store_row(const OnlineSum& total, float target_logit, int target, float* log_probability,
                                          float* log_sum_exp, float* entropy) {
  const float log_sum = total.maximum + logf(total.sum);
  *log_probability = target < 0 ? 0.0f : target_logit - log_sum;
  *log_sum_exp = log_sum;
  if (entropy != nullptr) *entropy = target < 0 ? 0.0f : total.entropy();
}

__device__ __forceinline__ void merge(OnlineSum& total, const OnlineSum& part) {
  const float most = fmaxf(total.maximum, part.maximum);
  total.rescale(most);
  total.sum += part.sum_at(most);
  total.weighted += part.weighted_at(most);
}

/// Parts [tiles][3][rows] of softmax_parts() to results. A block 32 rows; 8 threads a row take every eighth tile, then one merges the
/// eight.
__global__ void __launch_bounds__(block_threads)
    finish_kernel(int rows, int tiles, std::int64_t outputs, const float* parts, const float* target_logits, const std::int32_t* targets,
                  float* log_probability, float* log_sum_exp, float* entropy) {
  __shared__ float shared[3][8][32];
  const int lane = static_cast<int>(threadIdx.x) % 32, share = static_cast<int>(threadIdx.x) / 32,
            row = static_cast<int>(blockIdx.x) * 32 + lane;
  OnlineSum total;
  if (row < rows)
#pragma unroll 4
    for (int tile = share; tile < tiles; tile += 8) {
      const float* from = parts + static_cast<std::int64_t>(tile) * 3 * rows + row;
      OnlineSum part;
      part.maximum = from[0];
      part.sum = from[rows];
      part.weighted = from[2 * static_cast<std::int64_t>(rows)];
      merge(total, part);
    }
  shared[0][share][lane] = total.maximum;
  shared[1][share][lane] = total.sum;
  shared[2][share][lane] = total.weighted;
  __syncthreads();
  if (share != 0 || row >= rows) return;
#pragma unroll
  for (int s = 1; s < 8; ++s) {
    OnlineSum part;
    part.maximum = shared[0][s][lane];
    part.sum = shared[1][s][lane];
    part.weighted = shared[2][s][lane];
    merge(total, part);
  }
  const int target = targets[row];
  store_row(total, target >= 0 && target < outputs ? target_logits[row] : NAN, target, log_probability + row, log_sum_exp + row,
            entropy == nullptr ? nullptr : entropy + row);
}

/// Running sums of a row over the tiles visited so far. target_logit is NaN until its tile comes.
struct RowState {
  OnlineSum total;
  float target_logit;
};

/// Folds logits [rows, classes] of classes first .. into the states, a block a row; after the last tile, the results.
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
  OnlineSum tile;
  tile.maximum = group_reduce<256, true>(sums.maximum, shared);
  tile.sum = group_reduce<256>(sums.sum_at(tile.maximum), shared);
  tile.weighted = group_reduce<256>(sums.weighted_at(tile.maximum), shared);
  if (lane != 0) return;
  RowState state;
  state.target_logit = NAN;
  if (first != 0) state = states[row];
  if (target >= first && target < first + classes) state.target_logit = logits[target - first];
  merge(state.total, tile);
  if (last)
    store_row(state.total, state.target_logit, target, log_probability + row, log_sum_exp + row,
              entropy == nullptr ? nullptr : entropy + row);
  else
    states[row] = state;
}

/// logits become dlogits = gradient (onehot(target) - softmax) / temperature.
__global__ void __launch_bounds__(block_threads)
    dlogits_kernel(std::int64_t total, std::int64_t classes, std::int64_t first, float inverse_temperature, float* logits,
                   const std::int32_t* targets, const float* log_sum_exp, const float* gradient) {
  const std::int64_t start = static_cast<std::int64_t>(blockIdx.x) * (4 * block_threads) + threadIdx.x;
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    const std::int64_t i = start + step * block_threads;
    if (i >= total) return;
    const std::int64_t row = i / classes;
    const std::int32_t target = targets[row];
    const float onehot = first + (i - row * classes) == target ? 1.0f : 0.0f;
    logits[i] = target < 0 ? 0.0f : gradient[row] * (onehot - expf(logits[i] - log_sum_exp[row])) * inverse_temperature;
  }
}

void check(const char* kernel, const PackedWeight& weight, double temperature, std::initializer_list<const View*> activations) {
  if (weight.mode == ComputeMode::int8)
    throw Error(std::string("cuda: ") + kernel + ": int8 products exist on the CPU only", "choose llm.compute: bf16");
  if (!(temperature > 0))
    throw Error(std::string("cuda: ") + kernel + ": temperature " + std::to_string(temperature), "temperature must be positive");
  for (const View* view : activations)
    if (view->dtype != DType::f32 && view->dtype != DType::bf16) require_f32(kernel, {view});
}

// ---- mode bf16

std::size_t forward_scratch_bf16(const LinearCrossEntropyForward& args) {
  const std::int64_t rows = args.x.rows(), tiles = ceil_div(args.weight.outputs, classes_per_tile);
  return bf16_rows_size(args.x).bytes + static_cast<std::size_t>(rounded_up(rows * tiles * 12) + rounded_up(rows * 4));
}

void forward_bf16(const LinearCrossEntropyForward& args, Stream stream) {
  const std::int64_t rows = args.x.rows(), tiles = ceil_div(args.weight.outputs, classes_per_tile);
  if (rows == 0) return;
  SoftmaxParts parts;
  parts.weight = args.weight;
  parts.a = bf16_rows(args.x, args.scratch.data, stream);
  parts.rows = rows;
  parts.alpha = static_cast<float>(1.0 / args.temperature);
  parts.targets = args.targets.as<std::int32_t>();
  parts.parts = reinterpret_cast<float*>(args.scratch.as<char>() + parts.a.bytes);
  parts.target_logits = reinterpret_cast<float*>(args.scratch.as<char>() + parts.a.bytes + rounded_up(rows * tiles * 12));
  softmax_parts(parts, stream);
  finish_kernel<<<blocks_for(rows, 32), block_threads, 0, native(stream)>>>(
      static_cast<int>(rows), static_cast<int>(tiles), args.weight.outputs, parts.parts, parts.target_logits, parts.targets,
      args.log_probability.as<float>(), args.log_sum_exp.as<float>(), args.entropy.as<float>());
  check_launch("linear_cross_entropy");
}

struct BackwardTileBf16 {
  std::int64_t rows, classes, stride;
  std::int64_t x_bytes, dlogits_bytes, sum_bytes;
  explicit BackwardTileBf16(const LinearCrossEntropyBackward& args) {
    rows = std::min(args.x.rows(), most_rows);
    classes = std::min(args.weight.outputs, most_classes);
    stride = ceil_div(classes, 8) * 8;
    x_bytes = static_cast<std::int64_t>(bf16_rows_size(args.x).bytes);
    dlogits_bytes = rounded_up(rows * stride * 2);
    // Sums over several slices of classes stay in f32 until the last.
    sum_bytes = args.dx.dtype == DType::bf16 && classes < args.weight.outputs ? rounded_up(rows * args.x.width() * 4) : 0;
  }
  std::size_t bytes() const { return static_cast<std::size_t>(x_bytes + dlogits_bytes + sum_bytes); }
};

void backward_bf16(const LinearCrossEntropyBackward& args, Stream stream) {
  const BackwardTileBf16 tile(args);
  const std::int64_t inputs = args.weight.inputs;
  char* scratch = args.scratch.as<char>();
  const Bf16Rows x = bf16_rows(args.x, scratch, stream);
  std::uint16_t* dlogits = reinterpret_cast<std::uint16_t*>(scratch + tile.x_bytes);
  float* sums = tile.sum_bytes == 0 ? nullptr : reinterpret_cast<float*>(scratch + tile.x_bytes + tile.dlogits_bytes);
  for (std::int64_t begin = 0; begin < args.x.rows(); begin += tile.rows) {
    const std::int64_t rows = std::min(tile.rows, args.x.rows() - begin);
    Bf16Rows here = x;
    here.data += begin * x.stride;
    for (std::int64_t first = 0; first < args.weight.outputs; first += tile.classes) {
      const std::int64_t classes = std::min(tile.classes, args.weight.outputs - first), stride = ceil_div(classes, 8) * 8;
      logit_gradients(
          {args.weight, first, classes, here, rows, static_cast<float>(1.0 / args.temperature), args.targets.as<std::int32_t>() + begin,
           args.log_sum_exp.as<float>() + begin, args.dlog_probability.as<float>() + begin, dlogits, stride},
          stream);
      if (!args.dx.empty()) {
        WeightProduct product;
        product.weight = args.weight;
        product.first = first;
        product.count = classes;
        product.transposed = true;
        product.a = {dlogits, stride, 0};
        product.rows = rows;
        product.y_stride = inputs;
        const bool last = first + classes == args.weight.outputs;
        if (sums != nullptr && !last) {
          product.y = sums;
          product.accumulate = first != 0;
        } else {
          const View dx = rows_of(args.dx, begin, rows);
          product.y = dx.data;
          product.y_dtype = dx.dtype;
          product.accumulate = true;
          product.addend = sums;
        }
        multiply(product, stream);
      }
      if (!args.dweight.empty()) {
        Gemm product;
        product.m = classes;
        product.n = inputs;
        product.k = rows;
        product.transpose_a = true;
        product.operands = DType::bf16;
        product.a = dlogits;
        product.a_stride = stride;
        product.b = here.data;
        product.b_stride = here.stride;
        product.c = args.dweight.as<float>() + first * inputs;
        product.beta = 1;
        gemm(product, stream);
      }
    }
  }
}

// ---- mode f32

/// Memory of one tile of rows and classes.
struct TileF32 {
  std::int64_t rows, classes;
  std::int64_t state_bytes = 0, logits_bytes, x_bytes, weight_bytes = 0, dx_bytes = 0;
  TileF32(const PackedWeight& weight, const View& x, const View* dx) {
    rows = std::min(x.rows(), most_rows);
    classes = std::min(weight.outputs, most_classes);
    if (!stored_as_f32(weight)) {
      const std::int64_t most = std::max<std::int64_t>(16, slice_bytes / (4 * std::max<std::int64_t>(weight.inputs, 1)) / 16 * 16);
      classes = std::min(classes, most);
      weight_bytes = rounded_up(classes * weight.inputs * 4);
    }
    if (dx == nullptr) state_bytes = rounded_up(rows * static_cast<std::int64_t>(sizeof(RowState)));
    logits_bytes = rounded_up(rows * classes * 4);
    x_bytes = x.dtype == DType::bf16 ? rounded_up(rows * x.width() * 4) : 0;
    if (dx != nullptr && dx->dtype == DType::bf16) dx_bytes = rounded_up(rows * x.width() * 4);
  }
  std::size_t bytes() const { return static_cast<std::size_t>(state_bytes + logits_bytes + x_bytes + weight_bytes + dx_bytes); }
};

/// What the two passes share: the rows of a tile, and logits of one tile of classes.
class TileRows {
 public:
  TileRows(const PackedWeight& weight, double temperature, const View& x, std::int64_t begin, const TileF32& tile, char* scratch,
           Stream stream)
      : weight_(weight),
        temperature_(temperature),
        stream_(stream),
        count_(std::min(tile.rows, x.rows() - begin)),
        x_(rows_of(x, begin, count_)) {
    logits_ = reinterpret_cast<float*>(scratch + tile.state_bytes);
    if (tile.weight_bytes != 0) unpacked_ = reinterpret_cast<float*>(scratch + tile.state_bytes + tile.logits_bytes + tile.x_bytes);
    if (x.dtype == DType::f32) return;
    const View wide = matrix(count_, x.width(), DType::f32, scratch + tile.state_bytes + tile.logits_bytes);
    run(Convert{x_, wide}, stream);
    x_ = wide;
  }
  std::int64_t count() const { return count_; }
  float* logits() const { return logits_; }
  const float* x() const { return x_.as<float>(); }
  /// The weight's rows of the tile of classes that compute_logits() was last called for.
  const float* weight_rows() const { return weight_rows_; }
  void compute_logits(std::int64_t first, std::int64_t classes) {
    weight_rows_ = static_cast<const float*>(weight_.data) + first * weight_.inputs;
    if (unpacked_ != nullptr) {
      unpack_rows(weight_, first, classes, unpacked_, stream_);
      weight_rows_ = unpacked_;
    }
    Gemm product;
    product.m = count_;
    product.n = classes;
    product.k = weight_.inputs;
    product.transpose_b = true;
    product.a = x_.data;
    product.b = weight_rows_;
    product.c = logits_;
    product.alpha = static_cast<float>(1.0 / temperature_);
    gemm(product, stream_);
  }

 private:
  const PackedWeight& weight_;
  double temperature_;
  Stream stream_;
  std::int64_t count_;
  View x_;
  float *logits_, *unpacked_ = nullptr;
  const float* weight_rows_ = nullptr;
};

void forward_f32(const LinearCrossEntropyForward& args, Stream stream) {
  const TileF32 tile(args.weight, args.x, nullptr);
  char* scratch = args.scratch.as<char>();
  for (std::int64_t begin = 0; begin < args.x.rows(); begin += tile.rows) {
    TileRows rows(args.weight, args.temperature, args.x, begin, tile, scratch, stream);
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

void backward_f32(const LinearCrossEntropyBackward& args, Stream stream) {
  const TileF32 tile(args.weight, args.x, &args.dx);
  char* scratch = args.scratch.as<char>();
  const std::int64_t inputs = args.weight.inputs;
  for (std::int64_t begin = 0; begin < args.x.rows(); begin += tile.rows) {
    TileRows rows(args.weight, args.temperature, args.x, begin, tile, scratch, stream);
    View dx = args.dx, wide_dx = args.dx;
    if (!args.dx.empty()) {
      dx = wide_dx = rows_of(args.dx, begin, rows.count());
      if (tile.dx_bytes != 0) {
        wide_dx = matrix(rows.count(), inputs, DType::f32, scratch + tile.bytes() - tile.dx_bytes);
        run(Convert{dx, wide_dx}, stream);
      }
    }
    for (std::int64_t first = 0; first < args.weight.outputs; first += tile.classes) {
      const std::int64_t classes = std::min(tile.classes, args.weight.outputs - first), total = rows.count() * classes;
      rows.compute_logits(first, classes);
      dlogits_kernel<<<blocks_for(total, 4 * block_threads), block_threads, 0, native(stream)>>>(
          total, classes, first, static_cast<float>(1.0 / args.temperature), rows.logits(), args.targets.as<std::int32_t>() + begin,
          args.log_sum_exp.as<float>() + begin, args.dlog_probability.as<float>() + begin);
      check_launch("linear_cross_entropy_backward");
      Gemm product;
      product.n = inputs;
      product.a = rows.logits();
      product.beta = 1;
      if (!args.dx.empty()) {
        product.m = rows.count();
        product.k = classes;
        product.b = rows.weight_rows();
        product.c = wide_dx.data;
        gemm(product, stream);
      }
      if (!args.dweight.empty()) {
        product.m = classes;
        product.k = rows.count();
        product.transpose_a = true;
        product.b = rows.x();
        product.c = args.dweight.as<float>() + first * inputs;
        gemm(product, stream);
      }
    }
    if (tile.dx_bytes != 0 && !args.dx.empty()) run(Convert{wide_dx, dx}, stream);
  }
}

}  // namespace

template <>
std::size_t scratch_bytes(const LinearCrossEntropyForward& args) {
  return args.weight.mode == ComputeMode::bf16 ? forward_scratch_bf16(args) : TileF32(args.weight, args.x, nullptr).bytes();
}

template <>
void run(const LinearCrossEntropyForward& args, Stream stream) {
  check("linear_cross_entropy", args.weight, args.temperature, {&args.x});
  require_f32("linear_cross_entropy", {&args.log_probability, &args.log_sum_exp, &args.entropy});
  require("linear_cross_entropy", DType::i32, {&args.targets});
  require_scratch("linear_cross_entropy", args.scratch, scratch_bytes(args));
  args.weight.mode == ComputeMode::bf16 ? forward_bf16(args, stream) : forward_f32(args, stream);
}

template <>
std::size_t scratch_bytes(const LinearCrossEntropyBackward& args) {
  return args.weight.mode == ComputeMode::bf16 ? BackwardTileBf16(args).bytes() : TileF32(args.weight, args.x, &args.dx).bytes();
}

template <>
void run(const LinearCrossEntropyBackward& args, Stream stream) {
  check("linear_cross_entropy_backward", args.weight, args.temperature, {&args.x, &args.dx});
  require_f32("linear_cross_entropy_backward", {&args.log_sum_exp, &args.dlog_probability, &args.dweight});
  require("linear_cross_entropy_backward", DType::i32, {&args.targets});
  require_scratch("linear_cross_entropy_backward", args.scratch, scratch_bytes(args));
  args.weight.mode == ComputeMode::bf16 ? backward_bf16(args, stream) : backward_f32(args, stream);
}

}  // namespace expctr::cuda
