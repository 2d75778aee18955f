// Stable radix sort of (key, place) pairs, 8 bits a pass: histogram of tiles, scan, scatter. Reads the pairs' keys twice and the places
// once, writes both: 20 bytes a pair and pass, bound by memory. No atomics; equal keys keep their order.
#pragma once

#include "cuda/launch.cuh"

namespace expctr::cuda {

constexpr int digit_bits = 8, digits = 1 << digit_bits, sort_warps = block_threads / 32, sort_rounds = 8;
constexpr int sort_tile = sort_warps * 32 * sort_rounds;

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
static __global__ void __launch_bounds__(block_threads)
    histogram_kernel(std::int64_t n, int shift, const std::uint32_t* keys, std::uint32_t* histogram) {
  __shared__ std::uint32_t counts[sort_warps][digits];
  count_digits(n, shift, keys, counts);
  std::uint32_t sum = 0;
#pragma unroll
  for (int w = 0; w < sort_warps; ++w) sum += counts[w][threadIdx.x];
  histogram[static_cast<std::int64_t>(threadIdx.x) * gridDim.x + blockIdx.x] = sum;
}

/// Exclusive prefix sum of values[0 .. n - 1] in place by one block of 1024 threads: each thread sums a run, the runs are scanned, each
/// thread writes its run. Returns the total to the last thread.
__device__ __forceinline__ std::uint32_t scan_by_block(std::int64_t n, std::uint32_t* values) {
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
  return before;
}

static __global__ void __launch_bounds__(1024) scan_kernel(std::int64_t n, std::uint32_t* values) { scan_by_block(n, values); }

/// Moves each pair to its place: pairs of lower digits, then pairs of the same digit that stand before it.
static __global__ void __launch_bounds__(block_threads)
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

/// Memory of a sort of n pairs beside the four arrays, in 32-bit words.
inline std::int64_t histogram_words(std::int64_t n) { return ceil_div(n, sort_tile) * digits; }

/// Passes for keys up to `largest`.
inline int sort_passes(std::uint64_t largest) {
  int bits = 1;
  while ((largest >> bits) != 0) ++bits;
  return static_cast<int>(ceil_div(bits, digit_bits));
}

/// Sorts n pairs by key, low `passes` digits. After an even number of passes the result stands in (keys, places), else in the other two.
inline void sort_pairs(std::int64_t n, int passes, std::uint32_t* keys, std::uint32_t* places, std::uint32_t* other_keys,
                       std::uint32_t* other_places, std::uint32_t* histogram, Stream stream) {
  const unsigned blocks = blocks_for(n, sort_tile);
  for (int pass = 0; pass < passes; ++pass) {
    const int shift = pass * digit_bits;
    histogram_kernel<<<blocks, block_threads, 0, native(stream)>>>(n, shift, keys, histogram);
    scan_kernel<<<1, 1024, 0, native(stream)>>>(histogram_words(n), histogram);
    scatter_kernel<<<blocks, block_threads, 0, native(stream)>>>(n, shift, keys, places, histogram, other_keys, other_places);
    std::swap(keys, other_keys);
    std::swap(places, other_places);
  }
}

}  // namespace expctr::cuda
