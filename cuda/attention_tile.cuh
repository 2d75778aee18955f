// What the attention kernels share: which tile of which sequence a block has, which keys a query sees, and the float32 tiles of 32 tokens.
#pragma once

#include "base/blocks.h"
#include "base/kernels/attention.h"
#include "cuda/launch.cuh"

namespace expctr::cuda {

constexpr int attention_threads = 128, attention_warps = attention_threads / 32, rows_per_warp = attention_block / attention_warps;
constexpr int most_head_dim = 256;
constexpr float log2_of_e = 1.44269504088896341f;

/// Blocks an SM must be able to hold: left to itself the compiler saves registers until it spills.
template <int D>
constexpr int blocks_at_least = D <= 128 ? 3 : 1;

/// The packed sequences of a launch; lengths and prefixes may be null.
struct SequenceArgs {
  const std::int32_t *query_offsets, *key_offsets, *lengths, *prefixes;
  int count, window;
  bool causal;
  __device__ __forceinline__ KeyRange range(int s) const {
    return key_range(query_offsets, key_offsets, lengths, prefixes, s, causal, window);
  }
};

template <class Args>
SequenceArgs sequence_args(const Args& a) {
  SequenceArgs args{};
  args.query_offsets = a.sequence_offsets.template as<std::int32_t>();
  args.key_offsets = a.keys.offsets.empty() ? args.query_offsets : a.keys.offsets.template as<std::int32_t>();
  args.lengths = a.keys.lengths.template as<std::int32_t>();
  args.prefixes = a.keys.prefixes.template as<std::int32_t>();
  args.count = static_cast<int>(a.sequence_offsets.size()) - 1;
  args.window = a.shape.window;
  args.causal = a.shape.causal;
  return args;
}

/// Sequence that token `index` belongs to; with empty ones, the last that starts there.
__device__ __forceinline__ int sequence_of(const std::int32_t* offsets, int sequences, int index) {
  int low = 0, high = sequences;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (offsets[middle] <= index ? low : high) = middle;
  }
  return low;
}

/// Sequence and first token (within it) of tile `index` of Tile tokens. Sequence s owns the indices from offsets[s] / Tile + s on: enough
/// for its tiles whatever its place, and found by bisection, without a prefix sum over sequences. False: the index belongs to no tile.
template <int Tile>
__device__ __forceinline__ bool find_tile(const std::int32_t* offsets, int sequences, int index, int& sequence, int& first) {
  int low = 0, high = sequences;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (offsets[middle] / Tile + middle <= index ? low : high) = middle;
  }
  sequence = low;
  first = (index - (offsets[low] / Tile + low)) * Tile;
  return first >= 0 && first < offsets[low + 1] - offsets[low];
}

template <int Tile>
unsigned tile_count(std::int64_t tokens, std::int64_t sequences) {
  return blocks_for(tokens / Tile + sequences, 1);
}

__device__ __forceinline__ float float_of(float x) { return x; }
__device__ __forceinline__ float float_of(std::uint16_t x) { return float_of_bf16(x); }
__device__ __forceinline__ float4 load4(const float* x) { return *reinterpret_cast<const float4*>(x); }
__device__ __forceinline__ float4 load4(const std::uint16_t* x) {
  const uint2 pairs = *reinterpret_cast<const uint2*>(x);
  return make_float4(float_of_bits(pairs.x << 16), float_of_bits(pairs.x & 0xFFFF0000u), float_of_bits(pairs.y << 16),
                     float_of_bits(pairs.y & 0xFFFF0000u));
}
__device__ __forceinline__ void assign(float& to, float x) { to = x; }
__device__ __forceinline__ void assign(std::uint16_t& to, float x) { to = bf16_of_float(x); }
template <class T>
__device__ __forceinline__ void add_to(T& to, float x) {
  assign(to, float_of(to) + x);
}

/// 32 rows of head_dim elements, row r from row_of(r), into shared memory with D columns and the given stride; what is outside is zero.
template <int D, int Stride, class RowOf>
__device__ __forceinline__ void load_tile(float* tile, int rows, int head_dim, bool vector, RowOf row_of) {
  if (vector) {
    for (int i = static_cast<int>(threadIdx.x); i < attention_block * (D / 4); i += attention_threads) {
      const int row = i / (D / 4), column = i % (D / 4) * 4;
      float4 value = make_float4(0, 0, 0, 0);
      if (row < rows && column < head_dim) value = load4(row_of(row) + column);
      *reinterpret_cast<float4*>(tile + row * Stride + column) = value;
    }
  } else {
    for (int i = static_cast<int>(threadIdx.x); i < attention_block * D; i += attention_threads) {
      const int row = i / D, column = i % D;
      tile[row * Stride + column] = row < rows && column < head_dim ? float_of(row_of(row)[column]) : 0.0f;
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

/// Calls launch(integral constant D) with head_dim rounded up to one of the given widths, which rise.
template <int... Widths, class Launch>
void dispatch_width(const char* kernel, int head_dim, Launch launch) {
  if (!((head_dim <= Widths && (launch(std::integral_constant<int, Widths>{}), true)) || ...))
    throw ShapeError(
        std::string("cuda: ") + kernel + ": head_dim " + std::to_string(head_dim) + " exceeds " + std::to_string(most_head_dim),
        "use more, smaller heads");
}

/// Calls launch(storage type {}, integral constant D) for the float32 kernels; bf16 takes them only where tensor cores do not fit
/// (cuda/attention_mma.h), hence fewer widths.
template <class Launch>
void dispatch_head_dim(const char* kernel, DType dtype, int head_dim, Launch launch) {
  if (dtype == DType::bf16)
    dispatch_width<64, 256>(kernel, head_dim, [&](auto dim) { launch(std::uint16_t{}, dim); });
  else
    dispatch_width<32, 64, 128, 256>(kernel, head_dim, [&](auto dim) { launch(float{}, dim); });
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
  if (shape.window < 0 || (shape.window > 0 && !shape.causal))
    throw ShapeError(std::string("cuda: ") + kernel + ": a window of " + std::to_string(shape.window) + " keys",
                     "a window is at least 1 (0: none) and needs causal attention");
}

/// f32 or bf16, and the same for all.
inline void require_storage(const char* kernel, DType dtype, std::initializer_list<const View*> views) {
  if (dtype != DType::bf16) dtype = DType::f32;
  require(kernel, dtype, views);
}

inline bool vector_rows(const AttentionShape& shape, std::initializer_list<const View*> views) {
  bool vector = shape.head_dim % 4 == 0;
  for (const View* view : views) vector = vector && aligned16(view->data);
  return vector;
}

}  // namespace expctr::cuda
