// Elementwise kernels over equal shapes: outputs[j][i] = f(inputs[..][i]). An output may also be an input (accumulation, in place).
#pragma once

#include "cuda/packet.cuh"

namespace expctr::cuda {

template <class T, int N>
struct Pointers {
  T* at[N];
};

/// Which operands are float beside activations in another storage: bit j for operand j.
template <unsigned Inputs, unsigned Outputs = 0>
struct FloatOperands {
  static constexpr unsigned inputs = Inputs, outputs = Outputs;
};

/// N elements of every input and output. A functor has operator()(const float (&in)[IN], float (&out)[OUT]) for one element; or
/// apply(const float (&in)[IN][N], float (&out)[OUT][N]) for a packet, where a decision would otherwise be taken once an element.
template <int N, int IN, int OUT, class F>
__device__ __forceinline__ void apply_packet(const F& f, const float (&in)[IN][N], float (&out)[OUT][N]) {
  if constexpr (requires { f.apply(in, out); }) {
    f.apply(in, out);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      float one_in[IN], one_out[OUT];
#pragma unroll
      for (int j = 0; j < IN; ++j) one_in[j] = in[j][i];
      f(one_in, one_out);
#pragma unroll
      for (int j = 0; j < OUT; ++j) out[j][i] = one_out[j];
    }
  }
}

template <int N, class S, class Floats, int IN, int OUT, class F>
__device__ __forceinline__ void map_packet(const F& f, std::int64_t i, const Pointers<const void, IN>& inputs,
                                           const Pointers<void, OUT>& outputs) {
  float in[IN][N], out[OUT][N];
#pragma unroll
  for (int j = 0; j < IN; ++j) {
    if ((Floats::inputs >> j & 1u) != 0)
      load_packet(static_cast<const float*>(inputs.at[j]) + i, in[j]);
    else
      load_packet(static_cast<const S*>(inputs.at[j]) + i, in[j]);
  }
  apply_packet(f, in, out);
#pragma unroll
  for (int j = 0; j < OUT; ++j) {
    if ((Floats::outputs >> j & 1u) != 0)
      store_packet(static_cast<float*>(outputs.at[j]) + i, out[j]);
    else
      store_packet(static_cast<S*>(outputs.at[j]) + i, out[j]);
  }
}

/// A thread takes N neighbours (all pointers aligned for that), or, with N = 1, four elements a block apart.
template <int N, class S, class Floats, int IN, int OUT, class F>
__global__ void __launch_bounds__(block_threads)
    map_kernel(F f, std::int64_t n, Pointers<const void, IN> inputs, Pointers<void, OUT> outputs) {
  constexpr int steps = N == 1 ? 4 : 1;
  const std::int64_t start = static_cast<std::int64_t>(blockIdx.x) * (N * steps * block_threads);
#pragma unroll
  for (int step = 0; step < steps; ++step) {
    const std::int64_t i = start + step * block_threads + threadIdx.x * N;
    if (i + N <= n) {
      map_packet<N, S, Floats>(f, i, inputs, outputs);
    } else if constexpr (N > 1) {
      for (std::int64_t k = i; k < n; ++k) map_packet<1, S, Floats>(f, k, inputs, outputs);
    }
  }
}

/// Activations stored as S, those that Floats names as float.
template <class S, class Floats, int IN, int OUT, class F>
void map_storage(const char* name, F f, std::int64_t n, const Pointers<const void, IN>& inputs, const Pointers<void, OUT>& outputs,
                 Stream stream) {
  if (n == 0) return;
  constexpr int packet = sizeof(S) == 2 && (Floats::inputs | Floats::outputs) == 0 ? 8 : 4;
  bool vector = true;
  for (const void* pointer : inputs.at) vector = vector && aligned16(pointer);
  for (const void* pointer : outputs.at) vector = vector && aligned16(pointer);
  if (vector)
    map_kernel<packet, S, Floats><<<blocks_for(n, packet * block_threads), block_threads, 0, native(stream)>>>(f, n, inputs, outputs);
  else
    map_kernel<1, S, Floats><<<blocks_for(n, 4 * block_threads), block_threads, 0, native(stream)>>>(f, n, inputs, outputs);
  check_launch(name);
}

/// Operands as views; `dtype` is the activations' (require_activations). Floats: operands that are f32 whatever it is.
template <class Floats = FloatOperands<0>, class F, int IN, int OUT>
void map(const char* name, DType dtype, F f, std::int64_t n, const View (&inputs)[IN], const View (&outputs)[OUT], Stream stream) {
  Pointers<const void, IN> from;
  Pointers<void, OUT> to;
  for (int j = 0; j < IN; ++j) from.at[j] = inputs[j].data;
  for (int j = 0; j < OUT; ++j) to.at[j] = outputs[j].data;
  dispatch_activation(dtype, [&](auto storage) { map_storage<decltype(storage), Floats>(name, f, n, from, to, stream); });
}

/// Everything f32.
template <int IN, int OUT, class F>
void map(const char* name, F f, std::int64_t n, Pointers<const float, IN> inputs, Pointers<float, OUT> outputs, Stream stream) {
  Pointers<const void, IN> from;
  Pointers<void, OUT> to;
  for (int j = 0; j < IN; ++j) from.at[j] = inputs.at[j];
  for (int j = 0; j < OUT; ++j) to.at[j] = outputs.at[j];
  map_storage<float, FloatOperands<0>>(name, f, n, from, to, stream);
}

}  // namespace expctr::cuda
