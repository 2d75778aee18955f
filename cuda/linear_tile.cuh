// The main loop of the tiled products: a tile of 128 x 128 of a w^T (or a w) in registers of 256 threads, the reduction in steps of 32.
// Four stages of cp.async bring the rows of a (bf16) and the raw planes of w; while the tensor cores work on step s, step s + 1 is
// dequantised into bf16 in shared memory, double-buffered, one barrier a step. Eight warps of 64 x 32: 8 + 4 ldmatrix.x4 for 32 mma
// a step. Rows in shared memory are swizzled in chunks of 16 bytes so that neither ldmatrix nor the stores of the dequantised chunks meet
// in a bank.
#pragma once

#include "cuda/linear_format.cuh"
#include "cuda/linear_mma.cuh"

namespace expctr::cuda {

constexpr int tile_threads = 256, tile_rows = 128, tile_columns = 128, tile_depth = 32, tile_stages = 4;

/// threadIdx.x, read anew: what is computed from it is not kept in registers from one product to the next.
__device__ __forceinline__ int thread_of_block() {
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
}

struct LeftOperand {
  const std::uint16_t* data;
  std::int64_t stride;  ///< elements, a multiple of 8
  int rows, depth;      ///< depth: extent of the reduction
};

/// [128][32] bf16 as 64-byte rows: address of 16-byte chunk `chunk` of a row.
__device__ __forceinline__ int depth_chunk(int row, int chunk) { return row * 64 + ((chunk ^ ((row >> 1) & 3)) << 4); }
/// [32][128] bf16 as 256-byte rows.
__device__ __forceinline__ int column_chunk(int row, int chunk) {
  return row * 256 + ((chunk ^ (((row & 1) << 2) | ((row >> 1) & 3))) << 4);
}

/// A bf16 weight [rows, columns]: tiles need no dequantising.
template <bool Transposed>
struct DenseTiles {
  static constexpr bool dense = true;
  static constexpr int stage_bytes = 128 * 64, tail_bytes = 0;
  const std::uint16_t* data;
  std::int64_t stride;
  int rows, columns;  ///< of the slice of the weight; columns: with padding, a multiple of 8

  __device__ __forceinline__ void load(std::uint32_t stage, std::uint32_t, int step, int n0, int thread) const {
#pragma unroll
    for (int i = thread; i < 512; i += tile_threads) {
      const int row = Transposed ? i / 16 : i / 4, chunk = Transposed ? i % 16 : i % 4;
      const int from_row = Transposed ? step * tile_depth + row : n0 + row, from_column = (Transposed ? n0 : step * tile_depth) + chunk * 8;
      const bool valid = from_row < rows && from_column < columns;
      copy_async16(stage + (Transposed ? column_chunk(row, chunk) : depth_chunk(row, chunk)),
                   data + (valid ? from_row * stride + from_column : 0), valid);
    }
  }
};

/// A block-quantised weight. A stage has 128 units: of 128 rows one unit each, transposed of 32 rows four units each.
template <class F, bool Transposed>
struct QuantisedTiles {
  static constexpr bool dense = false;
  static constexpr int rows_of_stage = Transposed ? 32 : 128, supers_in_stage = Transposed ? 32 * F::super_bytes : 0;
  static constexpr int half_bytes = 128 * 16 + 64, high_at = F::code_bytes == 32 ? 2 * half_bytes : 128 * 16,
                       scales_at = high_at + 128 * F::high_bytes, supers_at = scales_at + 128 * F::scale_bytes,
                       stage_bytes = supers_at + supers_in_stage;
  /// Eight-bit codes: the halves of the units 64 bytes apart in the banks, so that the two halves of four units are read at once.
  /// Not transposed: supers of 128 rows serve eight steps; two slots after the stages.
  static constexpr int tail_bytes = Transposed ? 0 : 2 * 128 * F::super_bytes;
  Planes planes;
  int first;  ///< row of the plane where the slice starts

  /// 16-byte pieces of a plane with `Bytes` a row; plane row `row0` on, `units` from `unit0` on.
  template <int Bytes>
  __device__ __forceinline__ void load_plane(std::uint32_t to, const unsigned char* plane, int unit0, int units, int row0, int rows,
                                             int unit_limit, int thread) const {
    const int pieces = rows * Bytes / 16;  // of a unit
    for (int i = thread; i < units * pieces; i += tile_threads) {
      const int unit = i / pieces, at = (i - unit * pieces) * 16;
      const bool valid = unit0 + unit < unit_limit && row0 + at / Bytes < planes.rows;
      copy_async16(to + i * 16, plane + (valid ? (static_cast<std::int64_t>(unit0 + unit) * planes.rows + row0) * Bytes + at : 0), valid);
    }
  }

  __device__ __forceinline__ void load(std::uint32_t stage, std::uint32_t tail, int step, int n0, int thread) const {
    constexpr int units = Transposed ? 4 : 1;
    const int unit0 = Transposed ? n0 / unit_elements : step, row0 = first + (Transposed ? step * tile_depth : n0),
              other = tile_threads - 1 - thread;  // the codes do not need all threads
    if constexpr (F::code_bytes == 32) {
      const int half = thread / 128, i = thread % 128, unit = unit0 + i / rows_of_stage, row = row0 + i % rows_of_stage;
      const bool valid = unit < planes.units && row < planes.rows;
      copy_async16(stage + half * half_bytes + i * 16, planes.codes + (valid ? codes_at<F>(unit, half, planes.rows, row) * 16 : 0), valid);
    } else {
      load_plane<16>(stage, planes.codes, unit0, units, row0, rows_of_stage, planes.units, thread);
    }
    if constexpr (F::high_bytes != 0)
      load_plane<F::high_bytes>(stage + high_at, planes.high, unit0, units, row0, rows_of_stage, planes.units, other);
    load_plane<F::scale_bytes>(stage + scales_at, planes.scales, unit0, units, row0, rows_of_stage, planes.units, other);
    if constexpr (F::super_bytes != 0) {
      const int super0 = unit0 / 8, super_limit = (planes.units + 7) / 8;
      if constexpr (Transposed)
        load_plane<4>(stage + supers_at, planes.supers, super0, 1, row0, rows_of_stage, super_limit, other);
      else if (step % 8 == 0)
        load_plane<4>(tail + (super0 & 1) * 512, planes.supers, super0, 1, row0, rows_of_stage, super_limit, other);
    }
  }

  /// The stage's elements as bf16 into `to`; a thread two chunks of eight.
  __device__ __forceinline__ void dequantise(const unsigned char* stage, const unsigned char* tail, int step, unsigned char* to,
                                             int thread) const {
#pragma unroll
    for (int i = thread; i < 512; i += tile_threads) {
      const int unit = i >> 2, chunk = i & 3, row = unit % rows_of_stage, slot = (unit - row) + static_cast<int>(side_slot(row));
      uint2 codes = make_uint2(0, 0);
      if constexpr (F::code_bytes == 32)
        codes = *reinterpret_cast<const uint2*>(stage + chunk / 2 * half_bytes + unit * 16 + chunk % 2 * 8);
      else
        codes.x = reinterpret_cast<const std::uint32_t*>(stage)[i];
      std::uint32_t high = 0, scales, super = 0;
      if constexpr (F::high_bits == 1) high = reinterpret_cast<const std::uint32_t*>(stage + high_at)[slot];
      if constexpr (F::high_bits == 2) high = reinterpret_cast<const std::uint32_t*>(stage + high_at)[slot * 2 + chunk / 2];
      if constexpr (F::scale_bytes == 2)
        scales = reinterpret_cast<const std::uint16_t*>(stage + scales_at)[slot];
      else
        scales = reinterpret_cast<const std::uint32_t*>(stage + scales_at)[slot];
      if constexpr (F::super_bytes != 0) {
        const unsigned char* supers = Transposed ? stage + supers_at : tail + ((step / 8) & 1) * 512;
        super = reinterpret_cast<const std::uint32_t*>(supers)[side_slot(row)];
      }
      const ScaleOffset s = scale_of<F>(scales, super, chunk);
      std::uint32_t words[4];
#pragma unroll
      for (int pair = 0; pair < 4; ++pair) {
        const float2 v = pair_values<F>(codes, high, s, chunk, pair);
        words[pair] = bf16_pair(v.x, v.y);
      }
      const int at = Transposed ? column_chunk(row, unit / rows_of_stage * 4 + chunk) : depth_chunk(row, chunk);
      *reinterpret_cast<uint4*>(to + at) = make_uint4(words[0], words[1], words[2], words[3]);
    }
  }
};

/// Shared memory of the main loop: stages of a, stages of w, the tail of w, two dequantised tiles.
template <class Tiles>
constexpr int loop_bytes = tile_stages*(128 * 64 + Tiles::stage_bytes) + Tiles::tail_bytes + (Tiles::dense ? 0 : 2 * 128 * 64);

/// Sums of a warp's 64 x 32: m-tile, n-tile, fragment.
using TileSums = float[4][4][4];

/// sums += the tile at (m0, n0). Ends with all copies landed and a barrier passed: shared memory is free.
template <bool Transposed, class Tiles>
__device__ __forceinline__ void accumulate_tile(const LeftOperand& a, const Tiles& w, int m0, int n0, unsigned char* shared,
                                                TileSums& sums) {
  const int thread = thread_of_block(), lane = thread % 32, warp_m = thread / 32 / 4 * 64, warp_n = thread / 32 % 4 * 32;
  unsigned char *a_stages = shared, *w_stages = shared + tile_stages * 128 * 64, *tail = w_stages + tile_stages * Tiles::stage_bytes,
                *ready = tail + Tiles::tail_bytes;
  const std::uint32_t a_address = shared_address(a_stages), w_address = shared_address(w_stages), tail_address = shared_address(tail),
                      ready_address = shared_address(ready);
  const int steps = (a.depth + tile_depth - 1) / tile_depth;
  const auto load = [&](int step) {
    if (step < steps) {
      const int slot = step % tile_stages;
#pragma unroll
      for (int i = thread; i < 512; i += tile_threads) {
        const int row = i / 4, chunk = i % 4, column = step * tile_depth + chunk * 8;
        const bool valid = m0 + row < a.rows && column < a.depth;
        copy_async16(a_address + slot * (128 * 64) + depth_chunk(row, chunk), a.data + (valid ? (m0 + row) * a.stride + column : 0), valid);
      }
      w.load(w_address + slot * Tiles::stage_bytes, tail_address, step, n0, thread);
    }
    commit_copies();
  };
#pragma unroll
  for (int step = 0; step < tile_stages - 1; ++step) load(step);
  if constexpr (!Tiles::dense) {
    wait_copies<tile_stages - 2>();
    __syncthreads();
    w.dequantise(w_stages, tail, 0, ready, thread);
  }
  // Rows and chunks that this lane names to ldmatrix.
  const int a_row = warp_m + lane % 16, a_half = lane / 16;
  const int w_row = Transposed ? lane % 16 : warp_n + lane % 8 + lane / 16 * 8, w_half = Transposed ? warp_n / 8 + lane / 16 : lane / 8 % 2;
  for (int step = 0; step < steps; ++step) {
    wait_copies<tile_stages - 3>();
    __syncthreads();
    load(step + tile_stages - 1);
    if constexpr (!Tiles::dense) {
      if (step + 1 < steps)
        w.dequantise(w_stages + (step + 1) % tile_stages * Tiles::stage_bytes, tail, step + 1, ready + ((step + 1) & 1) * (128 * 64),
                     thread);
    }
    const std::uint32_t a_tile = a_address + step % tile_stages * (128 * 64),
                        w_tile =
                            Tiles::dense ? w_address + step % tile_stages * Tiles::stage_bytes : ready_address + (step & 1) * (128 * 64);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      std::uint32_t a_parts[4][4], w_parts[2][4];
#pragma unroll
      for (int i = 0; i < 4; ++i) load_matrices(a_parts[i], a_tile + depth_chunk(a_row + i * 16, half * 2 + a_half));
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        if constexpr (Transposed)
          load_matrices_transposed(w_parts[j], w_tile + column_chunk(w_row + half * 16, w_half + j * 2));
        else
          load_matrices(w_parts[j], w_tile + depth_chunk(w_row + j * 16, half * 2 + w_half));
      }
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) multiply_add(sums[i][j], a_parts[i], w_parts[j / 2][j % 2 * 2], w_parts[j / 2][j % 2 * 2 + 1]);
    }
  }
  wait_copies<0>();
  __syncthreads();
}

}  // namespace expctr::cuda
