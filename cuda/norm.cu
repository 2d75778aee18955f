// Normalisations. Rows (RMS and layer norm): a warp a row up to 1024 columns, else a block; the row is read again from cache for the second
// pass, so memory sees x once and y once, 8 bytes an element forward and about 20 backward, a handful of FLOPs. Column sums (gain, bias,
// Dice) run in the fixed order of cuda/reduction.cuh. All bound by memory.
#include "base/kernels/norm.h"
#include "base/scalar_math.h"
#include "cuda/reduction.cuh"
#include "cuda/rows.cuh"

namespace expctr::cuda {

namespace {

template <int Lanes>
__device__ __forceinline__ bool my_row(std::int64_t rows, std::int64_t& row, int& lane) {
  row = Lanes == 32 ? static_cast<std::int64_t>(blockIdx.x) * (block_threads / 32) + threadIdx.x / 32 : blockIdx.x;
  lane = static_cast<int>(threadIdx.x) % Lanes;
  return row < rows;
}

template <int Lanes>
__global__ void __launch_bounds__(block_threads)
    rms_norm_kernel(float epsilon, std::int64_t rows, std::int64_t width, const float* x, const float* gain, float* y, float* inverse_rms) {
  __shared__ float shared[8];
  std::int64_t row;
  int lane;
  if (!my_row<Lanes>(rows, row, lane)) return;
  x += row * width;
  float sum = 0;
  visit_row<Lanes>(
      lane, width, [&](std::int64_t, float value) { sum += value * value; }, x);
  const float inverse = 1.0f / sqrtf(group_reduce<Lanes>(sum, shared) / static_cast<float>(width) + epsilon);
  map_row<Lanes>(
      lane, width, y + row * width, [&](std::int64_t, float value, float g) { return value * inverse * g; }, x, gain);
  if (lane == 0) inverse_rms[row] = inverse;
}

template <int Lanes>
__global__ void __launch_bounds__(block_threads)
    rms_norm_backward_kernel(std::int64_t rows, std::int64_t width, const float* x, const float* gain, const float* inverse_rms,
                             const float* dy, float* dx) {
  __shared__ float shared[8];
  std::int64_t row;
  int lane;
  if (!my_row<Lanes>(rows, row, lane)) return;
  x += row * width;
  dy += row * width;
  dx += row * width;
  float dot = 0;
  visit_row<Lanes>(
      lane, width, [&](std::int64_t, float value, float d, float g) { dot += d * g * value; }, x, dy, gain);
  const float inverse = inverse_rms[row], pull = group_reduce<Lanes>(dot, shared) * inverse * inverse / static_cast<float>(width);
  map_row<Lanes>(
      lane, width, dx, [&](std::int64_t, float old, float value, float d, float g) { return old + inverse * (d * g - value * pull); }, dx,
      x, dy, gain);
}

struct RmsGainTerm {
  const float *x, *dy, *inverse_rms;
  std::int64_t width;
  __device__ __forceinline__ void operator()(std::int64_t column, std::int64_t row, float (&sums)[1]) const {
    const std::int64_t at = row * width + column;
    sums[0] += dy[at] * x[at] * inverse_rms[row];
  }
};

/// += the sums, each into its own vector; a null vector is left out.
template <int V>
struct AddColumns {
  float* into[V];
  __device__ void operator()(std::int64_t column, const float (&sums)[V]) const {
#pragma unroll
    for (int v = 0; v < V; ++v)
      if (into[v] != nullptr) into[v][column] += sums[v];
  }
};

template <int Lanes>
__global__ void __launch_bounds__(block_threads)
    layer_norm_kernel(float epsilon, std::int64_t rows, std::int64_t width, const float* x, const float* gain, const float* bias, float* y,
                      float* mean_of, float* inverse_deviation) {
  __shared__ float shared[8];
  std::int64_t row;
  int lane;
  if (!my_row<Lanes>(rows, row, lane)) return;
  x += row * width;
  float sum = 0, squares = 0;
  visit_row<Lanes>(
      lane, width, [&](std::int64_t, float value) { sum += value; }, x);
  const float mean = group_reduce<Lanes>(sum, shared) / static_cast<float>(width);
  visit_row<Lanes>(
      lane, width, [&](std::int64_t, float value) { squares += (value - mean) * (value - mean); }, x);
  const float inverse = 1.0f / sqrtf(group_reduce<Lanes>(squares, shared) / static_cast<float>(width) + epsilon);
  map_row<Lanes>(
      lane, width, y + row * width, [&](std::int64_t, float value, float g, float b) { return (value - mean) * inverse * g + b; }, x, gain,
      bias);
  if (lane == 0) {
    mean_of[row] = mean;
    inverse_deviation[row] = inverse;
  }
}

template <int Lanes>
__global__ void __launch_bounds__(block_threads)
    layer_norm_backward_kernel(std::int64_t rows, std::int64_t width, const float* x, const float* gain, const float* mean_of,
                               const float* inverse_deviation, const float* dy, float* dx) {
  __shared__ float shared[8];
  std::int64_t row;
  int lane;
  if (!my_row<Lanes>(rows, row, lane)) return;
  x += row * width;
  dy += row * width;
  dx += row * width;
  const float mean = mean_of[row], inverse = inverse_deviation[row];
  float sum = 0, dot = 0;
  visit_row<Lanes>(
      lane, width,
      [&](std::int64_t, float value, float d, float g) {
        sum += d * g;
        dot += d * g * (value - mean) * inverse;
      },
      x, dy, gain);
  sum = group_reduce<Lanes>(sum, shared) / static_cast<float>(width);
  dot = group_reduce<Lanes>(dot, shared) / static_cast<float>(width);
  map_row<Lanes>(
      lane, width, dx,
      [&](std::int64_t, float old, float value, float d, float g) {
        return old + inverse * (d * g - sum - (value - mean) * inverse * dot);
      },
      dx, x, dy, gain);
}

struct LayerNormColumnTerm {
  const float *x, *dy, *mean, *inverse_deviation;
  std::int64_t width;
  __device__ __forceinline__ void operator()(std::int64_t column, std::int64_t row, float (&sums)[2]) const {
    const std::int64_t at = row * width + column;
    const float d = dy[at];
    sums[0] += d * (x[at] - mean[row]) * inverse_deviation[row];
    sums[1] += d;
  }
};

struct ColumnTerm {
  const float* x;
  std::int64_t width;
  __device__ __forceinline__ void operator()(std::int64_t column, std::int64_t row, float (&sums)[1]) const {
    sums[0] += x[row * width + column];
  }
};

struct StoreMean {
  float rows;
  float* mean;
  __device__ void operator()(std::int64_t column, const float (&sums)[1]) const { mean[column] = sums[0] / rows; }
};

struct SquaredDeviationTerm {
  const float *x, *mean;
  std::int64_t width;
  __device__ __forceinline__ void operator()(std::int64_t column, std::int64_t row, float (&sums)[1]) const {
    const float difference = x[row * width + column] - mean[column];
    sums[0] += difference * difference;
  }
};

/// The batch's inverse deviation, and the running statistics' step towards the batch. One row has no unbiased variance: the running one
/// stays.
struct StoreDeviation {
  float rows, epsilon, momentum;
  const float* mean;
  float *inverse_deviation, *running_mean, *running_variance;
  __device__ void operator()(std::int64_t column, const float (&sums)[1]) const {
    inverse_deviation[column] = 1.0f / sqrtf(sums[0] / rows + epsilon);
    running_mean[column] += momentum * (mean[column] - running_mean[column]);
    if (rows > 1.0f) running_variance[column] += momentum * (sums[0] / (rows - 1.0f) - running_variance[column]);
  }
};

__global__ void __launch_bounds__(block_threads) dice_running_kernel(float epsilon, std::int64_t width, const float* running_mean,
                                                                     const float* running_variance, float* mean, float* inverse_deviation) {
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x;
  if (column >= width) return;
  mean[column] = running_mean[column];
  inverse_deviation[column] = 1.0f / sqrtf(running_variance[column] + epsilon);
}

/// y = p x + alpha (1 - p) x; a warp a row.
__global__ void __launch_bounds__(block_threads) dice_kernel(std::int64_t rows, std::int64_t width, const float* x, const float* alpha,
                                                             const float* mean, const float* inverse_deviation, float* y) {
  std::int64_t row;
  int lane;
  if (!my_row<32>(rows, row, lane)) return;
  map_row<32>(
      lane, width, y + row * width,
      [](std::int64_t, float value, float a, float m, float inverse) {
        const float p = scalar::sigmoid((value - m) * inverse);
        return value * (p + a * (1.0f - p));
      },
      x + row * width, alpha, mean, inverse_deviation);
}

/// Per element: z = (x - mean) / deviation and dL/dz.
struct DiceElement {
  float z, p, dz;
  __device__ __forceinline__ DiceElement(float x, float alpha, float mean, float inverse, float dy) {
    z = (x - mean) * inverse;
    p = scalar::sigmoid(z);
    dz = dy * x * (1.0f - alpha) * p * (1.0f - p);
  }
};

struct DiceTerm {
  const float *x, *alpha, *mean, *inverse_deviation, *dy;
  std::int64_t width;
  __device__ __forceinline__ void operator()(std::int64_t column, std::int64_t row, float (&sums)[3]) const {
    const std::int64_t at = row * width + column;
    const DiceElement e(x[at], alpha[column], mean[column], inverse_deviation[column], dy[at]);
    sums[0] += e.dz;
    sums[1] += e.dz * e.z;
    sums[2] += dy[at] * x[at] * (1.0f - e.p);
  }
};

/// Means of dz and dz z go to scratch, the gradient of alpha to its place.
struct StoreDice {
  float rows;
  float *mean_dz, *mean_dz_z, *dalpha;
  __device__ void operator()(std::int64_t column, const float (&sums)[3]) const {
    mean_dz[column] = sums[0] / rows;
    mean_dz_z[column] = sums[1] / rows;
    if (dalpha != nullptr) dalpha[column] += sums[2];
  }
};

__global__ void __launch_bounds__(block_threads)
    dice_backward_kernel(bool training, std::int64_t rows, std::int64_t width, const float* x, const float* alpha, const float* mean,
                         const float* inverse_deviation, const float* dy, const float* mean_dz, const float* mean_dz_z, float* dx) {
  std::int64_t row;
  int lane;
  if (!my_row<32>(rows, row, lane)) return;
  map_row<32>(
      lane, width, dx + row * width,
      [training](std::int64_t, float old, float value, float a, float m, float inverse, float d, float first, float second) {
        const DiceElement e(value, a, m, inverse, d);
        const float through = training ? e.dz - first - e.z * second : e.dz;
        return old + d * (e.p + a * (1.0f - e.p)) + inverse * through;
      },
      dx + row * width, x + row * width, alpha, mean, inverse_deviation, dy + row * width, mean_dz, mean_dz_z);
}

ReductionPlan column_plan(const View& x) { return plan_reduction(x.width(), x.rows()); }

/// An empty batch has no statistics: it uses the running ones.
bool uses_batch(const DiceForward& args) { return args.training && args.x.rows() > 0; }

}  // namespace

template <>
void run(const RmsNormForward& args, Stream stream) {
  require_f32("rms_norm", {&args.x, &args.gain, &args.y, &args.inverse_rms});
  const std::int64_t rows = args.x.rows(), width = args.x.width();
  dispatch_rows(rows, width, [&](auto lanes, unsigned blocks) {
    rms_norm_kernel<decltype(lanes)::value><<<blocks, block_threads, 0, native(stream)>>>(static_cast<float>(args.epsilon), rows, width,
                                                                                          args.x.as<float>(), args.gain.as<float>(),
                                                                                          args.y.as<float>(), args.inverse_rms.as<float>());
  });
  check_launch("rms_norm");
}

template <>
std::size_t scratch_bytes(const RmsNormBackward& args) {
  return args.dgain.empty() ? 0 : column_plan(args.x).bytes(1);
}

template <>
void run(const RmsNormBackward& args, Stream stream) {
  require_f32("rms_norm_backward", {&args.x, &args.gain, &args.inverse_rms, &args.dy, &args.dx, &args.dgain});
  require_scratch("rms_norm_backward", args.scratch, scratch_bytes(args));
  const std::int64_t rows = args.x.rows(), width = args.x.width();
  if (!args.dx.empty())
    dispatch_rows(rows, width, [&](auto lanes, unsigned blocks) {
      rms_norm_backward_kernel<decltype(lanes)::value><<<blocks, block_threads, 0, native(stream)>>>(
          rows, width, args.x.as<float>(), args.gain.as<float>(), args.inverse_rms.as<float>(), args.dy.as<float>(), args.dx.as<float>());
    });
  check_launch("rms_norm_backward");
  if (!args.dgain.empty())
    reduce<1, false>("rms_norm_backward", column_plan(args.x),
                     RmsGainTerm{args.x.as<float>(), args.dy.as<float>(), args.inverse_rms.as<float>(), width},
                     AddColumns<1>{{args.dgain.as<float>()}}, args.scratch.data, stream);
}

template <>
void run(const LayerNormForward& args, Stream stream) {
  require_f32("layer_norm", {&args.x, &args.gain, &args.bias, &args.y, &args.mean, &args.inverse_deviation});
  const std::int64_t rows = args.x.rows(), width = args.x.width();
  dispatch_rows(rows, width, [&](auto lanes, unsigned blocks) {
    layer_norm_kernel<decltype(lanes)::value><<<blocks, block_threads, 0, native(stream)>>>(
        static_cast<float>(args.epsilon), rows, width, args.x.as<float>(), args.gain.as<float>(), args.bias.as<float>(), args.y.as<float>(),
        args.mean.as<float>(), args.inverse_deviation.as<float>());
  });
  check_launch("layer_norm");
}

template <>
std::size_t scratch_bytes(const LayerNormBackward& args) {
  return args.dgain.empty() && args.dbias.empty() ? 0 : column_plan(args.x).bytes(2);
}

template <>
void run(const LayerNormBackward& args, Stream stream) {
  require_f32("layer_norm_backward",
              {&args.x, &args.gain, &args.mean, &args.inverse_deviation, &args.dy, &args.dx, &args.dgain, &args.dbias});
  require_scratch("layer_norm_backward", args.scratch, scratch_bytes(args));
  const std::int64_t rows = args.x.rows(), width = args.x.width();
  if (!args.dx.empty())
    dispatch_rows(rows, width, [&](auto lanes, unsigned blocks) {
      layer_norm_backward_kernel<decltype(lanes)::value>
          <<<blocks, block_threads, 0, native(stream)>>>(rows, width, args.x.as<float>(), args.gain.as<float>(), args.mean.as<float>(),
                                                         args.inverse_deviation.as<float>(), args.dy.as<float>(), args.dx.as<float>());
    });
  check_launch("layer_norm_backward");
  if (!args.dgain.empty() || !args.dbias.empty())
    reduce<2, false>(
        "layer_norm_backward", column_plan(args.x),
        LayerNormColumnTerm{args.x.as<float>(), args.dy.as<float>(), args.mean.as<float>(), args.inverse_deviation.as<float>(), width},
        AddColumns<2>{{args.dgain.as<float>(), args.dbias.as<float>()}}, args.scratch.data, stream);
}

template <>
std::size_t scratch_bytes(const DiceForward& args) {
  return uses_batch(args) ? column_plan(args.x).bytes(1) : 0;
}

template <>
void run(const DiceForward& args, Stream stream) {
  require_f32("dice", {&args.x, &args.alpha, &args.running_mean, &args.running_variance, &args.y, &args.mean, &args.inverse_deviation});
  require_scratch("dice", args.scratch, scratch_bytes(args));
  const std::int64_t rows = args.x.rows(), width = args.x.width();
  if (width == 0) return;
  const float *x = args.x.as<float>(), epsilon = static_cast<float>(args.epsilon);
  float *mean = args.mean.as<float>(), *inverse_deviation = args.inverse_deviation.as<float>();
  if (uses_batch(args)) {
    const ReductionPlan plan = column_plan(args.x);
    const float count = static_cast<float>(rows);
    reduce<1, false>("dice", plan, ColumnTerm{x, width}, StoreMean{count, mean}, args.scratch.data, stream);
    reduce<1, false>("dice", plan, SquaredDeviationTerm{x, mean, width},
                     StoreDeviation{count, epsilon, static_cast<float>(args.momentum), mean, inverse_deviation,
                                    args.running_mean.as<float>(), args.running_variance.as<float>()},
                     args.scratch.data, stream);
  } else {
    dice_running_kernel<<<blocks_for(width, block_threads), block_threads, 0, native(stream)>>>(
        epsilon, width, args.running_mean.as<float>(), args.running_variance.as<float>(), mean, inverse_deviation);
    check_launch("dice");
  }
  if (rows == 0) return;
  dice_kernel<<<blocks_for(rows, block_threads / 32), block_threads, 0, native(stream)>>>(rows, width, x, args.alpha.as<float>(), mean,
                                                                                          inverse_deviation, args.y.as<float>());
  check_launch("dice");
}

template <>
std::size_t scratch_bytes(const DiceBackward& args) {
  return static_cast<std::size_t>(args.x.width()) * 2 * sizeof(float) + column_plan(args.x).bytes(3);
}

template <>
void run(const DiceBackward& args, Stream stream) {
  require_f32("dice_backward", {&args.x, &args.alpha, &args.mean, &args.inverse_deviation, &args.dy, &args.dx, &args.dalpha});
  require_scratch("dice_backward", args.scratch, scratch_bytes(args));
  const std::int64_t rows = args.x.rows(), width = args.x.width();
  if (rows * width == 0) return;
  float *mean_dz = args.scratch.as<float>(), *mean_dz_z = mean_dz + width;
  const float *x = args.x.as<float>(), *alpha = args.alpha.as<float>(), *mean = args.mean.as<float>(),
              *inverse_deviation = args.inverse_deviation.as<float>(), *dy = args.dy.as<float>();
  reduce<3, false>("dice_backward", column_plan(args.x), DiceTerm{x, alpha, mean, inverse_deviation, dy, width},
                   StoreDice{static_cast<float>(rows), mean_dz, mean_dz_z, args.dalpha.as<float>()}, mean_dz_z + width, stream);
  if (args.dx.empty()) return;
  dice_backward_kernel<<<blocks_for(rows, block_threads / 32), block_threads, 0, native(stream)>>>(
      args.training, rows, width, x, alpha, mean, inverse_deviation, dy, mean_dz, mean_dz_z, args.dx.as<float>());
  check_launch("dice_backward");
}

}  // namespace expctr::cuda
