// Batch normalisation. Statistics: one read of x; a thread adds differences from its first element, so that no large squares cancel, and
// counts, means and squared deviations are combined pairwise in a fixed order (Chan, Golub, LeVeque 1983). Then one read and one write:
// 12 bytes an element in f32, half of it in bf16; backward 24 (x and dy twice, dx read and written). A handful of FLOPs: bound by memory.
#include "base/kernels/batch_norm.h"

#include "cuda/column_folds.cuh"

namespace expctr::cuda {

namespace {

/// State: terms, mean, sum of squared deviations. While a thread adds, the last two are sums of differences from its first element and of
/// their squares.
template <class T>
struct StatisticsFold {
  static constexpr int values = 4;
  const T* x;

  struct Nothing {};
  template <int Size>
  __device__ __forceinline__ Nothing load(std::int64_t) const {
    return {};
  }
  /// state: terms, first element, sum of differences, sum of squared differences.
  template <int Size>
  __device__ __forceinline__ void add(const Nothing&, std::int64_t, std::int64_t at, float (&state)[values][Size]) const {
    float x_here[Size];
    load_columns(x + at, x_here);
#pragma unroll
    for (int j = 0; j < Size; ++j) {
      if (state[0][j] == 0.0f) state[1][j] = x_here[j];
      const float difference = x_here[j] - state[1][j];
      state[0][j] += 1.0f;
      state[2][j] += difference;
      state[3][j] += difference * difference;
    }
  }
  /// Both states keep their form: mean = first + sum / terms, squared deviations = squares - sum^2 / terms.
  __device__ __forceinline__ void merge(float (&into)[values], const float (&other)[values]) const {
    if (other[0] == 0.0f) return;
    if (into[0] == 0.0f) {
#pragma unroll
      for (int v = 0; v < values; ++v) into[v] = other[v];
      return;
    }
    const float n = into[0] + other[0], mean_in = into[1] + into[2] / into[0], mean_other = other[1] + other[2] / other[0];
    const float squares_in = fmaxf(into[3] - into[2] * (into[2] / into[0]), 0.0f),
                squares_other = fmaxf(other[3] - other[2] * (other[2] / other[0]), 0.0f);
    const float difference = mean_other - mean_in;
    into[1] = mean_in + difference * (other[0] / n);  // the new first element is the mean, so that its sum is 0
    into[2] = 0.0f;
    into[3] = squares_in + squares_other + difference * difference * (into[0] * (other[0] / n));
    into[0] = n;
  }
};

struct StoreStatistics {
  float rows, epsilon, momentum;
  float *mean, *inverse_deviation, *running_mean, *running_variance;
  __device__ void operator()(std::int64_t column, const float (&state)[4]) const {
    const float m = state[1] + state[2] / state[0], squares = fmaxf(state[3] - state[2] * (state[2] / state[0]), 0.0f);
    mean[column] = m;
    inverse_deviation[column] = 1.0f / sqrtf(squares / rows + epsilon);
    running_mean[column] += momentum * (m - running_mean[column]);
    if (rows > 1.0f) running_variance[column] += momentum * (squares / (rows - 1.0f) - running_variance[column]);
  }
};

__global__ void __launch_bounds__(block_threads)
    running_statistics_kernel(float epsilon, std::int64_t width, const float* running_mean, const float* running_variance, float* mean,
                              float* inverse_deviation) {
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x;
  if (column >= width) return;
  mean[column] = running_mean[column];
  inverse_deviation[column] = 1.0f / sqrtf(running_variance[column] + epsilon);
}

/// y = (x - mean) inverse gain + bias.
template <class T>
struct Normalise {
  const T* x;
  const float *gain, *bias, *mean, *inverse_deviation;
  T* y;

  template <int Size>
  struct Parameters {
    float mean[Size], scale[Size], bias[Size];
  };
  template <int Size>
  __device__ __forceinline__ Parameters<Size> load(std::int64_t column) const {
    Parameters<Size> p;
    float g[Size];
    load_parameters(mean, column, 0.0f, p.mean);
    load_parameters(inverse_deviation, column, 0.0f, p.scale);
    load_parameters(gain, column, 1.0f, g);
    load_parameters(bias, column, 0.0f, p.bias);
#pragma unroll
    for (int j = 0; j < Size; ++j) p.scale[j] *= g[j];
    return p;
  }
  template <int Size>
  __device__ __forceinline__ void apply(const Parameters<Size>& p, std::int64_t at) const {
    float values[Size];
    load_columns(x + at, values);
#pragma unroll
    for (int j = 0; j < Size; ++j) values[j] = (values[j] - p.mean[j]) * p.scale[j] + p.bias[j];
    store_columns(y + at, values);
  }
};

/// Sums of dy and of dy n.
template <class T>
struct GradientFold {
  static constexpr int values = 2;
  const T *x, *dy;
  const float *mean, *inverse_deviation;

  template <int Size>
  struct Parameters {
    float mean[Size], inverse[Size];
  };
  template <int Size>
  __device__ __forceinline__ Parameters<Size> load(std::int64_t column) const {
    Parameters<Size> p;
    load_parameters(mean, column, 0.0f, p.mean);
    load_parameters(inverse_deviation, column, 0.0f, p.inverse);
    return p;
  }
  template <int Size>
  __device__ __forceinline__ void add(const Parameters<Size>& p, std::int64_t, std::int64_t at, float (&state)[values][Size]) const {
    float x_here[Size], dy_here[Size];
    load_columns(x + at, x_here);
    load_columns(dy + at, dy_here);
#pragma unroll
    for (int j = 0; j < Size; ++j) {
      state[0][j] += dy_here[j];
      state[1][j] += dy_here[j] * ((x_here[j] - p.mean[j]) * p.inverse[j]);
    }
  }
  __device__ __forceinline__ void merge(float (&into)[values], const float (&other)[values]) const {
    into[0] += other[0];
    into[1] += other[1];
  }
};

struct StoreGradients {
  bool training;
  float rows;
  float *mean_dy, *mean_dy_n, *dgain, *dbias;
  __device__ void operator()(std::int64_t column, const float (&sums)[2]) const {
    mean_dy[column] = training ? sums[0] / rows : 0.0f;
    mean_dy_n[column] = training ? sums[1] / rows : 0.0f;
    if (dbias != nullptr) dbias[column] += sums[0];
    if (dgain != nullptr) dgain[column] += sums[1];
  }
};

/// dx += gain inverse (dy - mean(dy) - n mean(dy n)).
template <class T>
struct NormaliseBackward {
  const T *x, *dy;
  const float *gain, *mean, *inverse_deviation, *mean_dy, *mean_dy_n;
  T* dx;

  template <int Size>
  struct Parameters {
    float mean[Size], inverse[Size], scale[Size], shift[Size], slope[Size];
  };
  template <int Size>
  __device__ __forceinline__ Parameters<Size> load(std::int64_t column) const {
    Parameters<Size> p;
    load_parameters(mean, column, 0.0f, p.mean);
    load_parameters(inverse_deviation, column, 0.0f, p.inverse);
    load_parameters(gain, column, 1.0f, p.scale);
    load_parameters(mean_dy, column, 0.0f, p.shift);
    load_parameters(mean_dy_n, column, 0.0f, p.slope);
#pragma unroll
    for (int j = 0; j < Size; ++j) p.scale[j] *= p.inverse[j];
    return p;
  }
  template <int Size>
  __device__ __forceinline__ void apply(const Parameters<Size>& p, std::int64_t at) const {
    float x_here[Size], dy_here[Size], result[Size];
    load_columns(x + at, x_here);
    load_columns(dy + at, dy_here);
    load_columns(dx + at, result);
#pragma unroll
    for (int j = 0; j < Size; ++j)
      result[j] += p.scale[j] * (dy_here[j] - p.shift[j] - (x_here[j] - p.mean[j]) * p.inverse[j] * p.slope[j]);
    store_columns(dx + at, result);
  }
};

/// Column vectors are read in packets of four floats beside the packets of x, so they must be aligned too.
FoldPlan forward_plan(const BatchNormForward& a) {
  return plan_folds(a.x.rows(), a.x.width(), a.x.dtype,
                      {a.x.data, a.y.data, a.gain.data, a.bias.data, a.mean.data, a.inverse_deviation.data});
}
/// The scratch is not among the pointers: its size is asked for before it is there. It is 16-byte aligned like every tensor.
FoldPlan backward_plan(const BatchNormBackward& a) {
  return plan_folds(a.x.rows(), a.x.width(), a.x.dtype, {a.x.data, a.dy.data, a.dx.data, a.gain.data, a.mean.data, a.inverse_deviation.data});
}

/// An empty batch has no statistics: it uses the running ones.
bool uses_batch(const BatchNormForward& args) { return args.training && args.x.rows() > 0; }

}  // namespace

template <>
std::size_t scratch_bytes(const BatchNormForward& args) {
  return uses_batch(args) ? static_cast<std::size_t>(forward_plan(args).partials(4)) * sizeof(float) : 0;
}

template <>
void run(const BatchNormForward& args, Stream stream) {
  require_stored("batch_norm", {&args.x, &args.y});
  require_f32("batch_norm", {&args.gain, &args.bias, &args.running_mean, &args.running_variance, &args.mean, &args.inverse_deviation});
  require_scratch("batch_norm", args.scratch, scratch_bytes(args));
  const std::int64_t width = args.x.width();
  if (width == 0) return;
  const FoldPlan plan = forward_plan(args);
  float *mean = args.mean.as<float>(), *inverse_deviation = args.inverse_deviation.as<float>();
  const float epsilon = static_cast<float>(args.epsilon);
  with_storage(args.x.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    if (uses_batch(args)) {
      reduce_columns<T>("batch_norm", plan, StatisticsFold<T>{args.x.as<T>()},
                        StoreStatistics{static_cast<float>(plan.rows), epsilon, static_cast<float>(args.momentum), mean, inverse_deviation,
                                        args.running_mean.as<float>(), args.running_variance.as<float>()},
                        args.scratch.as<float>(), stream);
    } else {
      running_statistics_kernel<<<blocks_for(width, block_threads), block_threads, 0, native(stream)>>>(
          epsilon, width, args.running_mean.as<float>(), args.running_variance.as<float>(), mean, inverse_deviation);
      check_launch("batch_norm");
    }
    map_columns<T>("batch_norm", plan,
                   Normalise<T>{args.x.as<T>(), args.gain.as<float>(), args.bias.as<float>(), mean, inverse_deviation, args.y.as<T>()},
                   stream);
  });
}

/// The two means of every column, then the chunks' sums.
template <>
std::size_t scratch_bytes(const BatchNormBackward& args) {
  return static_cast<std::size_t>(2 * ceil_div(args.x.width(), 4) * 4 + backward_plan(args).partials(2)) * sizeof(float);
}

template <>
void run(const BatchNormBackward& args, Stream stream) {
  require_stored("batch_norm_backward", {&args.x, &args.dy, &args.dx});
  require_f32("batch_norm_backward", {&args.gain, &args.mean, &args.inverse_deviation, &args.dgain, &args.dbias});
  require_scratch("batch_norm_backward", args.scratch, scratch_bytes(args));
  if (args.x.size() == 0) return;
  const FoldPlan plan = backward_plan(args);
  const std::int64_t vector = ceil_div(plan.width, 4) * 4;
  float *mean_dy = args.scratch.as<float>(), *mean_dy_n = mean_dy + vector, *partials = mean_dy_n + vector;
  const float *mean = args.mean.as<float>(), *inverse_deviation = args.inverse_deviation.as<float>();
  with_storage(args.x.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const T *x = args.x.as<T>(), *dy = args.dy.as<T>();
    reduce_columns<T>(
        "batch_norm_backward", plan, GradientFold<T>{x, dy, mean, inverse_deviation},
        StoreGradients{args.training, static_cast<float>(plan.rows), mean_dy, mean_dy_n, args.dgain.as<float>(), args.dbias.as<float>()},
        partials, stream);
    if (args.dx.empty()) return;
    map_columns<T>("batch_norm_backward", plan,
                   NormaliseBackward<T>{x, dy, args.gain.as<float>(), mean, inverse_deviation, mean_dy, mean_dy_n, args.dx.as<T>()},
                   stream);
  });
}

}  // namespace expctr::cuda
