// Reductions: sums of an axis and their gradients, means of segments, the squared norm of many tensors.
// One read of x (4 bytes a term), a FLOP or two a term: bound by memory. Sums run in the fixed order of cuda/reduction.cuh; the squared
// norm adds in double, threads of a piece first, then the pieces in ascending order.
#include "base/kernels/reduce.h"
#include "cuda/reduction.cuh"
#include "cuda/rows.cuh"

namespace expctr::cuda {

namespace {

struct AxisTerm {
  const float* x;
  std::int64_t n, inner;
  __device__ __forceinline__ void operator()(std::int64_t output, std::int64_t r, float (&sums)[1]) const {
    const std::int64_t o = inner == 1 ? output : output / inner;
    sums[0] += x[(o * n + r) * inner + (output - o * inner)];
  }
};

struct StoreScaled {
  float scale;
  float* y;
  __device__ void operator()(std::int64_t output, const float (&sums)[1]) const { y[output] = scale * sums[0]; }
};

void check_axis(const char* name, const View& x, const View& y) {
  if (x.rank != 3 || y.rank != 2 || x.shape[0] != y.shape[0] || x.shape[2] != y.shape[1])
    throw ShapeError(std::string("cuda: ") + name + " takes [outer, n, inner] and [outer, inner]");
}

/// dx[o, r, i] += scale dy[o, i]; Inner4: inner is a multiple of 4 and pointers are aligned; else one element a thread.
template <bool Inner4>
__global__ void __launch_bounds__(block_threads)
    sum_backward_kernel(float scale, std::int64_t total, std::int64_t n, std::int64_t inner, const float* dy, float* dx) {
  const std::int64_t i = (static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x) * (Inner4 ? 4 : 1);
  if (i >= total) return;
  const std::int64_t row = i / inner, from = row / n * inner + (i - row * inner);
  if (Inner4) {
    const float4 g = *reinterpret_cast<const float4*>(dy + from);
    float4 old = *reinterpret_cast<float4*>(dx + i);
    old = make_float4(old.x + scale * g.x, old.y + scale * g.y, old.z + scale * g.z, old.w + scale * g.w);
    *reinterpret_cast<float4*>(dx + i) = old;
  } else {
    dx[i] += scale * dy[from];
  }
}

__global__ void __launch_bounds__(block_threads)
    segment_mean_kernel(std::int64_t segments, std::int64_t width, const float* x, const std::int32_t* offsets, float* y) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x;
  if (i >= segments * width) return;
  const std::int64_t segment = i / width, column = i - segment * width;
  const std::int32_t begin = offsets[segment], end = offsets[segment + 1];
  float sum = 0;
#pragma unroll 4
  for (std::int64_t row = begin; row < end; ++row) sum += x[row * width + column];
  y[i] = end > begin ? sum / static_cast<float>(end - begin) : 0.0f;
}

/// A warp a row: finds the row's segment by bisection, then adds.
__global__ void __launch_bounds__(block_threads) segment_mean_backward_kernel(std::int64_t rows, std::int64_t width, std::int64_t segments,
                                                                              const float* dy, const std::int32_t* offsets, float* dx) {
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * (block_threads / 32) + threadIdx.x / 32;
  if (row >= rows || segments == 0 || row < offsets[0] || row >= offsets[segments]) return;
  std::int64_t low = 0, high = segments;  // offsets[low] <= row < offsets[high]
  while (high - low > 1) {
    const std::int64_t middle = (low + high) / 2;
    (offsets[middle] <= row ? low : high) = middle;
  }
  const float share = 1.0f / static_cast<float>(offsets[low + 1] - offsets[low]);
  map_row<32>(
      static_cast<int>(threadIdx.x % 32), width, dx + row * width,
      [share](std::int64_t, float old, float gradient) { return old + gradient * share; }, dx + row * width, dy + low * width);
}

/// Tensors that one launch reads, by value: up to 128 of them in 3 KiB of parameters.
struct NormTable {
  static constexpr int capacity = 128;
  const float* data[capacity];
  std::int64_t elements[capacity];
  std::int32_t first_block[capacity + 1];
  int count;
};

constexpr std::int64_t norm_piece = 16384;

__global__ void __launch_bounds__(block_threads) squared_norm_kernel(const __grid_constant__ NormTable table, double* partials) {
  __shared__ double shared[block_threads];
  int low = 0, high = table.count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (table.first_block[middle] <= static_cast<int>(blockIdx.x) ? low : high) = middle;
  }
  const std::int64_t begin = (static_cast<std::int64_t>(blockIdx.x) - table.first_block[low]) * norm_piece,
                     end = begin + norm_piece < table.elements[low] ? begin + norm_piece : table.elements[low];
  const float* x = table.data[low];
  double sum = 0;
  if (aligned16(x)) {
    for (std::int64_t i = begin + threadIdx.x * 4; i < end; i += 4 * block_threads) {
      if (i + 4 <= end) {
        const float4 v = *reinterpret_cast<const float4*>(x + i);
        sum += static_cast<double>(v.x) * v.x + static_cast<double>(v.y) * v.y + static_cast<double>(v.z) * v.z +
               static_cast<double>(v.w) * v.w;
      } else {
        for (std::int64_t j = i; j < end; ++j) sum += static_cast<double>(x[j]) * x[j];
      }
    }
  } else {
    for (std::int64_t i = begin + threadIdx.x; i < end; i += block_threads) sum += static_cast<double>(x[i]) * x[i];
  }
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
  return plan_reduction(args.y.size(), args.x.shape[1]).bytes(1);
}

template <>
void run(const SumForward& args, Stream stream) {
  require_f32("sum", {&args.x, &args.y});
  check_axis("sum", args.x, args.y);
  require_scratch("sum", args.scratch, scratch_bytes(args));
  const ReductionPlan plan = plan_reduction(args.y.size(), args.x.shape[1]);
  const AxisTerm term{args.x.as<float>(), args.x.shape[1], args.x.shape[2]};
  const StoreScaled store{static_cast<float>(args.scale), args.y.as<float>()};
  if (term.inner == 1)
    reduce<1, true>("sum", plan, term, store, args.scratch.data, stream);
  else
    reduce<1, false>("sum", plan, term, store, args.scratch.data, stream);
}

template <>
void run(const SumBackward& args, Stream stream) {
  require_f32("sum_backward", {&args.dy, &args.dx});
  check_axis("sum_backward", args.dx, args.dy);
  const std::int64_t total = args.dx.size(), n = args.dx.shape[1], inner = args.dx.shape[2];
  if (total == 0) return;
  const bool vector = inner % 4 == 0 && aligned16(args.dy.data) && aligned16(args.dx.data);
  (vector ? sum_backward_kernel<true>
          : sum_backward_kernel<false>)<<<blocks_for(total, block_threads * (vector ? 4 : 1)), block_threads, 0, native(stream)>>>(
      static_cast<float>(args.scale), total, n, inner, args.dy.as<float>(), args.dx.as<float>());
  check_launch("sum_backward");
}

template <>
void run(const SegmentMeanForward& args, Stream stream) {
  require_f32("segment_mean", {&args.x, &args.y});
  require("segment_mean", DType::i32, {&args.offsets});
  const std::int64_t segments = args.y.rows(), width = args.y.width();
  if (segments * width == 0) return;
  segment_mean_kernel<<<blocks_for(segments * width, block_threads), block_threads, 0, native(stream)>>>(
      segments, width, args.x.as<float>(), args.offsets.as<std::int32_t>(), args.y.as<float>());
  check_launch("segment_mean");
}

template <>
void run(const SegmentMeanBackward& args, Stream stream) {
  require_f32("segment_mean_backward", {&args.dy, &args.dx});
  require("segment_mean_backward", DType::i32, {&args.offsets});
  const std::int64_t rows = args.dx.rows(), width = args.dx.width();
  if (rows * width == 0) return;
  segment_mean_backward_kernel<<<blocks_for(rows, block_threads / 32), block_threads, 0, native(stream)>>>(
      rows, width, args.dy.rows(), args.dy.as<float>(), args.offsets.as<std::int32_t>(), args.dx.as<float>());
  check_launch("segment_mean_backward");
}

template <>
std::size_t scratch_bytes(const SquaredNorm& args) {
  return static_cast<std::size_t>(norm_pieces(args)) * sizeof(double);
}

template <>
void run(const SquaredNorm& args, Stream stream) {
  require("squared_norm", DType::f64, {&args.total});
  for (int i = 0; i < args.count; ++i) require_f32("squared_norm", {&args.tensors[i]});
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
    table.data[table.count] = args.tensors[i].as<float>();
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
