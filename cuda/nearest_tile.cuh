// Tiles of products between 64 rows and 64 codes, and the sorted lists of the nearest (see cuda/nearest.cu).
#pragma once

#include "base/blocks.h"
#include "base/kernels/nearest.h"
#include "cuda/mma_bf16.cuh"

namespace expctr::cuda {

constexpr int nearest_rows = 64, nearest_codes = 64, product_stride = 72, rows_per_list_warp = nearest_rows / (block_threads / 32);
constexpr unsigned all_lanes = 0xFFFFFFFFu;

template <class T>
struct NearestPointers {
  const T *x, *codebook;
  const float* lengths;  ///< ||c||^2
  std::int64_t rows, codes, width;
  int k;
  std::int32_t* indices;
  float* distances;
};

__device__ __forceinline__ float element(float value) { return value; }
__device__ __forceinline__ float element(std::uint16_t value) { return float_of_bf16(value); }

/// Sum of squares of a row, in every lane of the warp.
template <class T>
__device__ __forceinline__ float squared_length(const T* row, std::int64_t width, int lane) {
  float sum = 0;
  for (std::int64_t i = lane; i < width; i += 32) {
    const float value = element(row[i]);
    sum += value * value;
  }
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(all_lanes, sum, offset);
  return sum;
}

/// The 64 smallest scores of a row so far, ascending across the lanes of a warp: lane l has places l and 32 + l.
struct SortedList {
  float low, high;
  std::int32_t low_index, high_index;
  __device__ __forceinline__ SortedList() : low(INFINITY), high(INFINITY), low_index(-1), high_index(-1) {}
  __device__ __forceinline__ float at(int place) const {
    return place < 32 ? __shfl_sync(all_lanes, low, place) : __shfl_sync(all_lanes, high, place - 32);
  }
  /// Behind all that are not larger.
  __device__ __forceinline__ void insert(float score, std::int32_t index, int lane) {
    const int place = __popc(__ballot_sync(all_lanes, low <= score)) + __popc(__ballot_sync(all_lanes, high <= score));
    const float low_before = __shfl_up_sync(all_lanes, low, 1), high_before = __shfl_up_sync(all_lanes, high, 1),
                last = __shfl_sync(all_lanes, low, 31);
    const std::int32_t low_index_before = __shfl_up_sync(all_lanes, low_index, 1),
                       high_index_before = __shfl_up_sync(all_lanes, high_index, 1), last_index = __shfl_sync(all_lanes, low_index, 31);
    if (lane >= place) {
      low = lane == place ? score : low_before;
      low_index = lane == place ? index : low_index_before;
    }
    if (lane + 32 >= place) {
      high = lane + 32 == place ? score : lane == 0 ? last : high_before;
      high_index = lane + 32 == place ? index : lane == 0 ? last_index : high_index_before;
    }
  }
};

/// The warp's rows of a tile of products; codes from `first` on, in ascending order.
__device__ __forceinline__ void select(SortedList (&lists)[rows_per_list_warp], const float* products, const float* lengths,
                                       std::int64_t first, std::int64_t codes, int k) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  float length[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) length[half] = first + half * 32 + lane < codes ? lengths[first + half * 32 + lane] : INFINITY;
#pragma unroll
  for (int i = 0; i < rows_per_list_warp; ++i) {
    float worst = lists[i].at(k - 1);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float score = length[half] - 2 * products[(warp * rows_per_list_warp + i) * product_stride + half * 32 + lane];
      for (unsigned left = __ballot_sync(all_lanes, score < worst); left != 0; left &= left - 1) {
        const int source = __ffs(left) - 1;
        const float candidate = __shfl_sync(all_lanes, score, source);
        if (!(candidate < worst)) continue;
        lists[i].insert(candidate, static_cast<std::int32_t>(first) + half * 32 + source, lane);
        worst = lists[i].at(k - 1);
      }
    }
  }
}

template <class T>
__device__ __forceinline__ void store_lists(const SortedList (&lists)[rows_per_list_warp], const NearestPointers<T>& p, std::int64_t row0) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
#pragma unroll
  for (int i = 0; i < rows_per_list_warp; ++i) {
    const std::int64_t row = row0 + warp * rows_per_list_warp + i;
    if (row >= p.rows) break;
    const float length = squared_length(p.x + row * p.width, p.width, lane);
    const auto put = [&](int place, float score, std::int32_t index) {
      if (place >= p.k) return;
      const float distance = score + length;
      p.indices[row * p.k + place] = index;
      p.distances[row * p.k + place] = distance < 0 ? 0.0f : distance;
    };
    put(lane, lists[i].low, lists[i].low_index);
    put(lane + 32, lists[i].high, lists[i].high_index);
  }
}

constexpr int f32_depth = 16;

/// 64 rows of 16 elements from `row0` and column `k0` on -> to[k][row], columns swizzled by k / 4 so that neither side meets a bank twice.
template <bool Vector>
__device__ __forceinline__ void load_transposed(const float* from, std::int64_t row0, std::int64_t rows, std::int64_t k0,
                                                std::int64_t width, float (*to)[64]) {
  const int row = static_cast<int>(threadIdx.x) / 4, group = static_cast<int>(threadIdx.x) % 4;
  float values[4] = {};
  if (row0 + row < rows) {
    const float* source = from + (row0 + row) * width + k0 + group * 4;
    if (Vector) {
      if (k0 + group * 4 < width) {
        const float4 wide = *reinterpret_cast<const float4*>(source);
        values[0] = wide.x;
        values[1] = wide.y;
        values[2] = wide.z;
        values[3] = wide.w;
      }
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (k0 + group * 4 + i < width) values[i] = source[i];
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) to[group * 4 + i][row ^ (group * 8)] = values[i];
}

/// Vector: rows start at multiples of 16 bytes.
template <bool Vector>
__global__ void __launch_bounds__(block_threads, 2) nearest_f32_kernel(NearestPointers<float> p) {
  __shared__ __align__(16) float rows[f32_depth][64], codes[f32_depth][64], products[nearest_rows * product_stride];
  const int x = static_cast<int>(threadIdx.x) % 16 * 4, y = static_cast<int>(threadIdx.x) / 16 * 4;
  const std::int64_t row0 = static_cast<std::int64_t>(blockIdx.x) * nearest_rows;
  SortedList lists[rows_per_list_warp];
  for (std::int64_t first = 0; first < p.codes; first += nearest_codes) {
    float sums[4][4] = {};
    for (std::int64_t k0 = 0; k0 < p.width; k0 += f32_depth) {
      load_transposed<Vector>(p.x, row0, p.rows, k0, p.width, rows);
      load_transposed<Vector>(p.codebook, first, p.codes, k0, p.width, codes);
      __syncthreads();
#pragma unroll
      for (int k = 0; k < f32_depth; ++k) {
        const float4 a = *reinterpret_cast<const float4*>(&rows[k][y ^ (k / 4 * 8)]),
                     b = *reinterpret_cast<const float4*>(&codes[k][x ^ (k / 4 * 8)]);
        const float left[4] = {a.x, a.y, a.z, a.w}, right[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
          for (int j = 0; j < 4; ++j) sums[i][j] += left[i] * right[j];
      }
      __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
      *reinterpret_cast<float4*>(products + (y + i) * product_stride + x) = make_float4(sums[i][0], sums[i][1], sums[i][2], sums[i][3]);
    __syncthreads();
    select(lists, products, p.lengths, first, p.codes, p.k);
    __syncthreads();
  }
  store_lists(lists, p, row0);
}

constexpr int bf16_depth = 64, bf16_code_stride = bf16_depth + 8, most_bf16_width = 896;

__host__ __device__ constexpr int bf16_row_stride(std::int64_t width) {
  return static_cast<int>((width < 1 ? 1 : (width + bf16_depth - 1) / bf16_depth) * bf16_depth + 8);
}
constexpr std::size_t nearest_bf16_shared(std::int64_t width) {
  return static_cast<std::size_t>(nearest_rows * bf16_row_stride(width) + 2 * nearest_codes * bf16_code_stride) * 2 +
         nearest_rows * product_stride * sizeof(float);
}

/// 64 rows of 64 elements from `row0` and column `k0` on, zero outside, into shared memory; Vector: asynchronously, 16 bytes at a time.
template <bool Vector>
__device__ __forceinline__ void load_block(const std::uint16_t* from, std::int64_t row0, std::int64_t rows, std::int64_t k0,
                                           std::int64_t width, std::uint16_t* to, int stride) {
  if (Vector) {
    for (int i = static_cast<int>(threadIdx.x); i < 64 * 8; i += block_threads) {
      const int row = i / 8, column = i % 8 * 8;
      std::uint16_t* target = to + row * stride + column;
      if (row0 + row < rows && k0 + column < width)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(static_cast<std::uint32_t>(__cvta_generic_to_shared(target))),
                     "l"(from + (row0 + row) * width + k0 + column)
                     : "memory");
      else
        *reinterpret_cast<uint4*>(target) = make_uint4(0, 0, 0, 0);
    }
  } else {
    for (int i = static_cast<int>(threadIdx.x); i < 64 * 64; i += block_threads) {
      const int row = i / 64, column = i % 64;
      to[row * stride + column] =
          row0 + row < rows && k0 + column < width ? from[(row0 + row) * width + k0 + column] : static_cast<std::uint16_t>(0);
    }
  }
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// All but the latest `Pending` groups of this thread's copies have arrived.
template <int Pending>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

/// As one access: the compiler takes vectors in shared memory apart, and single words at strides of two meet in their banks.
__device__ __forceinline__ void store_pair(float* to, float first, float second) {
  asm volatile("st.shared.v2.f32 [%0], {%1,%2};" ::"r"(static_cast<std::uint32_t>(__cvta_generic_to_shared(to))), "f"(first), "f"(second)
               : "memory");
}

/// Warps: four groups of 16 rows by two of 32 codes.
template <bool Vector>
__global__ void __launch_bounds__(block_threads, 1) nearest_bf16_kernel(NearestPointers<std::uint16_t> p) {
  extern __shared__ __align__(16) unsigned char bytes[];
  const int stride = bf16_row_stride(p.width), chunks = (stride - 8) / bf16_depth, lane = static_cast<int>(threadIdx.x) % 32,
            warp = static_cast<int>(threadIdx.x) / 32;
  std::uint16_t* rows = reinterpret_cast<std::uint16_t*>(bytes);
  std::uint16_t* codes = rows + nearest_rows * stride;
  float* products = reinterpret_cast<float*>(codes + 2 * nearest_codes * bf16_code_stride);
  const int row_group = warp / 2 * 16, code_group = warp % 2 * 32;
  const std::int64_t row0 = static_cast<std::int64_t>(blockIdx.x) * nearest_rows;
  for (int chunk = 0; chunk < chunks; ++chunk)
    load_block<Vector>(p.x, row0, p.rows, chunk * bf16_depth, p.width, rows + chunk * bf16_depth, stride);
  SortedList lists[rows_per_list_warp];
  const std::uint32_t left = left_address(rows + row_group * stride, stride, lane);
  // Two column tiles of 8 codes a load: matrices (codes 0-7, k 0-7), (0-7, 8-15), (8-15, 0-7), (8-15, 8-15).
  const int right_row = lane / 16 * 8 + lane % 8, right_column = lane / 8 % 2 * 8;
  const std::int64_t tiles = (p.codes + nearest_codes - 1) / nearest_codes, steps = tiles * chunks;
  const auto load_codes = [&](std::int64_t step) {
    load_block<Vector>(p.codebook, step / chunks * nearest_codes, p.codes, step % chunks * bf16_depth, p.width,
                       codes + (step & 1) * nearest_codes * bf16_code_stride, bf16_code_stride);
    commit_copies();
  };
  float sums[4][4] = {};
  if (steps > 0) load_codes(0);
  for (std::int64_t step = 0; step < steps; ++step) {
    if (step + 1 < steps) {
      load_codes(step + 1);
      wait_for_copies<1>();
    } else {
      wait_for_copies<0>();
    }
    __syncthreads();
    const int chunk = static_cast<int>(step % chunks);
    const std::uint32_t right = static_cast<std::uint32_t>(
        __cvta_generic_to_shared(codes + ((step & 1) * nearest_codes + code_group + right_row) * bf16_code_stride + right_column));
#pragma unroll
    for (int k = 0; k < bf16_depth; k += 16) {
      std::uint32_t a[4], b[4];
      load_left(a, left + (chunk * bf16_depth + k) * 2);
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) {
        load_left(b, right + (pair * 16 * bf16_code_stride + k) * 2);
        multiply_add(sums[2 * pair], a, b[0], b[1]);
        multiply_add(sums[2 * pair + 1], a, b[2], b[3]);
      }
    }
    if (chunk + 1 == chunks) {
      const std::int64_t first = step / chunks * nearest_codes;
#pragma unroll
      for (int tile = 0; tile < 4; ++tile) {
        float* product = products + (row_group + lane / 4) * product_stride + code_group + tile * 8 + lane % 4 * 2;
        store_pair(product, sums[tile][0], sums[tile][1]);
        store_pair(product + 8 * product_stride, sums[tile][2], sums[tile][3]);
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[tile][i] = 0;
      }
      __syncthreads();
      select(lists, products, p.lengths, first, p.codes, p.k);
    }
    __syncthreads();
  }
  store_lists(lists, p, row0);
}

}  // namespace expctr::cuda
