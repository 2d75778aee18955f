// Table look-ups. Gather: reads the rows (in the table's storage), writes 4 bytes an element; bound by memory. Its gradient sorts (id,
// place) pairs by id with a stable radix sort of 8 bits a pass over the bits that ids have (12 bytes a pair and pass), then a warp adds the
// rows of one id in ascending place: 8 bytes an element of dy plus 8 a touched element of the table, bound by memory, without atomics and
// with the bits of a loop over i. An id past the table gathers NaN and gets no gradient: a kernel cannot throw.
#include <algorithm>

#include "base/kernels/embedding.h"
#include "cuda/rows.cuh"
#include "cuda/storage.cuh"

namespace expctr::cuda {

namespace {

template <class Storage>
__global__ void __launch_bounds__(block_threads)
    gather_kernel(std::int64_t total, std::int64_t rows, std::int64_t width, const void* table, const std::int32_t* ids, float* y) {
  const std::int64_t start = static_cast<std::int64_t>(blockIdx.x) * (4 * block_threads) + threadIdx.x;
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    const std::int64_t i = start + step * block_threads;
    if (i >= total) return;
    const std::int64_t row = i / width;
    const std::int32_t id = ids[row];
    y[i] = id < 0 ? 0.0f : id < rows ? static_cast<float>(Storage::load(table, id * width + (i - row * width))) : NAN;
  }
}

/// f32 rows of a multiple of 4 columns.
__global__ void __launch_bounds__(block_threads)
    gather4_kernel(std::int64_t total, std::int64_t rows, std::int64_t width, const float4* table, const std::int32_t* ids, float4* y) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x;
  if (i >= total) return;
  const std::int64_t row = i / width;
  const std::int32_t id = ids[row];
  if (id >= 0 && id < rows) {
    y[i] = table[id * width + (i - row * width)];
  } else {
    const float value = id < 0 ? 0.0f : NAN;
    y[i] = make_float4(value, value, value, value);
  }
}

constexpr int digit_bits = 8, digits = 1 << digit_bits, sort_warps = block_threads / 32, sort_rounds = 8;
constexpr int sort_tile = sort_warps * 32 * sort_rounds;
constexpr std::uint32_t no_row = 0xFFFFFFFFu;

/// key = id, or all ones for rows that get nothing (these sort to the end); place = i.
__global__ void __launch_bounds__(block_threads) make_pairs_kernel(std::int64_t n, std::int64_t rows, std::int64_t frozen_row,
                                                                   const std::int32_t* ids, std::uint32_t* keys, std::uint32_t* places) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x;
  if (i >= n) return;
  const std::int32_t id = ids[i];
  keys[i] = id < 0 || id >= rows || id == frozen_row ? no_row : static_cast<std::uint32_t>(id);
  places[i] = static_cast<std::uint32_t>(i);
}

/// A tile's pairs by warp: warp w takes sort_rounds x 32 neighbouring pairs, so order within the tile is (warp, round, lane).
__device__ __forceinline__ std::int64_t pair_index(int round) {
  return static_cast<std::int64_t>(blockIdx.x) * sort_tile + (threadIdx.x / 32) * (32 * sort_rounds) + round * 32 + threadIdx.x % 32;
}

/// counts[warp][digit] of the block's tile.
__device__ __forceinline__ void count_digits(std::int64_t n, int shift, const std::uint32_t* keys,
                                             std::uint32_t (&counts)[sort_warps][digits]) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int d = threadIdx.x; d < sort_warps * digits; d += block_threads) (&counts[0][0])[d] = 0;
  __syncthreads();
  for (int round = 0; round < sort_rounds; ++round) {
    const std::int64_t i = pair_index(round);
    const std::uint32_t digit = i < n ? (keys[i] >> shift) & (digits - 1) : digits;
    const std::uint32_t peers = __match_any_sync(0xFFFFFFFFu, digit);
    if (digit < digits && lane == __ffs(static_cast<int>(peers)) - 1) counts[warp][digit] += __popc(peers);
    __syncwarp();
  }
  __syncthreads();
}

/// histogram[digit][block].
__global__ void __launch_bounds__(block_threads)
    histogram_kernel(std::int64_t n, int shift, const std::uint32_t* keys, std::uint32_t* histogram) {
  __shared__ std::uint32_t counts[sort_warps][digits];
  count_digits(n, shift, keys, counts);
  std::uint32_t sum = 0;
#pragma unroll
  for (int w = 0; w < sort_warps; ++w) sum += counts[w][threadIdx.x];
  histogram[static_cast<std::int64_t>(threadIdx.x) * gridDim.x + blockIdx.x] = sum;
}

/// Exclusive prefix sum in place, by one block: each thread sums a run, the runs are scanned, each thread writes its run.
__global__ void __launch_bounds__(1024) scan_kernel(std::int64_t n, std::uint32_t* values) {
  __shared__ std::uint32_t warp_sums[32];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const std::int64_t run = (n + 1023) / 1024, begin = threadIdx.x * run, end = begin + run < n ? begin + run : n;
  std::uint32_t sum = 0;
  for (std::int64_t i = begin; i < end; ++i) sum += values[i];
  std::uint32_t inclusive = sum;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const std::uint32_t left = __shfl_up_sync(0xFFFFFFFFu, inclusive, offset);
    if (lane >= offset) inclusive += left;
  }
  if (lane == 31) warp_sums[warp] = inclusive;
  __syncthreads();
  std::uint32_t before = inclusive - sum;
  for (int w = 0; w < warp; ++w) before += warp_sums[w];
  for (std::int64_t i = begin; i < end; ++i) {
    const std::uint32_t value = values[i];
    values[i] = before;
    before += value;
  }
}

/// Moves each pair to its place: pairs of lower digits, then pairs of the same digit that stand before it.
__global__ void __launch_bounds__(block_threads)
    scatter_kernel(std::int64_t n, int shift, const std::uint32_t* keys, const std::uint32_t* places, const std::uint32_t* offsets,
                   std::uint32_t* sorted_keys, std::uint32_t* sorted_places) {
  __shared__ std::uint32_t next[sort_warps][digits];
  count_digits(n, shift, keys, next);
  std::uint32_t before = offsets[static_cast<std::int64_t>(threadIdx.x) * gridDim.x + blockIdx.x];
#pragma unroll
  for (int w = 0; w < sort_warps; ++w) {
    const std::uint32_t count = next[w][threadIdx.x];
    next[w][threadIdx.x] = before;
    before += count;
  }
  __syncthreads();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int round = 0; round < sort_rounds; ++round) {
    const std::int64_t i = pair_index(round);
    const std::uint32_t key = i < n ? keys[i] : 0, digit = i < n ? (key >> shift) & (digits - 1) : digits;
    const std::uint32_t peers = __match_any_sync(0xFFFFFFFFu, digit);
    std::uint32_t to = 0;
    if (digit < digits) to = next[warp][digit] + __popc(peers & ((1u << lane) - 1u));
    __syncwarp();
    if (digit < digits && lane == __ffs(static_cast<int>(peers)) - 1) next[warp][digit] += __popc(peers);
    __syncwarp();
    if (digit < digits) {
      sorted_keys[to] = key;
      sorted_places[to] = places[i];
    }
  }
}

/// A warp at the first pair of each id adds the rows of all its pairs, in order; Vector: 4 columns a lane.
template <bool Vector>
__global__ void __launch_bounds__(block_threads) add_rows_kernel(std::int64_t n, std::int64_t width, const std::uint32_t* keys,
                                                                 const std::uint32_t* places, const float* dy, float* dtable) {
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * (block_threads / 32) + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (first >= n) return;
  const std::uint32_t key = keys[first];
  if (key == no_row || (first > 0 && keys[first - 1] == key)) return;
  float* row = dtable + key * width;
  constexpr int step = Vector ? 4 : 1;
  for (std::int64_t c = lane * step; c < width; c += 32 * step) {
    if (Vector) {
      float4 sum = *reinterpret_cast<const float4*>(row + c);
      for (std::int64_t i = first; i < n && keys[i] == key; ++i) {
        const float4 add = *reinterpret_cast<const float4*>(dy + places[i] * width + c);
        sum = make_float4(sum.x + add.x, sum.y + add.y, sum.z + add.z, sum.w + add.w);
      }
      *reinterpret_cast<float4*>(row + c) = sum;
    } else {
      float sum = row[c];
      for (std::int64_t i = first; i < n && keys[i] == key; ++i) sum += dy[places[i] * width + c];
      row[c] = sum;
    }
  }
}

struct SortPlan {
  std::int64_t n = 0, blocks = 0;
  int passes = 0;
  std::size_t bytes() const { return static_cast<std::size_t>(4 * n + blocks * digits) * sizeof(std::uint32_t); }
};

/// One more value than rows (the keys of all ones, seen through the passes' digits, must exceed every id).
SortPlan plan_sort(const GatherBackward& args) {
  SortPlan plan;
  plan.n = args.ids.size();
  plan.blocks = ceil_div(plan.n, sort_tile);
  int bits = 1;
  while ((std::int64_t{1} << bits) < args.dtable.rows() + 1) ++bits;
  plan.passes = static_cast<int>(ceil_div(bits, digit_bits));
  return plan;
}

template <bool Vector>
__global__ void __launch_bounds__(block_threads)
    copy_columns_kernel(std::int64_t total, std::int64_t columns, std::int64_t x_width, std::int64_t x_column, std::int64_t y_width,
                        std::int64_t y_column, bool accumulate, const float* x, float* y) {
  const std::int64_t i = (static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x) * (Vector ? 4 : 1);
  if (i >= total) return;
  const std::int64_t row = i / columns, column = i - row * columns;
  const float* from = x + row * x_width + x_column + column;
  float* to = y + row * y_width + y_column + column;
  if (Vector) {
    float4 value = *reinterpret_cast<const float4*>(from);
    if (accumulate) {
      const float4 old = *reinterpret_cast<const float4*>(to);
      value = make_float4(old.x + value.x, old.y + value.y, old.z + value.z, old.w + value.w);
    }
    *reinterpret_cast<float4*>(to) = value;
  } else {
    *to = accumulate ? *to + *from : *from;
  }
}

}  // namespace

template <>
void run(const Gather& args, Stream stream) {
  require_f32("gather", {&args.y});
  require("gather", DType::i32, {&args.ids});
  const std::int64_t width = args.y.width(), total = args.ids.size() * width;
  if (args.table.dtype == DType::f64)
    throw Error("cuda: gather from a table of f64", "f64 exists on the CPU only; choose --device cpu or f32");
  if (total == 0) return;
  if (args.table.dtype == DType::f32 && width % 4 == 0 && aligned16(args.table.data) && aligned16(args.y.data)) {
    gather4_kernel<<<blocks_for(total / 4, block_threads), block_threads, 0, native(stream)>>>(
        total / 4, args.table.rows(), width / 4, args.table.as<float4>(), args.ids.as<std::int32_t>(), args.y.as<float4>());
  } else {
    dispatch_storage("gather", args.table.dtype, [&](auto storage) {
      gather_kernel<decltype(storage)><<<blocks_for(total, 4 * block_threads), block_threads, 0, native(stream)>>>(
          total, args.table.rows(), width, args.table.data, args.ids.as<std::int32_t>(), args.y.as<float>());
    });
  }
  check_launch("gather");
}

template <>
std::size_t scratch_bytes(const GatherBackward& args) {
  return plan_sort(args).bytes();
}

template <>
void run(const GatherBackward& args, Stream stream) {
  require_f32("gather_backward", {&args.dy, &args.dtable});
  require("gather_backward", DType::i32, {&args.ids});
  const SortPlan plan = plan_sort(args);
  require_scratch("gather_backward", args.scratch, plan.bytes());
  const std::int64_t n = plan.n, width = args.dtable.width();
  if (n == 0 || args.dtable.size() == 0) return;
  if (n >= 0xFFFFFFFFll) throw Error("cuda: gather_backward of " + std::to_string(n) + " ids", "split the batch");
  std::uint32_t *keys = args.scratch.as<std::uint32_t>(), *places = keys + n, *other_keys = places + n, *other_places = other_keys + n,
                *histogram = other_places + n;
  make_pairs_kernel<<<blocks_for(n, block_threads), block_threads, 0, native(stream)>>>(n, args.dtable.rows(), args.frozen_row,
                                                                                        args.ids.as<std::int32_t>(), keys, places);
  const unsigned blocks = blocks_for(plan.blocks, 1);
  for (int pass = 0; pass < plan.passes; ++pass) {
    const int shift = pass * digit_bits;
    histogram_kernel<<<blocks, block_threads, 0, native(stream)>>>(n, shift, keys, histogram);
    scan_kernel<<<1, 1024, 0, native(stream)>>>(plan.blocks * digits, histogram);
    scatter_kernel<<<blocks, block_threads, 0, native(stream)>>>(n, shift, keys, places, histogram, other_keys, other_places);
    std::swap(keys, other_keys);
    std::swap(places, other_places);
  }
  const bool vector = width % 4 == 0 && aligned16(args.dy.data) && aligned16(args.dtable.data);
  (vector ? add_rows_kernel<true> : add_rows_kernel<false>)<<<blocks_for(n, block_threads / 32), block_threads, 0, native(stream)>>>(
      n, width, keys, places, args.dy.as<float>(), args.dtable.as<float>());
  check_launch("gather_backward");
}

template <>
void run(const CopyColumns& args, Stream stream) {
  require_f32("copy_columns", {&args.x, &args.y});
  const std::int64_t x_width = args.x.width(), y_width = args.y.width(), total = args.x.rows() * args.columns;
  if (total == 0) return;
  const bool vector = args.columns % 4 == 0 && x_width % 4 == 0 && y_width % 4 == 0 && args.x_column % 4 == 0 && args.y_column % 4 == 0 &&
                      aligned16(args.x.data) && aligned16(args.y.data);
  (vector ? copy_columns_kernel<true>
          : copy_columns_kernel<false>)<<<blocks_for(total, block_threads * (vector ? 4 : 1)), block_threads, 0, native(stream)>>>(
      total, args.columns, x_width, args.x_column, y_width, args.y_column, args.accumulate, args.x.as<float>(), args.y.as<float>());
  check_launch("copy_columns");
}

}  // namespace expctr::cuda
