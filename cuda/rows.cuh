// Rows handled by a group of threads (a warp, or a block of 256): loops over columns with 16-byte accesses, and sums that every lane
// receives.
#pragma once

#include "cuda/launch.cuh"

namespace expctr::cuda {

/// Sum (or maximum) over the lanes of the group, the same bits in every lane. `shared` holds 8 floats when Lanes is 256.
template <int Lanes, bool Maximum = false>
__device__ __forceinline__ float group_reduce(float value, float* shared) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    const float other = __shfl_xor_sync(0xFFFFFFFFu, value, offset);
    value = Maximum ? fmaxf(value, other) : value + other;
  }
  if (Lanes == 32) return value;
  __syncthreads();  // `shared` may still be read from the call before
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  value = shared[0];
#pragma unroll
  for (int i = 1; i < Lanes / 32; ++i) value = Maximum ? fmaxf(value, shared[i]) : value + shared[i];
  return value;
}

/// f(column, values...) for this lane's columns of the rows that start at `pointers`.
template <int Lanes, class F, class... P>
__device__ __forceinline__ void visit_row(int lane, std::int64_t width, F f, const P*... pointers) {
  if (width % 4 == 0 && (aligned16(pointers) && ...)) {
    for (std::int64_t c = 4 * lane; c < width; c += 4 * Lanes) {
      [&](const auto... q) {
        f(c, q.x...);
        f(c + 1, q.y...);
        f(c + 2, q.z...);
        f(c + 3, q.w...);
      }(*reinterpret_cast<const float4*>(pointers + c)...);
    }
  } else {
    for (std::int64_t c = lane; c < width; c += Lanes) f(c, pointers[c]...);
  }
}

/// y[column] = f(column, values...).
template <int Lanes, class F, class... P>
__device__ __forceinline__ void map_row(int lane, std::int64_t width, float* y, F f, const P*... pointers) {
  if (width % 4 == 0 && aligned16(y) && (aligned16(pointers) && ...)) {
    for (std::int64_t c = 4 * lane; c < width; c += 4 * Lanes) {
      [&](const auto... q) {
        *reinterpret_cast<float4*>(y + c) = make_float4(f(c, q.x...), f(c + 1, q.y...), f(c + 2, q.z...), f(c + 3, q.w...));
      }(*reinterpret_cast<const float4*>(pointers + c)...);
    }
  } else {
    for (std::int64_t c = lane; c < width; c += Lanes) y[c] = f(c, pointers[c]...);
  }
}

/// Rows up to this width take a warp, wider ones a block.
constexpr std::int64_t warp_row_width = 1024;

/// Calls launch(integral constant Lanes, blocks) with the group size for the width.
template <class Launch>
void dispatch_rows(std::int64_t rows, std::int64_t width, Launch launch) {
  if (rows == 0) return;
  if (width <= warp_row_width)
    launch(std::integral_constant<int, 32>{}, blocks_for(rows, block_threads / 32));
  else
    launch(std::integral_constant<int, 256>{}, blocks_for(rows, 1));
}

}  // namespace expctr::cuda
