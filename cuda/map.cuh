// Elementwise kernels over equal shapes: outputs[j][i] = f(inputs[..][i]). An output may also be an input (accumulation, in place).
#pragma once

#include "cuda/launch.cuh"

namespace expctr::cuda {

template <class T, int N>
struct Pointers {
  T* at[N];
};

/// f(in, out) with `const float (&in)[IN]`, `float (&out)[OUT]`. Vector: 16-byte accesses, all pointers 16-byte aligned.
template <int IN, int OUT, bool Vector, class F>
__global__ void __launch_bounds__(block_threads)
    map_kernel(F f, std::int64_t n, Pointers<const float, IN> inputs, Pointers<float, OUT> outputs) {
  const std::int64_t block_start = static_cast<std::int64_t>(blockIdx.x) * (4 * block_threads);
  if (Vector) {
    const std::int64_t i = block_start + threadIdx.x * 4;
    if (i + 4 <= n) {
      float4 loaded[IN], result[OUT];
#pragma unroll
      for (int j = 0; j < IN; ++j) loaded[j] = *reinterpret_cast<const float4*>(inputs.at[j] + i);
#pragma unroll
      for (int lane = 0; lane < 4; ++lane) {
        float in[IN], out[OUT];
#pragma unroll
        for (int j = 0; j < IN; ++j) in[j] = lane == 0 ? loaded[j].x : lane == 1 ? loaded[j].y : lane == 2 ? loaded[j].z : loaded[j].w;
        f(in, out);
#pragma unroll
        for (int j = 0; j < OUT; ++j) (lane == 0 ? result[j].x : lane == 1 ? result[j].y : lane == 2 ? result[j].z : result[j].w) = out[j];
      }
#pragma unroll
      for (int j = 0; j < OUT; ++j) *reinterpret_cast<float4*>(outputs.at[j] + i) = result[j];
      return;
    }
  }
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    const std::int64_t i = Vector ? block_start + threadIdx.x * 4 + step : block_start + step * block_threads + threadIdx.x;
    if (i >= n) return;
    float in[IN], out[OUT];
#pragma unroll
    for (int j = 0; j < IN; ++j) in[j] = inputs.at[j][i];
    f(in, out);
#pragma unroll
    for (int j = 0; j < OUT; ++j) outputs.at[j][i] = out[j];
  }
}

template <int IN, int OUT, class F>
void map(const char* name, F f, std::int64_t n, Pointers<const float, IN> inputs, Pointers<float, OUT> outputs, Stream stream) {
  if (n == 0) return;
  bool vector = true;
  for (const float* pointer : inputs.at) vector = vector && aligned16(pointer);
  for (const float* pointer : outputs.at) vector = vector && aligned16(pointer);
  const unsigned blocks = blocks_for(n, 4 * block_threads);
  if (vector)
    map_kernel<IN, OUT, true><<<blocks, block_threads, 0, native(stream)>>>(f, n, inputs, outputs);
  else
    map_kernel<IN, OUT, false><<<blocks, block_threads, 0, native(stream)>>>(f, n, inputs, outputs);
  check_launch(name);
}

}  // namespace expctr::cuda
