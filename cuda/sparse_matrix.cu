// Sparse times dense. A warp has a row: groups of its lanes take alternate entries, each group 16 bytes a lane of the row of x that the
// entry names, and the groups' sums are added by shuffles. A row of more than long_row entries is divided among the eight warps of its
// block, whose sums are added in ascending order: one popular row does not hold the others up. No atomics; the order depends on the row's
// length and the width alone. 4 width + 8 bytes an entry (2 width for bf16): bound by memory, by the L2 cache where the same rows of x come
// again.
#include "base/blocks.h"
#include "base/kernels/sparse_matrix.h"
#include "cuda/launch.cuh"

namespace expctr::cuda {

namespace {

constexpr int long_row = 256, sparse_warps = block_threads / 32;

__device__ __forceinline__ float wide(float value) { return value; }
__device__ __forceinline__ float wide(std::uint16_t value) { return float_of_bf16(value); }
__device__ __forceinline__ void narrow(float* to, float value) { *to = value; }
__device__ __forceinline__ void narrow(std::uint16_t* to, float value) { *to = bf16_of_float(value); }

template <class T>
struct SparsePointers {
  bool accumulate;
  std::int64_t rows, columns, width;
  const std::int32_t *offsets, *column_ids;
  const float* values;
  const T* x;
  T* y;
};

template <class T, int Per>
struct __align__(sizeof(T) * Per) Item {
  T part[Per];
};

/// Sums over entries begin, begin + groups, ... below end for this lane's columns, then over the groups: every lane has its columns' sums.
template <class T, int Per>
__device__ __forceinline__ void add_entries(const SparsePointers<T>& p, std::int32_t begin, std::int32_t end, int group, int groups,
                                            std::int64_t column, float (&sums)[Per]) {
#pragma unroll 4
  for (std::int32_t i = begin + group; i < end; i += groups) {
    const std::int32_t id = p.column_ids[i];
    const bool known = id >= 0 && id < p.columns;
    const float value = !known ? NAN : p.values == nullptr ? 1.0f : p.values[i];  // a kernel cannot throw
    if (column < p.width) {
      const Item<T, Per> item = *reinterpret_cast<const Item<T, Per>*>(p.x + (known ? id : 0) * p.width + column);
#pragma unroll
      for (int k = 0; k < Per; ++k) sums[k] += value * wide(item.part[k]);
    }
  }
  for (int distance = 32 / groups; distance < 32; distance *= 2) {
#pragma unroll
    for (int k = 0; k < Per; ++k) sums[k] += __shfl_xor_sync(0xFFFFFFFFu, sums[k], distance);
  }
}

template <class T, int Per>
__device__ __forceinline__ void store(const SparsePointers<T>& p, std::int64_t row, std::int64_t column, const float (&sums)[Per]) {
  Item<T, Per>* to = reinterpret_cast<Item<T, Per>*>(p.y + row * p.width + column);
  Item<T, Per> item = {};
  if (p.accumulate) item = *to;
#pragma unroll
  for (int k = 0; k < Per; ++k) narrow(&item.part[k], (p.accumulate ? wide(item.part[k]) : 0.0f) + sums[k]);
  *to = item;
}

/// lanes: those of a group, a power of two; blockIdx.y: a piece of lanes * Per columns. Per elements are one access.
template <class T, int Per>
__global__ void __launch_bounds__(block_threads) sparse_matmul_kernel(SparsePointers<T> p, int lanes) {
  __shared__ float parts[sparse_warps][32 * Per];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32, groups = 32 / lanes;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * sparse_warps,
                     column = (static_cast<std::int64_t>(blockIdx.y) * lanes + lane % lanes) * Per;
  const auto length = [&](std::int64_t row) { return row < p.rows ? p.offsets[row + 1] - p.offsets[row] : 0; };
  const std::int64_t mine = first + warp;
  if (mine < p.rows && length(mine) <= long_row) {
    float sums[Per] = {};
    add_entries<T, Per>(p, p.offsets[mine], p.offsets[mine + 1], lane / lanes, groups, column, sums);
    if (lane < lanes && column < p.width) store<T, Per>(p, mine, column, sums);
  }
  for (int i = 0; i < sparse_warps; ++i) {
    const std::int64_t row = first + i;
    const std::int32_t entries = length(row);
    if (entries <= long_row) continue;  // the same for the whole block
    const std::int32_t share = (entries + sparse_warps - 1) / sparse_warps, begin = p.offsets[row] + warp * share,
                       end = min(begin + share, p.offsets[row + 1]);
    float sums[Per] = {};
    add_entries<T, Per>(p, begin, end, lane / lanes, groups, column, sums);
#pragma unroll
    for (int k = 0; k < Per; ++k) parts[warp][k * 32 + lane] = sums[k];
    __syncthreads();
    if (warp == 0 && lane < lanes && column < p.width) {
#pragma unroll
      for (int k = 0; k < Per; ++k) {
        sums[k] = 0;
#pragma unroll
        for (int w = 0; w < sparse_warps; ++w) sums[k] += parts[w][k * 32 + lane];
      }
      store<T, Per>(p, row, column, sums);
    }
    __syncthreads();
  }
}

template <class T>
void multiply(const SparseMatMul& args, Stream stream) {
  constexpr int most = 16 / static_cast<int>(sizeof(T));
  const SparsePointers<T> p{args.accumulate,
                            args.y.shape[0],
                            args.x.shape[0],
                            args.y.shape[1],
                            args.offsets.as<const std::int32_t>(),
                            args.columns.as<const std::int32_t>(),
                            args.values.as<const float>(),
                            args.x.as<const T>(),
                            args.y.as<T>()};
  const bool vector = p.width % most == 0 && aligned16(p.x) && aligned16(p.y);
  const std::int64_t items = vector ? p.width / most : p.width;
  int lanes = 1;
  while (lanes < 32 && lanes < items) lanes *= 2;
  const dim3 grid(blocks_for(p.rows, sparse_warps), static_cast<unsigned>(ceil_div(items, lanes)));
  if (vector)
    sparse_matmul_kernel<T, most><<<grid, block_threads, 0, native(stream)>>>(p, lanes);
  else
    sparse_matmul_kernel<T, 1><<<grid, block_threads, 0, native(stream)>>>(p, lanes);
  check_launch("sparse_matmul");
}

}  // namespace

template <>
void run(const SparseMatMul& args, Stream stream) {
  require("sparse_matmul", args.x.dtype, {&args.y});
  require_f32("sparse_matmul", {&args.values});
  require("sparse_matmul", DType::i32, {&args.offsets, &args.columns});
  if (args.x.rank != 2 || args.y.rank != 2 || args.x.shape[1] != args.y.shape[1] || args.offsets.size() != args.y.shape[0] + 1)
    throw ShapeError("cuda: sparse_matmul takes offsets [rows + 1], x [columns, width] and y [rows, width]");
  if (args.y.size() == 0) return;
  if (args.x.dtype == DType::bf16) return multiply<std::uint16_t>(args, stream);
  require_f32("sparse_matmul", {&args.x});
  multiply<float>(args, stream);
}

}  // namespace expctr::cuda
