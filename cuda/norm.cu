// Normalisations over rows. x and y are activations (f32 or bf16, b bytes an element), gains, biases and statistics are f32.
// Rows of whole 16-byte packets and up to 8192 columns are held in registers between the passes, by a warp (up to 1024 columns) or a
// block; gain and bias are read once a block, for up to 128 rows, and kept in shared memory. So memory sees x once and y once
// forward, 2 b bytes an element, and x, dy and dx (read and written) backward, 4 b. Other rows are read again, from cache. Column sums of
// the gradients of gain and bias read x and dy once more, 2 b (cuda/columns.cuh). A handful of FLOPs an element: bound by memory.
#include "base/kernels/norm.h"
#include "cuda/columns.cuh"
#include "cuda/rows.cuh"

namespace expctr::cuda {

namespace {

template <int Lanes>
__device__ __forceinline__ bool my_row(std::int64_t rows, std::int64_t& row, int& lane) {
  row = Lanes == 32 ? static_cast<std::int64_t>(blockIdx.x) * (block_threads / 32) + threadIdx.x / 32 : blockIdx.x;
  lane = static_cast<int>(threadIdx.x) % Lanes;
  return row < rows;
}

__host__ __device__ constexpr std::int64_t parameter_floats(std::int64_t width) { return width + 32; }

/// A vector over the columns as held rows need it: a copy in shared memory for all rows of the block. Packets of 8 lie there as two halves,
/// so that neighbouring lanes read neighbouring 16 bytes; the second half begins 16 banks from the first, so that they write them, too.
template <class Held>
class ColumnParameter {
 public:
  /// `memory` holds parameter_floats(width). The block must be whole.
  __device__ __forceinline__ ColumnParameter(const float* vector, float* memory, std::int64_t width)
      : memory_(memory), half_(width / 2 + (16 - width / 2 % 32 + 32) % 32) {
    for (std::int64_t q = threadIdx.x; q < width / 4; q += block_threads)
      *reinterpret_cast<float4*>(memory + q % parts * half_ + q / parts * 4) = *reinterpret_cast<const float4*>(vector + q * 4);
    __syncthreads();
  }
  /// Of packet p, which lies within the row.
  __device__ __forceinline__ void read(int p, int lane, float (&to)[Held::packet]) const {
#pragma unroll
    for (int h = 0; h < parts; ++h) {
      const float4 v = *reinterpret_cast<const float4*>(memory_ + h * half_ + (p * Held::lanes + lane) * 4);
      to[4 * h] = v.x;
      to[4 * h + 1] = v.y;
      to[4 * h + 2] = v.z;
      to[4 * h + 3] = v.w;
    }
  }

 private:
  static constexpr int parts = Held::packet / 4;
  const float* memory_;
  std::int64_t half_;
};

/// Blocks an SM must be able to hold: left to itself the compiler saves registers until it spills.
constexpr int held_blocks = 2;

/// Bytes of shared memory for `count` ColumnParameters.
std::size_t parameter_bytes(int count, std::int64_t width) {
  return static_cast<std::size_t>(count * parameter_floats(width)) * sizeof(float);
}

/// body(row) for the rows of this thread's group.
template <class Held, class Body>
__device__ __forceinline__ void for_group_rows(std::int64_t rows, int each, Body body) {
  constexpr int groups = block_threads / Held::lanes;
  const std::int64_t group = static_cast<std::int64_t>(blockIdx.x) * groups + threadIdx.x / Held::lanes, first = group * each;
  for (std::int64_t row = first; row < first + each && row < rows; ++row) body(row);
}

/// f(packet p) for the packets that lie within the row.
template <class Held, class F>
__device__ __forceinline__ void for_packets(int lane, std::int64_t width, F f) {
#pragma unroll
  for (int p = 0; p < Held::packets; ++p)
    if (Held::column(lane, p) < width) f(p);
}

extern __shared__ float4 parameter_memory[];

template <class Held, class S>
__global__ void __launch_bounds__(block_threads, held_blocks)
    rms_norm_held_kernel(float epsilon, std::int64_t rows, std::int64_t width, int each, const S* x, const float* gain, S* y,
                         float* inverse_rms) {
  constexpr int N = Held::packet;
  __shared__ float shared[8];
  const int lane = static_cast<int>(threadIdx.x) % Held::lanes;
  const ColumnParameter<Held> gains(gain, reinterpret_cast<float*>(parameter_memory), width);
  for_group_rows<Held>(rows, each, [&](std::int64_t row) {
    Held held;
    held.load(x + row * width, lane, width);
    float sum = 0;
#pragma unroll
    for (int p = 0; p < Held::packets; ++p) {
#pragma unroll
      for (int i = 0; i < N; ++i) sum += held.values[p][i] * held.values[p][i];
    }
    const float inverse = 1.0f / sqrtf(group_reduce<Held::lanes>(sum, shared) / static_cast<float>(width) + epsilon);
    for_packets<Held>(lane, width, [&](int p) {
      float g[N];
      gains.read(p, lane, g);
#pragma unroll
      for (int i = 0; i < N; ++i) held.values[p][i] = held.values[p][i] * inverse * g[i];
    });
    held.store(y + row * width, lane, width);
    if (lane == 0) inverse_rms[row] = inverse;
  });
}

template <int Lanes, class S>
__global__ void __launch_bounds__(block_threads)
    rms_norm_kernel(float epsilon, std::int64_t rows, std::int64_t width, const S* x, const float* gain, S* y, float* inverse_rms) {
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

template <class Held, class S>
__global__ void __launch_bounds__(block_threads, held_blocks)
    rms_norm_backward_held_kernel(std::int64_t rows, std::int64_t width, int each, const S* x, const float* gain, const float* inverse_rms,
                                  const S* dy, S* dx) {
  constexpr int N = Held::packet;
  __shared__ float shared[8];
  const int lane = static_cast<int>(threadIdx.x) % Held::lanes;
  const ColumnParameter<Held> gains(gain, reinterpret_cast<float*>(parameter_memory), width);
  for_group_rows<Held>(rows, each, [&](std::int64_t row) {
    Held held, scaled;  // x, and dy times the gain
    held.load(x + row * width, lane, width);
    scaled.load(dy + row * width, lane, width);
    float dot = 0;
    for_packets<Held>(lane, width, [&](int p) {
      float g[N];
      gains.read(p, lane, g);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        scaled.values[p][i] *= g[i];
        dot += scaled.values[p][i] * held.values[p][i];
      }
    });
    const float inverse = inverse_rms[row], pull = group_reduce<Held::lanes>(dot, shared) * inverse * inverse / static_cast<float>(width);
    for_packets<Held>(lane, width, [&](int p) {
      S* to = dx + row * width + Held::column(lane, p);
      float old[N];
      load_packet(to, old);
#pragma unroll
      for (int i = 0; i < N; ++i) old[i] += inverse * (scaled.values[p][i] - held.values[p][i] * pull);
      store_packet(to, old);
    });
  });
}

template <int Lanes, class S>
__global__ void __launch_bounds__(block_threads) rms_norm_backward_kernel(std::int64_t rows, std::int64_t width, const S* x,
                                                                          const float* gain, const float* inverse_rms, const S* dy, S* dx) {
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

template <class S>
struct RmsGainTerm {
  static constexpr int row_values = 1;
  const S *x, *dy;
  const float* inverse_rms;
  std::int64_t width;
  __device__ __forceinline__ float row_value(int, std::int64_t row) const { return inverse_rms[row]; }
  template <int N>
  using Columns = NoColumns<N>;
  template <int N>
  __device__ __forceinline__ void begin(std::int64_t, NoColumns<N>&) const {}
  template <int N>
  __device__ __forceinline__ void add(NoColumns<N>&, std::int64_t, std::int64_t row, std::int64_t column, const float* of_row,
                                      float (&sums)[1][N]) const {
    float value[N], d[N];
    load_packet(x + row * width + column, value);
    load_packet(dy + row * width + column, d);
#pragma unroll
    for (int i = 0; i < N; ++i) sums[0][i] += d[i] * value[i] * of_row[0];
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

template <class Held, class S>
__global__ void __launch_bounds__(block_threads, held_blocks)
    layer_norm_held_kernel(float epsilon, std::int64_t rows, std::int64_t width, int each, const S* x, const float* gain, const float* bias,
                           S* y, float* mean_of, float* inverse_deviation) {
  constexpr int N = Held::packet;
  __shared__ float shared[8];
  const int lane = static_cast<int>(threadIdx.x) % Held::lanes;
  float* memory = reinterpret_cast<float*>(parameter_memory);
  const ColumnParameter<Held> gains(gain, memory, width), biases(bias, memory + parameter_floats(width), width);
  for_group_rows<Held>(rows, each, [&](std::int64_t row) {
    Held held;
    held.load(x + row * width, lane, width);
    float sum = 0, squares = 0;
#pragma unroll
    for (int p = 0; p < Held::packets; ++p) {
#pragma unroll
      for (int i = 0; i < N; ++i) sum += held.values[p][i];
    }
    const float mean = group_reduce<Held::lanes>(sum, shared) / static_cast<float>(width);
    for_packets<Held>(lane, width, [&](int p) {
#pragma unroll
      for (int i = 0; i < N; ++i) squares += (held.values[p][i] - mean) * (held.values[p][i] - mean);
    });
    const float inverse = 1.0f / sqrtf(group_reduce<Held::lanes>(squares, shared) / static_cast<float>(width) + epsilon);
    for_packets<Held>(lane, width, [&](int p) {
      float g[N], b[N];
      gains.read(p, lane, g);
      biases.read(p, lane, b);
#pragma unroll
      for (int i = 0; i < N; ++i) held.values[p][i] = (held.values[p][i] - mean) * inverse * g[i] + b[i];
    });
    held.store(y + row * width, lane, width);
    if (lane == 0) {
      mean_of[row] = mean;
      inverse_deviation[row] = inverse;
    }
  });
}

template <int Lanes, class S>
__global__ void __launch_bounds__(block_threads)
    layer_norm_kernel(float epsilon, std::int64_t rows, std::int64_t width, const S* x, const float* gain, const float* bias, S* y,
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

template <class Held, class S>
__global__ void __launch_bounds__(block_threads, held_blocks)
    layer_norm_backward_held_kernel(std::int64_t rows, std::int64_t width, int each, const S* x, const float* gain, const float* mean_of,
                                    const float* inverse_deviation, const S* dy, S* dx) {
  constexpr int N = Held::packet;
  __shared__ float shared[8];
  const int lane = static_cast<int>(threadIdx.x) % Held::lanes;
  const ColumnParameter<Held> gains(gain, reinterpret_cast<float*>(parameter_memory), width);
  for_group_rows<Held>(rows, each, [&](std::int64_t row) {
    Held held, scaled;  // x, then its normalised value; dy times the gain
    held.load(x + row * width, lane, width);
    scaled.load(dy + row * width, lane, width);
    const float mean = mean_of[row], inverse = inverse_deviation[row];
    float sum = 0, dot = 0;
    for_packets<Held>(lane, width, [&](int p) {
      float g[N];
      gains.read(p, lane, g);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        held.values[p][i] = (held.values[p][i] - mean) * inverse;
        scaled.values[p][i] *= g[i];
        sum += scaled.values[p][i];
        dot += scaled.values[p][i] * held.values[p][i];
      }
    });
    sum = group_reduce<Held::lanes>(sum, shared) / static_cast<float>(width);
    dot = group_reduce<Held::lanes>(dot, shared) / static_cast<float>(width);
    for_packets<Held>(lane, width, [&](int p) {
      S* to = dx + row * width + Held::column(lane, p);
      float old[N];
      load_packet(to, old);
#pragma unroll
      for (int i = 0; i < N; ++i) old[i] += inverse * (scaled.values[p][i] - sum - held.values[p][i] * dot);
      store_packet(to, old);
    });
  });
}

template <int Lanes, class S>
__global__ void __launch_bounds__(block_threads)
    layer_norm_backward_kernel(std::int64_t rows, std::int64_t width, const S* x, const float* gain, const float* mean_of,
                               const float* inverse_deviation, const S* dy, S* dx) {
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

template <class S>
struct LayerNormColumnTerm {
  static constexpr int row_values = 2;
  const S *x, *dy;
  const float *mean, *inverse_deviation;
  std::int64_t width;
  __device__ __forceinline__ float row_value(int v, std::int64_t row) const { return v == 0 ? mean[row] : inverse_deviation[row]; }
  template <int N>
  using Columns = NoColumns<N>;
  template <int N>
  __device__ __forceinline__ void begin(std::int64_t, NoColumns<N>&) const {}
  template <int N>
  __device__ __forceinline__ void add(NoColumns<N>&, std::int64_t, std::int64_t row, std::int64_t column, const float* of_row,
                                      float (&sums)[2][N]) const {
    float value[N], d[N];
    load_packet(x + row * width + column, value);
    load_packet(dy + row * width + column, d);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      sums[0][i] += d[i] * (value[i] - of_row[0]) * of_row[1];
      sums[1][i] += d[i];
    }
  }
};

}  // namespace

template <>
void run(const RmsNormForward& args, Stream stream) {
  require_f32("rms_norm", {&args.gain, &args.inverse_rms});
  const std::int64_t rows = args.x.rows(), width = args.x.width();
  const float epsilon = static_cast<float>(args.epsilon), *gain = args.gain.as<float>();
  float* inverse_rms = args.inverse_rms.as<float>();
  dispatch_activation(require_activations("rms_norm", {&args.x, &args.y}), [&](auto storage) {
    using S = decltype(storage);
    const S* x = args.x.as<S>();
    S* y = args.y.as<S>();
    const bool held = dispatch_held_rows<S>(rows, width, 1, {&args.x, &args.gain, &args.y}, [&](auto row, HeldLaunch how) {
      using Held = decltype(row);
      rms_norm_held_kernel<Held><<<how.blocks, block_threads, parameter_bytes(1, width), native(stream)>>>(epsilon, rows, width, how.each,
                                                                                                           x, gain, y, inverse_rms);
    });
    if (held) return;
    dispatch_rows(rows, width, [&](auto lanes, unsigned blocks) {
      rms_norm_kernel<decltype(lanes)::value><<<blocks, block_threads, 0, native(stream)>>>(epsilon, rows, width, x, gain, y, inverse_rms);
    });
  });
  check_launch("rms_norm");
}

template <>
std::size_t scratch_bytes(const RmsNormBackward& args) {
  return args.dgain.empty() ? 0 : plan_columns(args.x.rows(), args.x.width()).bytes(1);
}

template <>
void run(const RmsNormBackward& args, Stream stream) {
  require_f32("rms_norm_backward", {&args.gain, &args.inverse_rms, &args.dgain});
  require_scratch("rms_norm_backward", args.scratch, scratch_bytes(args));
  const std::int64_t rows = args.x.rows(), width = args.x.width();
  const float *gain = args.gain.as<float>(), *inverse_rms = args.inverse_rms.as<float>();
  dispatch_activation(require_activations("rms_norm_backward", {&args.x, &args.dy, &args.dx}), [&](auto storage) {
    using S = decltype(storage);
    const S *x = args.x.as<S>(), *dy = args.dy.as<S>();
    S* dx = args.dx.as<S>();
    if (!args.dx.empty()) {
      const bool held = dispatch_held_rows<S>(rows, width, 1, {&args.x, &args.gain, &args.dy, &args.dx}, [&](auto row, HeldLaunch how) {
        using Held = decltype(row);
        rms_norm_backward_held_kernel<Held>
            <<<how.blocks, block_threads, parameter_bytes(1, width), native(stream)>>>(rows, width, how.each, x, gain, inverse_rms, dy, dx);
      });
      if (!held)
        dispatch_rows(rows, width, [&](auto lanes, unsigned blocks) {
          rms_norm_backward_kernel<decltype(lanes)::value>
              <<<blocks, block_threads, 0, native(stream)>>>(rows, width, x, gain, inverse_rms, dy, dx);
        });
      check_launch("rms_norm_backward");
    }
    if (args.dgain.empty()) return;
    dispatch_packets<S>(width, {&args.x, &args.dy}, [&](auto packet) {
      column_sums<decltype(packet)::value, 1>("rms_norm_backward", plan_columns(rows, width), RmsGainTerm<S>{x, dy, inverse_rms, width},
                                              AddColumns<1>{{args.dgain.as<float>()}}, args.scratch.data, stream);
    });
  });
}

template <>
void run(const LayerNormForward& args, Stream stream) {
  require_f32("layer_norm", {&args.gain, &args.bias, &args.mean, &args.inverse_deviation});
  const std::int64_t rows = args.x.rows(), width = args.x.width();
  const float epsilon = static_cast<float>(args.epsilon), *gain = args.gain.as<float>(), *bias = args.bias.as<float>();
  float *mean = args.mean.as<float>(), *inverse = args.inverse_deviation.as<float>();
  dispatch_activation(require_activations("layer_norm", {&args.x, &args.y}), [&](auto storage) {
    using S = decltype(storage);
    const S* x = args.x.as<S>();
    S* y = args.y.as<S>();
    const bool held = dispatch_held_rows<S>(rows, width, 2, {&args.x, &args.gain, &args.bias, &args.y}, [&](auto row, HeldLaunch how) {
      using Held = decltype(row);
      layer_norm_held_kernel<Held><<<how.blocks, block_threads, parameter_bytes(2, width), native(stream)>>>(
          epsilon, rows, width, how.each, x, gain, bias, y, mean, inverse);
    });
    if (held) return;
    dispatch_rows(rows, width, [&](auto lanes, unsigned blocks) {
      layer_norm_kernel<decltype(lanes)::value>
          <<<blocks, block_threads, 0, native(stream)>>>(epsilon, rows, width, x, gain, bias, y, mean, inverse);
    });
  });
  check_launch("layer_norm");
}

template <>
std::size_t scratch_bytes(const LayerNormBackward& args) {
  return args.dgain.empty() && args.dbias.empty() ? 0 : plan_columns(args.x.rows(), args.x.width()).bytes(2);
}

template <>
void run(const LayerNormBackward& args, Stream stream) {
  require_f32("layer_norm_backward", {&args.gain, &args.mean, &args.inverse_deviation, &args.dgain, &args.dbias});
  require_scratch("layer_norm_backward", args.scratch, scratch_bytes(args));
  const std::int64_t rows = args.x.rows(), width = args.x.width();
  const float *gain = args.gain.as<float>(), *mean = args.mean.as<float>(), *inverse = args.inverse_deviation.as<float>();
  dispatch_activation(require_activations("layer_norm_backward", {&args.x, &args.dy, &args.dx}), [&](auto storage) {
    using S = decltype(storage);
    const S *x = args.x.as<S>(), *dy = args.dy.as<S>();
    S* dx = args.dx.as<S>();
    if (!args.dx.empty()) {
      const bool held = dispatch_held_rows<S>(rows, width, 1, {&args.x, &args.gain, &args.dy, &args.dx}, [&](auto row, HeldLaunch how) {
        using Held = decltype(row);
        layer_norm_backward_held_kernel<Held><<<how.blocks, block_threads, parameter_bytes(1, width), native(stream)>>>(
            rows, width, how.each, x, gain, mean, inverse, dy, dx);
      });
      if (!held)
        dispatch_rows(rows, width, [&](auto lanes, unsigned blocks) {
          layer_norm_backward_kernel<decltype(lanes)::value>
              <<<blocks, block_threads, 0, native(stream)>>>(rows, width, x, gain, mean, inverse, dy, dx);
        });
      check_launch("layer_norm_backward");
    }
    if (args.dgain.empty() && args.dbias.empty()) return;
    dispatch_packets<S>(width, {&args.x, &args.dy}, [&](auto packet) {
      column_sums<decltype(packet)::value, 2>("layer_norm_backward", plan_columns(rows, width),
                                              LayerNormColumnTerm<S>{x, dy, mean, inverse, width},
                                              AddColumns<2>{{args.dgain.as<float>(), args.dbias.as<float>()}}, args.scratch.data, stream);
    });
  });
}

}  // namespace expctr::cuda
