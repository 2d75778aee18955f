// Cholesky factors of matrices of up to 256 rows, a block a matrix. The lower triangle lies packed in shared memory, row i from i (i + 1) /
// 2 on: 32 neighbouring rows then start in 32 different banks. Factor: column by column, a thread a row, n^2 / 2 dependent multiply-adds
// and 2 n barriers: bound by latency. Solve: a warp has four right sides in registers, eight rows a lane; every pivot is passed round by a
// shuffle and taken off the other rows. 4 n^2 bytes a block and 8 n a column of memory.
#include "base/kernels/cholesky.h"
#include "cuda/launch.cuh"

namespace expctr::cuda {

namespace {

constexpr int solve_columns = 4, solve_warps = block_threads / 32, row_groups = most_cholesky_rows / 32;

__device__ __forceinline__ int packed_row(int i) { return i * (i + 1) / 2; }

/// Dot product of the first n elements, in ascending order.
__device__ __forceinline__ float row_product(const float* a, const float* b, int n) {
  float sum = 0;
#pragma unroll 8
  for (int k = 0; k < n; ++k) sum += a[k] * b[k];
  return sum;
}

__device__ __forceinline__ void load_lower(const float* matrix, int n, float* packed) {
  for (int index = static_cast<int>(threadIdx.x); index < n * n; index += block_threads) {
    const int i = index / n, j = index % n;
    if (j <= i) packed[packed_row(i) + j] = matrix[index];
  }
}

__global__ void __launch_bounds__(block_threads) cholesky_kernel(int n, const float* a, float* factor, std::int32_t* status) {
  extern __shared__ float packed[];
  __shared__ float pivot;
  a += static_cast<std::int64_t>(blockIdx.x) * n * n;
  factor += static_cast<std::int64_t>(blockIdx.x) * n * n;
  load_lower(a, n, packed);
  __syncthreads();
  const int i = static_cast<int>(threadIdx.x);
  int failed = 0;
  for (int j = 0; j < n; ++j) {
    float value = 0;
    if (i >= j && i < n) value = packed[packed_row(i) + j] - row_product(packed + packed_row(i), packed + packed_row(j), j);
    if (i == j) pivot = value;
    __syncthreads();
    const float d = pivot;
    if (!(d > 0) || isinf(d)) {
      failed = j + 1;
      break;  // the same for the whole block
    }
    if (i >= j && i < n) packed[packed_row(i) + j] = i == j ? sqrtf(d) : value / sqrtf(d);
    __syncthreads();
  }
  if (i == 0) status[blockIdx.x] = failed;
  for (int index = i; index < n * n; index += block_threads) {
    const int row = index / n, column = index % n;
    factor[index] = failed != 0 ? NAN : column <= row ? packed[packed_row(row) + column] : 0.0f;
  }
}

__global__ void __launch_bounds__(block_threads)
    cholesky_solve_kernel(bool accumulate, int n, std::int64_t columns, const float* factor, const float* b, float* x) {
  extern __shared__ float packed[];
  load_lower(factor + static_cast<std::int64_t>(blockIdx.y) * n * n, n, packed);
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const std::int64_t first = (static_cast<std::int64_t>(blockIdx.x) * solve_warps + warp) * solve_columns;
  if (first >= columns) return;
  b += static_cast<std::int64_t>(blockIdx.y) * n * columns;
  x += static_cast<std::int64_t>(blockIdx.y) * n * columns;
  const bool vector = columns % solve_columns == 0 && aligned16(b) && aligned16(x);
  float y[row_groups][solve_columns];
#pragma unroll
  for (int q = 0; q < row_groups; ++q) {
    const int i = q * 32 + lane;
    const std::int64_t at = i * columns + first;
    float4 four = make_float4(0, 0, 0, 0);
    if (i < n && vector) {
      four = *reinterpret_cast<const float4*>(b + at);
    } else if (i < n) {
      four.x = b[at];
      if (first + 1 < columns) four.y = b[at + 1];
      if (first + 2 < columns) four.z = b[at + 2];
      if (first + 3 < columns) four.w = b[at + 3];
    }
    y[q][0] = four.x;
    y[q][1] = four.y;
    y[q][2] = four.z;
    y[q][3] = four.w;
  }
  // Forward: L y = b.
#pragma unroll
  for (int group = 0; group < row_groups; ++group) {
    for (int source = 0; source < 32; ++source) {
      const int j = group * 32 + source;
      if (j >= n) break;
      const float diagonal = packed[packed_row(j) + j];
      float found[solve_columns];
#pragma unroll
      for (int c = 0; c < solve_columns; ++c) {
        found[c] = __shfl_sync(0xFFFFFFFFu, y[group][c], source) / diagonal;
        if (lane == source) y[group][c] = found[c];
      }
#pragma unroll
      for (int q = group; q < row_groups; ++q) {
        const int i = q * 32 + lane;
        if (i > j && i < n) {
          const float l = packed[packed_row(i) + j];
#pragma unroll
          for (int c = 0; c < solve_columns; ++c) y[q][c] -= l * found[c];
        }
      }
    }
  }
  // Backward: L^T x = y.
#pragma unroll
  for (int group = row_groups - 1; group >= 0; --group) {
    for (int source = 31; source >= 0; --source) {
      const int j = group * 32 + source;
      if (j >= n) continue;
      const float diagonal = packed[packed_row(j) + j];
      float found[solve_columns];
#pragma unroll
      for (int c = 0; c < solve_columns; ++c) {
        found[c] = __shfl_sync(0xFFFFFFFFu, y[group][c], source) / diagonal;
        if (lane == source) y[group][c] = found[c];
      }
#pragma unroll
      for (int q = 0; q <= group; ++q) {
        const int i = q * 32 + lane;
        if (i < j) {
          const float l = packed[packed_row(j) + i];
#pragma unroll
          for (int c = 0; c < solve_columns; ++c) y[q][c] -= l * found[c];
        }
      }
    }
  }
#pragma unroll
  for (int q = 0; q < row_groups; ++q) {
    const int i = q * 32 + lane;
    if (i >= n) continue;
    const std::int64_t at = i * columns + first;
    if (vector) {
      float4 old = make_float4(0, 0, 0, 0);
      if (accumulate) old = *reinterpret_cast<const float4*>(x + at);
      *reinterpret_cast<float4*>(x + at) = make_float4(old.x + y[q][0], old.y + y[q][1], old.z + y[q][2], old.w + y[q][3]);
    } else {
#pragma unroll
      for (int c = 0; c < solve_columns; ++c)
        if (first + c < columns) x[at + c] = (accumulate ? x[at + c] : 0.0f) + y[q][c];
    }
  }
}

std::size_t packed_bytes(const char* kernel, std::int64_t n) {
  if (n > most_cholesky_rows)
    throw ShapeError(std::string("cuda: ") + kernel + ": matrices of " + std::to_string(n) + " rows",
                     "at most " + std::to_string(most_cholesky_rows) + "; larger ones run on --device cpu");
  return static_cast<std::size_t>(n * (n + 1) / 2) * sizeof(float);
}

template <class Kernel>
void allow(Kernel kernel, std::size_t bytes) {
  if (bytes + sizeof(float) > 48 * 1024)
    EXPCTR_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
}

}  // namespace

template <>
void run(const Cholesky& args, Stream stream) {
  require_f32("cholesky", {&args.a, &args.factor});
  require("cholesky", DType::i32, {&args.status});
  if (args.a.rank != 3 || args.a.shape[1] != args.a.shape[2]) throw ShapeError("cuda: cholesky takes [batch, n, n]");
  const std::int64_t batch = args.a.shape[0], n = args.a.shape[1];
  const std::size_t shared = packed_bytes("cholesky", n);
  if (batch == 0) return;
  allow(cholesky_kernel, shared);
  cholesky_kernel<<<blocks_for(batch, 1), block_threads, shared, native(stream)>>>(static_cast<int>(n), args.a.as<const float>(),
                                                                                   args.factor.as<float>(), args.status.as<std::int32_t>());
  check_launch("cholesky");
}

template <>
void run(const CholeskySolve& args, Stream stream) {
  require_f32("cholesky_solve", {&args.factor, &args.b, &args.x});
  if (args.factor.rank != 3 || args.b.rank != 3 || args.factor.shape[1] != args.factor.shape[2] ||
      args.b.shape[1] != args.factor.shape[1] || args.b.shape[0] != args.factor.shape[0])
    throw ShapeError("cuda: cholesky_solve takes factors [batch, n, n] and b [batch, n, columns]");
  const std::int64_t batch = args.b.shape[0], n = args.b.shape[1], columns = args.b.shape[2];
  const std::size_t shared = packed_bytes("cholesky_solve", n);
  if (args.b.size() == 0) return;
  if (batch > 65535) throw ShapeError("cuda: cholesky_solve: " + std::to_string(batch) + " systems", "at most 65535 at a time");
  allow(cholesky_solve_kernel, shared);
  const dim3 grid(blocks_for(columns, solve_columns * solve_warps), static_cast<unsigned>(batch));
  cholesky_solve_kernel<<<grid, block_threads, shared, native(stream)>>>(
      args.accumulate, static_cast<int>(n), columns, args.factor.as<const float>(), args.b.as<const float>(), args.x.as<float>());
  check_launch("cholesky_solve");
}

}  // namespace expctr::cuda
