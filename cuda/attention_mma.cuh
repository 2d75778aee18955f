// Parts of the attention kernels on tensor cores: tiles of bf16 rows in shared memory, their copies (cp.async) and fragments (ldmatrix),
// and products of one warp, 16 rows at a time (mma.sync.m16n8k16, float32 accumulators). A tile is [rows, D]; its 16-byte chunks are
// exchanged within a row so that eight rows of one chunk, which ldmatrix reads, and eight chunks of consecutive rows, which copies write,
// lie in different banks.
#pragma once

#include "cuda/attention_tile.cuh"

namespace expctr::cuda {

constexpr int mma_rows = 64, mma_warps = mma_rows / 16, mma_threads = 32 * mma_warps;

template <int D>
__host__ __device__ constexpr std::uint32_t tile_bytes(int rows) {
  return static_cast<std::uint32_t>(rows) * D * 2;
}

/// Elements before a row: one instruction, where a product of 64-bit numbers takes four.
__device__ __forceinline__ std::int64_t product(int row, int stride) { return static_cast<std::int64_t>(row) * stride; }

/// Byte offset of a chunk of 8 columns.
template <int D>
__device__ __forceinline__ std::uint32_t chunk_offset(int row, int chunk) {
  const int exchange = D % 64 == 0 ? row % 8 : row / 2 % 4;
  return static_cast<std::uint32_t>(row * (D / 8) + (chunk ^ exchange)) * 16;
}

/// From a lane's address in the first 16 rows and 16 columns of a tile to its address in block (rows, columns) of 16 x 16: one exclusive
/// or, and a constant. The tile starts at a multiple of 128 bytes.
template <int D>
__device__ __forceinline__ std::uint32_t block_address(std::uint32_t lane_address, int rows, int columns) {
  constexpr int exchanged = D % 64 == 0 ? 3 : 1;
  return (lane_address ^ static_cast<std::uint32_t>(32 * (columns & exchanged))) +
         static_cast<std::uint32_t>(32 * (columns & ~exchanged) + rows * 16 * D * 2);
}

__device__ __forceinline__ std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

/// Copies 16 bytes to shared memory; bytes = 0 writes zeros and reads nothing.
__device__ __forceinline__ void copy_16(std::uint32_t to, const void* from, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
__device__ __forceinline__ void copy_4(std::uint32_t to, const void* from, int bytes) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
__device__ __forceinline__ void close_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
__device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_group 0;" ::: "memory"); }

/// Starts copying Rows rows, row r from row_of(r), of which the first `rows` (at least 1) exist and have head_dim columns; the others
/// become zero.
template <int D, int Rows, class RowOf>
__device__ __forceinline__ void copy_rows(std::uint32_t tile, int rows, int head_dim, RowOf row_of) {
  constexpr int chunks = D / 8;
  static_assert(Rows * chunks % mma_threads == 0);
  const int thread = static_cast<int>(threadIdx.x);
#pragma unroll
  for (int i = 0; i < Rows * chunks / mma_threads; ++i) {
    // The second form says that the chunk is the same for every i.
    constexpr bool whole = mma_threads % chunks == 0;
    const int at = thread + i * mma_threads, row = whole ? thread / chunks + i * (mma_threads / chunks) : at / chunks,
              chunk = (whole ? thread : at) % chunks;
    const bool inside = row < rows && chunk * 8 < head_dim;
    copy_16(tile + chunk_offset<D>(row, chunk), row_of(min(row, rows - 1)) + (chunk * 8 < head_dim ? chunk * 8 : 0), inside ? 16 : 0);
  }
}

struct Fragment {
  std::uint32_t x[4];
};

__device__ __forceinline__ Fragment load_matrices(std::uint32_t address) {
  Fragment f;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(f.x[0]), "=r"(f.x[1]), "=r"(f.x[2]), "=r"(f.x[3])
               : "r"(address)
               : "memory");
  return f;
}
__device__ __forceinline__ Fragment load_matrices_transposed(std::uint32_t address) {
  Fragment f;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(f.x[0]), "=r"(f.x[1]), "=r"(f.x[2]), "=r"(f.x[3])
               : "r"(address)
               : "memory");
  return f;
}

/// c[16, 8] += a[16, 16] b[16, 8].
__device__ __forceinline__ void multiply_add(float (&c)[4], const Fragment& a, std::uint32_t b0, std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a.x[0]), "r"(a.x[1]), "r"(a.x[2]), "r"(a.x[3]), "r"(b0), "r"(b1));
}

/// Two floats as bf16, the first in the low half.
__device__ __forceinline__ std::uint32_t pack(float low, float high) {
  std::uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// Fragment of the left factor: rows 16 block .. + 15, columns 16 step .. + 15.
template <int D>
__device__ __forceinline__ Fragment left_fragment(std::uint32_t tile, int block, int step, int lane) {
  return load_matrices(block_address<D>(tile + chunk_offset<D>(lane % 16, lane / 16), block, step));
}

template <int D>
__device__ __forceinline__ void left_fragments(std::uint32_t tile, int block, int lane, Fragment (&fragments)[D / 16]) {
#pragma unroll
  for (int step = 0; step < D / 16; ++step) fragments[step] = left_fragment<D>(tile, block, step, lane);
}

/// c[16, Columns] = a[16, D] tile[Columns, D]^T; left(step) gives the fragments of a.
template <int D, int Columns, class Left>
__device__ __forceinline__ void row_products_mma(float (&c)[Columns / 8][4], std::uint32_t tile, int lane, Left left) {
#pragma unroll
  for (int n = 0; n < Columns / 8; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) c[n][i] = 0;
  const std::uint32_t start = tile + chunk_offset<D>(lane % 8 + lane / 16 * 8, lane / 8 % 2);
#pragma unroll
  for (int step = 0; step < D / 16; ++step) {
    const Fragment a = left(step);
#pragma unroll
    for (int n = 0; n < Columns / 16; ++n) {
      const Fragment b = load_matrices(block_address<D>(start, n, step));
      multiply_add(c[2 * n], a, b.x[0], b.x[1]);
      multiply_add(c[2 * n + 1], a, b.x[2], b.x[3]);
    }
  }
}

/// c[16, D] += weights[16, Rows] tile[Rows, D].
template <int D, int Rows>
__device__ __forceinline__ void add_weighted_rows_mma(float (&c)[D / 8][4], const Fragment (&weights)[Rows / 16], std::uint32_t tile,
                                                      int lane) {
  const std::uint32_t start = tile + chunk_offset<D>(lane % 16, lane / 16);
#pragma unroll
  for (int step = 0; step < Rows / 16; ++step)
#pragma unroll
    for (int n = 0; n < D / 16; ++n) {
      const Fragment b = load_matrices_transposed(block_address<D>(start, step, n));
      multiply_add(c[2 * n], weights[step], b.x[0], b.x[1]);
      multiply_add(c[2 * n + 1], weights[step], b.x[2], b.x[3]);
    }
}

/// Accumulators [16, Columns] rounded to bf16, as the left factor of the next product.
template <int Columns>
__device__ __forceinline__ void as_left_factor(const float (&c)[Columns / 8][4], Fragment (&fragments)[Columns / 16]) {
#pragma unroll
  for (int step = 0; step < Columns / 16; ++step)
    fragments[step] = {{pack(c[2 * step][0], c[2 * step][1]), pack(c[2 * step][2], c[2 * step][3]),
                        pack(c[2 * step + 1][0], c[2 * step + 1][1]), pack(c[2 * step + 1][2], c[2 * step + 1][3])}};
}

/// Four lanes hold two neighbouring columns each of four chunks: v[i] of chunk i. Afterwards lane j of the four has chunk j whole, v[i] its
/// columns 2 i and 2 i + 1.
__device__ __forceinline__ void gather_chunk(float2 (&v)[4], int lane) {
#pragma unroll
  for (int bit = 1; bit <= 2; bit *= 2) {
    const bool upper = (lane & bit) != 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if ((i & bit) != 0) continue;
      const float2 sent = upper ? v[i] : v[i | bit];
      const float2 got = {__shfl_xor_sync(0xFFFFFFFFu, sent.x, bit), __shfl_xor_sync(0xFFFFFFFFu, sent.y, bit)};
      if (upper)
        v[i] = got;
      else
        v[i | bit] = got;
    }
  }
}

/// Writes a warp's accumulators [16, D] times factor(half) as bf16, row r to row_of(r), 16 bytes a lane, added to what is there if Add.
/// half = 0: rows 0..7, 1: rows 8..15; rows from `rows` on are left out.
template <int D, bool Add, class RowOf, class Factor>
__device__ __forceinline__ void write_rows(const float (&c)[D / 8][4], int rows, int head_dim, int lane, RowOf row_of, Factor factor) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = lane / 4 + 8 * half;
    const float scale = factor(half);
#pragma unroll
    for (int n = 0; n < D / 8; n += 4) {
      float2 v[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) v[i] = {c[n + i][2 * half] * scale, c[n + i][2 * half + 1] * scale};
      gather_chunk(v, lane);
      const int column = (n + lane % 4) * 8;
      if (row >= rows || column >= head_dim) continue;
      uint4* to = reinterpret_cast<uint4*>(row_of(row) + column);
      if constexpr (Add) {
        const uint4 old = *to;
        const std::uint32_t pairs[4] = {old.x, old.y, old.z, old.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          v[i].x += float_of_bits(pairs[i] << 16);
          v[i].y += float_of_bits(pairs[i] & 0xFFFF0000u);
        }
      }
      *to = make_uint4(pack(v[0].x, v[0].y), pack(v[1].x, v[1].y), pack(v[2].x, v[2].y), pack(v[3].x, v[3].y));
    }
  }
}

}  // namespace expctr::cuda
