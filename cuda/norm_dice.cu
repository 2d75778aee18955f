// Dice: column statistics of the rows, then an elementwise pass. Training forward reads x three times (mean, deviation, value) and writes
// y; backward reads x and dy for the three column sums and again, with dx, for dx. Sums in the fixed order of cuda/columns.cuh; what
// belongs to a column stays in registers for up to 32 rows. Bound by memory.
#include "base/kernels/norm.h"
#include "base/scalar_math.h"
#include "cuda/columns.cuh"

namespace expctr::cuda {

namespace {

template <class S>
struct ColumnTerm {
  static constexpr int row_values = 0;
  const S* x;
  std::int64_t width;
  template <int N>
  using Columns = NoColumns<N>;
  template <int N>
  __device__ __forceinline__ void begin(std::int64_t, NoColumns<N>&) const {}
  template <int N>
  __device__ __forceinline__ void add(NoColumns<N>&, std::int64_t, std::int64_t row, std::int64_t column, const float*,
                                      float (&sums)[1][N]) const {
    float value[N];
    load_packet(x + row * width + column, value);
#pragma unroll
    for (int i = 0; i < N; ++i) sums[0][i] += value[i];
  }
};

struct StoreMean {
  float rows;
  float* mean;
  __device__ void operator()(std::int64_t column, const float (&sums)[1]) const { mean[column] = sums[0] / rows; }
};

template <class S>
struct SquaredDeviationTerm {
  static constexpr int row_values = 0;
  const S* x;
  const float* mean;
  std::int64_t width;
  template <int N>
  struct Columns {
    float mean[N];
  };
  template <int N>
  __device__ __forceinline__ void begin(std::int64_t column, Columns<N>& columns) const {
    load_packet(mean + column, columns.mean);
  }
  template <int N>
  __device__ __forceinline__ void add(const Columns<N>& columns, std::int64_t, std::int64_t row, std::int64_t column, const float*,
                                      float (&sums)[1][N]) const {
    float value[N];
    load_packet(x + row * width + column, value);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float difference = value[i] - columns.mean[i];
      sums[0][i] += difference * difference;
    }
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

/// What a packet of columns keeps on its way down the rows.
template <int N>
struct DiceColumns {
  float alpha[N], mean[N], inverse[N];
  __device__ __forceinline__ void load(const float* alphas, const float* means, const float* inverses, std::int64_t column) {
    load_packet(alphas + column, alpha);
    load_packet(means + column, mean);
    load_packet(inverses + column, inverse);
  }
};

/// y = p x + alpha (1 - p) x.
template <class S>
struct DiceRows {
  std::int64_t width;
  const S* x;
  const float *alpha, *mean, *inverse_deviation;
  S* y;
  template <int N>
  using Columns = DiceColumns<N>;
  template <int N>
  __device__ __forceinline__ void begin(std::int64_t column, DiceColumns<N>& columns) const {
    columns.load(alpha, mean, inverse_deviation, column);
  }
  template <int N>
  __device__ __forceinline__ void row(const DiceColumns<N>& columns, std::int64_t row, std::int64_t column) const {
    float value[N];
    load_packet(x + row * width + column, value);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float p = scalar::sigmoid((value[i] - columns.mean[i]) * columns.inverse[i]);
      value[i] *= p + columns.alpha[i] * (1.0f - p);
    }
    store_packet(y + row * width + column, value);
  }
};

/// Per element: z = (x - mean) / deviation and dL/dz.
struct DiceElement {
  float z, p, dz;
  __device__ __forceinline__ DiceElement(float x, float alpha, float mean, float inverse, float dy) {
    z = (x - mean) * inverse;
    p = scalar::sigmoid(z);
    dz = dy * x * (1.0f - alpha) * p * (1.0f - p);
  }
};

template <class S>
struct DiceTerm {
  static constexpr int row_values = 0;
  const S* x;
  const float *alpha, *mean, *inverse_deviation;
  const S* dy;
  std::int64_t width;
  template <int N>
  using Columns = DiceColumns<N>;
  template <int N>
  __device__ __forceinline__ void begin(std::int64_t column, DiceColumns<N>& columns) const {
    columns.load(alpha, mean, inverse_deviation, column);
  }
  template <int N>
  __device__ __forceinline__ void add(const DiceColumns<N>& columns, std::int64_t, std::int64_t row, std::int64_t column, const float*,
                                      float (&sums)[3][N]) const {
    float value[N], d[N];
    load_packet(x + row * width + column, value);
    load_packet(dy + row * width + column, d);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const DiceElement e(value[i], columns.alpha[i], columns.mean[i], columns.inverse[i], d[i]);
      sums[0][i] += e.dz;
      sums[1][i] += e.dz * e.z;
      sums[2][i] += d[i] * value[i] * (1.0f - e.p);
    }
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

template <class S>
struct DiceGradientRows {
  bool training;
  std::int64_t width;
  const S* x;
  const float *alpha, *mean, *inverse_deviation;
  const S* dy;
  const float *mean_dz, *mean_dz_z;
  S* dx;
  template <int N>
  struct Columns {
    DiceColumns<N> dice;
    float first[N], second[N];
  };
  template <int N>
  __device__ __forceinline__ void begin(std::int64_t column, Columns<N>& columns) const {
    columns.dice.load(alpha, mean, inverse_deviation, column);
    load_packet(mean_dz + column, columns.first);
    load_packet(mean_dz_z + column, columns.second);
  }
  template <int N>
  __device__ __forceinline__ void row(const Columns<N>& columns, std::int64_t row, std::int64_t column) const {
    const std::int64_t at = row * width + column;
    float value[N], d[N], result[N];
    load_packet(x + at, value);
    load_packet(dy + at, d);
    load_packet(dx + at, result);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float a = columns.dice.alpha[i], inverse = columns.dice.inverse[i];
      const DiceElement e(value[i], a, columns.dice.mean[i], inverse, d[i]);
      const float through = training ? e.dz - columns.first[i] - e.z * columns.second[i] : e.dz;
      result[i] += d[i] * (e.p + a * (1.0f - e.p)) + inverse * through;
    }
    store_packet(dx + at, result);
  }
};

/// A thread reads what belongs to its columns once for that many rows.
constexpr std::int64_t rows_each = 32;

ColumnPlan dice_plan(const View& x) { return plan_columns(x.rows(), x.width(), 1, rows_each); }

/// An empty batch has no statistics: it uses the running ones.
bool uses_batch(const DiceForward& args) { return args.training && args.x.rows() > 0; }

}  // namespace

template <>
std::size_t scratch_bytes(const DiceForward& args) {
  return uses_batch(args) ? dice_plan(args.x).bytes(1) : 0;
}

template <>
void run(const DiceForward& args, Stream stream) {
  require_f32("dice", {&args.alpha, &args.running_mean, &args.running_variance, &args.mean, &args.inverse_deviation});
  require_scratch("dice", args.scratch, scratch_bytes(args));
  const std::int64_t rows = args.x.rows(), width = args.x.width();
  if (width == 0) return;
  const float epsilon = static_cast<float>(args.epsilon);
  float *mean = args.mean.as<float>(), *inverse_deviation = args.inverse_deviation.as<float>();
  if (!uses_batch(args)) {
    dice_running_kernel<<<blocks_for(width, block_threads), block_threads, 0, native(stream)>>>(
        epsilon, width, args.running_mean.as<float>(), args.running_variance.as<float>(), mean, inverse_deviation);
    check_launch("dice");
  }
  dispatch_activation(require_activations("dice", {&args.x, &args.y}), [&](auto storage) {
    using S = decltype(storage);
    const S* x = args.x.as<S>();
    dispatch_packets<S>(width, {&args.x, &args.y, &args.alpha, &args.mean, &args.inverse_deviation}, [&](auto packet) {
      constexpr int N = decltype(packet)::value;
      if (uses_batch(args)) {
        const ColumnPlan plan = dice_plan(args.x);
        const float count = static_cast<float>(rows);
        column_sums<N, 1>("dice", plan, ColumnTerm<S>{x, width}, StoreMean{count, mean}, args.scratch.data, stream);
        column_sums<N, 1>("dice", plan, SquaredDeviationTerm<S>{x, mean, width},
                          StoreDeviation{count, epsilon, static_cast<float>(args.momentum), mean, inverse_deviation,
                                         args.running_mean.as<float>(), args.running_variance.as<float>()},
                          args.scratch.data, stream);
      }
      for_columns<N>("dice", DiceRows<S>{width, x, args.alpha.as<float>(), mean, inverse_deviation, args.y.as<S>()}, rows, width, stream);
    });
  });
}

template <>
std::size_t scratch_bytes(const DiceBackward& args) {
  return static_cast<std::size_t>(args.x.width()) * 2 * sizeof(float) + dice_plan(args.x).bytes(3);
}

template <>
void run(const DiceBackward& args, Stream stream) {
  require_f32("dice_backward", {&args.alpha, &args.mean, &args.inverse_deviation, &args.dalpha});
  require_scratch("dice_backward", args.scratch, scratch_bytes(args));
  const std::int64_t rows = args.x.rows(), width = args.x.width();
  if (rows * width == 0) return;
  float *mean_dz = args.scratch.as<float>(), *mean_dz_z = mean_dz + width;
  const float *alpha = args.alpha.as<float>(), *mean = args.mean.as<float>(), *inverse_deviation = args.inverse_deviation.as<float>();
  dispatch_activation(require_activations("dice_backward", {&args.x, &args.dy, &args.dx}), [&](auto storage) {
    using S = decltype(storage);
    const S *x = args.x.as<S>(), *dy = args.dy.as<S>();
    dispatch_packets<S>(
        width, {&args.x, &args.dy, &args.dx, &args.alpha, &args.mean, &args.inverse_deviation, &args.scratch}, [&](auto packet) {
          constexpr int N = decltype(packet)::value;
          column_sums<N, 3>("dice_backward", dice_plan(args.x), DiceTerm<S>{x, alpha, mean, inverse_deviation, dy, width},
                            StoreDice{static_cast<float>(rows), mean_dz, mean_dz_z, args.dalpha.as<float>()}, mean_dz_z + width, stream);
          if (args.dx.empty()) return;
          for_columns<N>(
              "dice_backward",
              DiceGradientRows<S>{args.training, width, x, alpha, mean, inverse_deviation, dy, mean_dz, mean_dz_z, args.dx.as<S>()}, rows,
              width, stream);
        });
  });
}

}  // namespace expctr::cuda
