// Table look-ups. Gather: reads the rows in the table's storage, writes them in y's; bound by memory. Its gradient sorts (id, place) pairs
// by id with a stable radix sort of 8 bits a pass over the bits that ids have (28 bytes a pair and pass), then a warp adds the rows of one
// id in ascending place: an element of dy is read once, a touched element of the table read and written; bound by memory, without atomics
// and with the bits of a loop over i. An id past the table gathers NaN and gets no gradient: a kernel cannot throw.
#include <algorithm>

#include "base/kernels/embedding.h"
#include "cuda/columns.cuh"
#include "cuda/storage.cuh"

namespace expctr::cuda {

namespace {

/// Rows of any storage, an element at a time: block-quantised tables.
template <class Storage, class Y>
__global__ void __launch_bounds__(block_threads)
    gather_elements_kernel(std::int64_t total, std::int64_t rows, std::int64_t width, const void* table, const std::int32_t* ids, Y* y) {
  const std::int64_t start = static_cast<std::int64_t>(blockIdx.x) * (4 * block_threads) + threadIdx.x;
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    const std::int64_t i = start + step * block_threads;
    if (i >= total) return;
    std::int64_t column;
    const std::int64_t row = divide(i, width, column);
    const std::int32_t id = ids[row];
    store_element(y + i, id < 0 ? 0.0f : id < rows ? static_cast<float>(Storage::load(table, id * width + column)) : NAN);
  }
}

/// Rows of f32 or bf16 in packets of N; `across` lanes of a warp share a row, and its id, which one of them reads.
template <int N, class T, class Y>
__global__ void __launch_bounds__(block_threads)
    gather_kernel(std::int64_t count, std::int64_t rows, std::int64_t width, int across, const T* table, const std::int32_t* ids, Y* y) {
  const int lane = static_cast<int>(threadIdx.x) & (across - 1);
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * (block_threads / across) + threadIdx.x / across;
  std::int32_t id = lane == 0 && row < count ? ids[row] : -1;
  id = __shfl_sync(0xFFFFFFFFu, id, 0, across);
  if (row >= count) return;
  const bool known = id >= 0 && id < rows;
  for (std::int64_t column = lane * N; column < width; column += across * N) {
    float values[N];
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] = id < 0 ? 0.0f : NAN;
    if (known) load_packet(table + id * width + column, values);
    store_packet(y + row * width + column, values);
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

constexpr int pairs_per_warp = 8;

/// A warp looks at a few neighbouring pairs; where an id begins it adds the rows of all its pairs, in order, N columns a lane.
template <int N, class S>
__global__ void __launch_bounds__(block_threads) add_rows_kernel(std::int64_t n, std::int64_t width, const std::uint32_t* keys,
                                                                 const std::uint32_t* places, const S* dy, float* dtable) {
  constexpr unsigned all = 0xFFFFFFFFu;
  const std::int64_t window = (static_cast<std::int64_t>(blockIdx.x) * (block_threads / 32) + threadIdx.x / 32) * pairs_per_warp;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (window >= n) return;
  // Lane i holds pair window + i, the lane behind the last pair's the one that comes next.
  const std::int64_t mine = window + lane;
  const bool here = lane <= pairs_per_warp && mine < n;
  const std::uint32_t key = here ? keys[mine] : no_row, place = here ? places[mine] : 0;
  std::uint32_t before = __shfl_up_sync(all, key, 1);
  if (lane == 0) before = window > 0 ? keys[window - 1] : no_row;
  unsigned heads = __ballot_sync(all, here && lane < pairs_per_warp && key != no_row && key != before);
  while (heads != 0) {
    const int head = __ffs(static_cast<int>(heads)) - 1;
    heads &= heads - 1;
    const std::uint32_t id = __shfl_sync(all, key, head);
    // Pairs of the id that the lanes hold, and those that follow in memory.
    const unsigned same = __ballot_sync(all, here && key == id);
    const int held = __popc(same);
    std::int64_t end = window + head + held;
    if (head + held > pairs_per_warp)
      while (end < n && keys[end] == id) ++end;
    float* row = dtable + static_cast<std::int64_t>(id) * width;
    for (std::int64_t start = 0; start < width; start += 32 * N) {
      const std::int64_t column = start + lane * N;
      const bool active = column < width;
      float sum[N] = {};
      if (active) load_packet(row + column, sum);
      for (std::int64_t i = window + head; i < end; ++i) {
        const std::int64_t at = i - window;
        const std::uint32_t from = at <= pairs_per_warp ? __shfl_sync(all, place, static_cast<int>(at)) : places[i];
        float value[N] = {};
        if (active) load_packet(dy + static_cast<std::int64_t>(from) * width + column, value);
#pragma unroll
        for (int k = 0; k < N; ++k) sum[k] += value[k];
      }
      if (active) store_packet(row + column, sum);
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

template <int N, bool Accumulate, class S>
__global__ void __launch_bounds__(block_threads)
    copy_columns_kernel(std::int64_t packets, std::int64_t columns, std::int64_t x_width, std::int64_t x_column, std::int64_t y_width,
                        std::int64_t y_column, const S* x, S* y) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x;
  if (i >= packets) return;
  std::int64_t packet;
  const std::int64_t row = divide(i, columns / N, packet);
  float value[N];
  load_packet(x + row * x_width + x_column + packet * N, value);
  S* to = y + row * y_width + y_column + packet * N;
  if constexpr (Accumulate) {
    float old[N];
    load_packet(to, old);
#pragma unroll
    for (int k = 0; k < N; ++k) value[k] += old[k];
  }
  store_packet(to, value);
}

}  // namespace

template <>
void run(const Gather& args, Stream stream) {
  require("gather", DType::i32, {&args.ids});
  const std::int64_t width = args.y.width(), count = args.ids.size(), total = count * width, rows = args.table.rows();
  if (args.table.dtype == DType::f64)
    throw Error("cuda: gather from a table of f64", "f64 exists on the CPU only; choose --device cpu or f32");
  const DType dtype = require_activations("gather", {&args.y});
  if (total == 0) return;
  const std::int32_t* ids = args.ids.as<std::int32_t>();
  dispatch_activation(dtype, [&](auto storage) {
    using Y = decltype(storage);
    Y* y = args.y.as<Y>();
    if (args.table.dtype != DType::f32 && args.table.dtype != DType::bf16)
      return dispatch_storage("gather", args.table.dtype, [&](auto table) {
        gather_elements_kernel<decltype(table)>
            <<<blocks_for(total, 4 * block_threads), block_threads, 0, native(stream)>>>(total, rows, width, args.table.data, ids, y);
      });
    dispatch_activation(args.table.dtype, [&](auto table_storage) {
      using T = decltype(table_storage);
      const auto launch = [&](auto packet) {
        constexpr int N = decltype(packet)::value;
        const int across = packets_across(width, N);
        gather_kernel<N><<<blocks_for(count, block_threads / across), block_threads, 0, native(stream)>>>(count, rows, width, across,
                                                                                                          args.table.as<const T>(), ids, y);
      };
      constexpr int packet = common_packet<T, Y>;
      if (packets_fit<packet>(width, {&args.table, &args.y}))
        launch(std::integral_constant<int, packet>{});
      else
        launch(std::integral_constant<int, 1>{});
    });
  });
  check_launch("gather");
}

template <>
std::size_t scratch_bytes(const GatherBackward& args) {
  return plan_sort(args).bytes();
}

template <>
void run(const GatherBackward& args, Stream stream) {
  require_f32("gather_backward", {&args.dtable});
  const DType dtype = require_activations("gather_backward", {&args.dy});
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
  dispatch_activation(dtype, [&](auto storage) {
    using S = decltype(storage);
    const auto launch = [&](auto packet) {
      add_rows_kernel<decltype(packet)::value><<<blocks_for(n, block_threads / 32 * pairs_per_warp), block_threads, 0, native(stream)>>>(
          n, width, keys, places, args.dy.as<const S>(), args.dtable.as<float>());
    };
    if (packets_fit<4>(width, {&args.dy, &args.dtable}))
      launch(std::integral_constant<int, 4>{});
    else
      launch(std::integral_constant<int, 1>{});
  });
  check_launch("gather_backward");
}

template <>
void run(const CopyColumns& args, Stream stream) {
  const DType dtype = require_activations("copy_columns", {&args.x, &args.y});
  const std::int64_t x_width = args.x.width(), y_width = args.y.width(), total = args.x.rows() * args.columns;
  if (total == 0) return;
  dispatch_activation(dtype, [&](auto storage) {
    using S = decltype(storage);
    const auto launch = [&](auto packet) {
      constexpr int N = decltype(packet)::value;
      const auto kernel = args.accumulate ? copy_columns_kernel<N, true, S> : copy_columns_kernel<N, false, S>;
      kernel<<<blocks_for(total / N, block_threads), block_threads, 0, native(stream)>>>(
          total / N, args.columns, x_width, args.x_column, y_width, args.y_column, args.x.as<const S>(), args.y.as<S>());
    };
    constexpr int packet = packet_size<S>;
    const bool whole = args.columns % packet == 0 && x_width % packet == 0 && y_width % packet == 0 && args.x_column % packet == 0 &&
                       args.y_column % packet == 0;
    if (whole && aligned16(args.x.data) && aligned16(args.y.data))
      launch(std::integral_constant<int, packet>{});
    else
      launch(std::integral_constant<int, 1>{});
  });
  check_launch("copy_columns");
}

}  // namespace expctr::cuda
