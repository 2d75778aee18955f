// Reductions: sums of an axis and their gradients, means of segments, the squared norm of many tensors. x and y are activations, b bytes
// an element. One read of x, a FLOP or two a term: bound by memory. Sums along rows and down columns run in the fixed orders of
// cuda/reduction.cuh and cuda/columns.cuh; the gradient of a sum reads and writes dx, 2 b, and dy once for up to 16 rows; the squared norm
// adds in double, threads of a piece first, then the pieces in ascending order.
#include "base/kernels/reduce.h"
#include "cuda/broadcast.cuh"
#include "cuda/reduction.cuh"

namespace expctr::cuda {

namespace {

/// [outputs, n], contiguous rows.
template <class S>
struct ContiguousTerm {
  const S* x;
  std::int64_t n;
  template <int N>
  __device__ __forceinline__ void add(std::int64_t output, std::int64_t r, float (&sums)[1][N]) const {
    float value[N];
    load_packet(x + output * n + r, value);
#pragma unroll
    for (int i = 0; i < N; ++i) sums[0][i] += value[i];
  }
};

/// [outer, n, inner], down the columns.
template <class S>
struct AxisColumnTerm {
  static constexpr int row_values = 0;
  const S* x;
  std::int64_t n, inner;
  template <int N>
  using Columns = NoColumns<N>;
  template <int N>
  __device__ __forceinline__ void begin(std::int64_t, NoColumns<N>&) const {}
  template <int N>
  __device__ __forceinline__ void add(NoColumns<N>&, std::int64_t batch, std::int64_t row, std::int64_t column, const float*,
                                      float (&sums)[1][N]) const {
    float value[N];
    load_packet(x + (batch * n + row) * inner + column, value);
#pragma unroll
    for (int i = 0; i < N; ++i) sums[0][i] += value[i];
  }
};

/// [outer, n, inner], an element at a time: more outer rows than a grid has layers.
template <class S>
struct AxisTerm {
  const S* x;
  std::int64_t n, inner;
  __device__ __forceinline__ void operator()(std::int64_t output, std::int64_t r, float (&sums)[1]) const {
    std::int64_t column;
    const std::int64_t o = divide(output, inner, column);
    sums[0] += widen(x[(o * n + r) * inner + column]);
  }
};

template <class S>
struct StoreScaled {
  float scale;
  S* y;
  __device__ void operator()(std::int64_t output, const float (&sums)[1]) const { store_element(y + output, scale * sums[0]); }
  template <int N>
  __device__ void packet(std::int64_t output, const float (&sums)[1][N]) const {
    float scaled[N];
#pragma unroll
    for (int i = 0; i < N; ++i) scaled[i] = scale * sums[0][i];
    store_packet(y + output, scaled);
  }
};

struct Scale {
  float scale;
  __device__ void operator()(const float (&in)[1], float (&out)[1]) const { out[0] = scale * in[0]; }
};

constexpr std::int64_t most_layers = 65535;

void check_axis(const char* name, const View& x, const View& y) {
  if (x.rank != 3 || y.rank != 2 || x.shape[0] != y.shape[0] || x.shape[2] != y.shape[1])
    throw ShapeError(std::string("cuda: ") + name + " takes [outer, n, inner] and [outer, inner]");
}

/// A thread takes N columns of a segment.
template <int N, class S>
__global__ void __launch_bounds__(block_threads)
    segment_mean_kernel(std::int64_t segments, std::int64_t width, const S* x, const std::int32_t* offsets, S* y) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x;
  std::int64_t packet;
  const std::int64_t segment = divide(i, width / N, packet), column = packet * N;
  if (segment >= segments) return;
  const std::int32_t begin = offsets[segment], end = offsets[segment + 1];
  float sum[N] = {};
#pragma unroll 4
  for (std::int64_t row = begin; row < end; ++row) {
    float value[N];
    load_packet(x + row * width + column, value);
#pragma unroll
    for (int k = 0; k < N; ++k) sum[k] += value[k];
  }
#pragma unroll
  for (int k = 0; k < N; ++k) sum[k] = end > begin ? sum[k] / static_cast<float>(end - begin) : 0.0f;
  store_packet(y + segment * width + column, sum);
}

/// A thread takes N columns of every gridDim.y-th row of a segment, so that it reads dy once for several rows.
template <int N, class S>
__global__ void __launch_bounds__(block_threads)
    segment_mean_backward_kernel(std::int64_t segments, std::int64_t width, const S* dy, const std::int32_t* offsets, S* dx) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x;
  std::int64_t packet;
  const std::int64_t segment = divide(i, width / N, packet), column = packet * N;
  if (segment >= segments) return;
  const std::int32_t begin = offsets[segment], end = offsets[segment + 1];
  if (begin + static_cast<std::int64_t>(blockIdx.y) >= end) return;
  const float share = 1.0f / static_cast<float>(end - begin);
  float gradient[N];
  load_packet(dy + segment * width + column, gradient);
  for (std::int64_t row = begin + static_cast<std::int64_t>(blockIdx.y); row < end; row += gridDim.y) {
    S* to = dx + row * width + column;
    float old[N];
    load_packet(to, old);
#pragma unroll
    for (int k = 0; k < N; ++k) old[k] += gradient[k] * share;
    store_packet(to, old);
  }
}

/// Tensors that one launch reads, by value: up to 480 of them in 10 KiB of parameters.
struct NormTable {
  static constexpr int capacity = 480;
  const void* data[capacity];
  bool is_bf16[capacity];
  std::int64_t elements[capacity];
  std::int32_t first_block[capacity + 1];
  int count;
};

constexpr std::int64_t norm_piece = 16384;

template <class S>
__device__ __forceinline__ double sum_of_squares(const S* x, std::int64_t begin, std::int64_t end) {
  constexpr int N = packet_size<S>;
  double sum = 0;
  if (aligned16(x)) {
    for (std::int64_t i = begin + threadIdx.x * N; i < end; i += N * block_threads) {
      if (i + N <= end) {
        float v[N];
        load_packet(x + i, v);
#pragma unroll
        for (int k = 0; k < N; ++k) sum += static_cast<double>(v[k]) * v[k];
      } else {
        for (std::int64_t j = i; j < end; ++j) sum += static_cast<double>(widen(x[j])) * widen(x[j]);
      }
    }
  } else {
    for (std::int64_t i = begin + threadIdx.x; i < end; i += block_threads) sum += static_cast<double>(widen(x[i])) * widen(x[i]);
  }
  return sum;
}

__global__ void __launch_bounds__(block_threads) squared_norm_kernel(const __grid_constant__ NormTable table, double* partials) {
  __shared__ double shared[block_threads];
  int low = 0, high = table.count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (table.first_block[middle] <= static_cast<int>(blockIdx.x) ? low : high) = middle;
  }
  const std::int64_t begin = (static_cast<std::int64_t>(blockIdx.x) - table.first_block[low]) * norm_piece,
                     end = begin + norm_piece < table.elements[low] ? begin + norm_piece : table.elements[low];
  const double sum = table.is_bf16[low] ? sum_of_squares(static_cast<const Bf16*>(table.data[low]), begin, end)
                                        : sum_of_squares(static_cast<const float*>(table.data[low]), begin, end);
  shared[threadIdx.x] = sum;
  __syncthreads();
  for (int half = block_threads / 2; half > 0; half /= 2) {
    if (static_cast<int>(threadIdx.x) < half) shared[threadIdx.x] += shared[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) partials[blockIdx.x] = shared[0];
}

__global__ void __launch_bounds__(block_threads) finish_norm_kernel(std::int64_t pieces, const double* partials, double* total) {
  __shared__ double shared[block_threads];
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < pieces; i += block_threads) sum += partials[i];
  shared[threadIdx.x] = sum;
  __syncthreads();
  for (int half = block_threads / 2; half > 0; half /= 2) {
    if (static_cast<int>(threadIdx.x) < half) shared[threadIdx.x] += shared[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) *total = shared[0];
}

std::int64_t elements_of(const View& view) { return view.empty() ? 0 : view.size(); }

std::int64_t norm_pieces(const SquaredNorm& args) {
  std::int64_t pieces = 0;
  for (int i = 0; i < args.count; ++i) pieces += ceil_div(elements_of(args.tensors[i]), norm_piece);
  return pieces;
}

}  // namespace

template <>
std::size_t scratch_bytes(const SumForward& args) {
  const std::int64_t outer = args.x.shape[0], n = args.x.shape[1], inner = args.x.shape[2];
  if (inner == 1) return plan_rows(outer, n).bytes(1);
  if (outer <= most_layers) return plan_columns(n, inner, outer).bytes(1);
  return plan_reduction(args.y.size(), n).bytes(1);
}

template <>
void run(const SumForward& args, Stream stream) {
  check_axis("sum", args.x, args.y);
  require_scratch("sum", args.scratch, scratch_bytes(args));
  const std::int64_t outer = args.x.shape[0], n = args.x.shape[1], inner = args.x.shape[2];
  dispatch_activation(require_activations("sum", {&args.x, &args.y}), [&](auto storage) {
    using S = decltype(storage);
    const S* x = args.x.as<const S>();
    const StoreScaled<S> store{static_cast<float>(args.scale), args.y.as<S>()};
    if (inner != 1 && outer > most_layers)
      return reduce<1, false>("sum", plan_reduction(args.y.size(), n), AxisTerm<S>{x, n, inner}, store, args.scratch.data, stream);
    dispatch_packets<S>(inner == 1 ? n : inner, {&args.x, &args.y}, [&](auto packet) {
      constexpr int N = decltype(packet)::value;
      if (inner == 1)
        row_sums<N, 1>("sum", plan_rows(outer, n), ContiguousTerm<S>{x, n}, store, args.scratch.data, stream);
      else
        column_sums<N, 1>("sum", plan_columns(n, inner, outer), AxisColumnTerm<S>{x, n, inner}, store, args.scratch.data, stream);
    });
  });
}

template <>
void run(const SumBackward& args, Stream stream) {
  check_axis("sum_backward", args.dx, args.dy);
  const DType dtype = require_activations("sum_backward", {&args.dy, &args.dx});
  View dy = args.dy;
  dy.rank = 3;
  dy.shape[1] = 1;
  dy.shape[2] = args.dx.shape[2];
  broadcast<true>("sum_backward", dtype, Scale{static_cast<float>(args.scale)}, {dy}, args.dx, stream);
}

template <>
void run(const SegmentMeanForward& args, Stream stream) {
  require("segment_mean", DType::i32, {&args.offsets});
  const std::int64_t segments = args.y.rows(), width = args.y.width();
  const DType dtype = require_activations("segment_mean", {&args.x, &args.y});
  if (segments * width == 0) return;
  dispatch_activation(dtype, [&](auto storage) {
    using S = decltype(storage);
    dispatch_packets<S>(width, {&args.x, &args.y}, [&](auto packet) {
      constexpr int N = decltype(packet)::value;
      segment_mean_kernel<N><<<blocks_for(segments * (width / N), block_threads), block_threads, 0, native(stream)>>>(
          segments, width, args.x.as<const S>(), args.offsets.as<std::int32_t>(), args.y.as<S>());
    });
  });
  check_launch("segment_mean");
}

template <>
void run(const SegmentMeanBackward& args, Stream stream) {
  require("segment_mean_backward", DType::i32, {&args.offsets});
  const std::int64_t rows = args.dx.rows(), width = args.dx.width(), segments = args.dy.rows();
  const DType dtype = require_activations("segment_mean_backward", {&args.dy, &args.dx});
  if (rows * width * segments == 0) return;
  const auto slices = static_cast<unsigned>(std::clamp<std::int64_t>(rows / segments / 8, 1, 64));
  dispatch_activation(dtype, [&](auto storage) {
    using S = decltype(storage);
    dispatch_packets<S>(width, {&args.dy, &args.dx}, [&](auto packet) {
      constexpr int N = decltype(packet)::value;
      const dim3 grid(blocks_for(segments * (width / N), block_threads), slices);
      segment_mean_backward_kernel<N><<<grid, block_threads, 0, native(stream)>>>(segments, width, args.dy.as<const S>(),
                                                                                  args.offsets.as<std::int32_t>(), args.dx.as<S>());
    });
  });
  check_launch("segment_mean_backward");
}

template <>
std::size_t scratch_bytes(const SquaredNorm& args) {
  return static_cast<std::size_t>(norm_pieces(args)) * sizeof(double);
}

template <>
void run(const SquaredNorm& args, Stream stream) {
  require("squared_norm", DType::f64, {&args.total});
  for (int i = 0; i < args.count; ++i) require_activations("squared_norm", {&args.tensors[i]});
  require_scratch("squared_norm", args.scratch, scratch_bytes(args));
  double* partials = args.scratch.as<double>();
  std::int64_t done = 0;
  NormTable table;
  table.count = 0;
  table.first_block[0] = 0;
  const auto launch = [&] {
    if (table.count == 0) return;
    const std::int32_t blocks = table.first_block[table.count];
    squared_norm_kernel<<<static_cast<unsigned>(blocks), block_threads, 0, native(stream)>>>(table, partials + done);
    check_launch("squared_norm");
    done += blocks;
    table.count = 0;
  };
  for (int i = 0; i < args.count; ++i) {
    const std::int64_t elements = elements_of(args.tensors[i]);
    if (elements == 0) continue;
    table.data[table.count] = args.tensors[i].data;
    table.is_bf16[table.count] = args.tensors[i].dtype == DType::bf16;
    table.elements[table.count] = elements;
    table.first_block[table.count + 1] = table.first_block[table.count] + static_cast<std::int32_t>(ceil_div(elements, norm_piece));
    ++table.count;
    if (table.count == NormTable::capacity) launch();
  }
  launch();
  finish_norm_kernel<<<1, block_threads, 0, native(stream)>>>(done, partials, args.total.as<double>());
  check_launch("squared_norm");
}

}  // namespace expctr::cuda
