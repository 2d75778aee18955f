// What the attention kernels share: tiles of 32 tokens in shared memory, and which tile of which sequence a block has.
#pragma once

#include "base/kernels/attention.h"
#include "cuda/launch.cuh"

namespace expctr::cuda {

constexpr int attention_threads = 128, attention_warps = attention_threads / 32, rows_per_warp = attention_block / attention_warps;
constexpr int most_head_dim = 256;

/// Blocks an SM must be able to hold: left to itself the compiler saves registers until it spills.
template <int D>
constexpr int blocks_at_least = D <= 128 ? 3 : 1;

/// Sequence and first token (within it) of tile `index`. Sequence s owns the indices from offsets[s] / 32 + s on: enough for its tiles
/// whatever its place, and found by bisection, without a prefix sum over sequences. False: the index belongs to no tile.
__device__ __forceinline__ bool find_tile(const std::int32_t* offsets, int sequences, std::int64_t index, int& sequence, int& first) {
  int low = 0, high = sequences;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (offsets[middle] / attention_block + middle <= index ? low : high) = middle;
  }
  sequence = low;
  const std::int64_t tile = index - (offsets[low] / attention_block + low);
  first = static_cast<int>(tile) * attention_block;
  return first >= 0 && first < offsets[low + 1] - offsets[low];
}

inline std::int64_t tile_count(std::int64_t tokens, std::int64_t sequences) { return tokens / attention_block + sequences; }

/// 32 rows of head_dim floats, row r from row_of(r), into shared memory with D columns and the given stride; what is outside is zero.
template <int D, int Stride, class RowOf>
__device__ __forceinline__ void load_tile(float* tile, int rows, int head_dim, bool vector, RowOf row_of) {
  if (vector) {
    for (int i = static_cast<int>(threadIdx.x); i < attention_block * (D / 4); i += attention_threads) {
      const int row = i / (D / 4), column = i % (D / 4) * 4;
      float4 value = make_float4(0, 0, 0, 0);
      if (row < rows && column < head_dim) value = *reinterpret_cast<const float4*>(row_of(row) + column);
      *reinterpret_cast<float4*>(tile + row * Stride + column) = value;
    }
  } else {
    for (int i = static_cast<int>(threadIdx.x); i < attention_block * D; i += attention_threads) {
      const int row = i / D, column = i % D;
      tile[row * Stride + column] = row < rows && column < head_dim ? row_of(row)[column] : 0.0f;
    }
  }
}

/// products[i] = dot(fixed row (warp's row i), own row), the same fixed row for all lanes, own row by lane.
template <int D, int FixedStride, int OwnStride>
__device__ __forceinline__ void row_products(const float* fixed, const float* own, int warp, int lane, float (&products)[rows_per_warp]) {
#pragma unroll
  for (int i = 0; i < rows_per_warp; ++i) products[i] = 0;
#pragma unroll 4
  for (int d = 0; d < D; d += 4) {
    const float4 b = *reinterpret_cast<const float4*>(own + lane * OwnStride + d);
#pragma unroll
    for (int i = 0; i < rows_per_warp; ++i) {
      const float4 a = *reinterpret_cast<const float4*>(fixed + (warp * rows_per_warp + i) * FixedStride + d);
      products[i] += a.x * b.x;
      products[i] += a.y * b.y;
      products[i] += a.z * b.z;
      products[i] += a.w * b.w;
    }
  }
}

/// sums[i][j] += sum over the tile's 32 rows t of weights[warp's row i][t] x rows[t][lane + 32 j].
template <int D, int Stride>
__device__ __forceinline__ void add_weighted_rows(const float* weights, const float* rows, int warp, int lane,
                                                  float (&sums)[rows_per_warp][D / 32]) {
#pragma unroll 2
  for (int t = 0; t < attention_block; t += 4) {
    float4 w[rows_per_warp];
#pragma unroll
    for (int i = 0; i < rows_per_warp; ++i)
      w[i] = *reinterpret_cast<const float4*>(weights + (warp * rows_per_warp + i) * attention_block + t);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
#pragma unroll
      for (int j = 0; j < D / 32; ++j) {
        const float value = rows[(t + k) * Stride + lane + 32 * j];
#pragma unroll
        for (int i = 0; i < rows_per_warp; ++i) sums[i][j] += (k == 0 ? w[i].x : k == 1 ? w[i].y : k == 2 ? w[i].z : w[i].w) * value;
      }
    }
  }
}

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xFFFFFFFFu, value, offset);
  return value;
}

__device__ __forceinline__ float warp_maximum(float value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value = fmaxf(value, __shfl_xor_sync(0xFFFFFFFFu, value, offset));
  return value;
}

/// Calls launch(integral constant D) with head_dim rounded up to 32, 64, 128 or 256.
template <class Launch>
void dispatch_head_dim(const char* kernel, int head_dim, Launch launch) {
  if (head_dim <= 32) return launch(std::integral_constant<int, 32>{});
  if (head_dim <= 64) return launch(std::integral_constant<int, 64>{});
  if (head_dim <= 128) return launch(std::integral_constant<int, 128>{});
  if (head_dim <= most_head_dim) return launch(std::integral_constant<int, 256>{});
  throw ShapeError(std::string("cuda: ") + kernel + ": head_dim " + std::to_string(head_dim) + " exceeds " + std::to_string(most_head_dim),
                   "use more, smaller heads");
}

/// Lets a kernel have more than 48 KiB of shared memory; the device's limit is an Error.
template <class Kernel>
void allow_shared_bytes(Kernel kernel, std::size_t bytes) {
  if (bytes > 48 * 1024)
    EXPCTR_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
}

inline void check_attention(const char* kernel, const AttentionShape& shape) {
  if (shape.heads < 1 || shape.kv_heads < 1 || shape.head_dim < 1 || shape.heads % shape.kv_heads != 0)
    throw ShapeError(std::string("cuda: ") + kernel + ": " + std::to_string(shape.heads) + " heads over " + std::to_string(shape.kv_heads) +
                         " key-value heads",
                     "heads must be a multiple of kv_heads");
}

inline bool vector_rows(const AttentionShape& shape, std::initializer_list<const View*> views) {
  bool vector = shape.head_dim % 4 == 0;
  for (const View* view : views) vector = vector && aligned16(view->data);
  return vector;
}

}  // namespace expctr::cuda
