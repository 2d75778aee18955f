// Activations in memory: f32 or bf16, moved in packets of up to 16 bytes, computed with in float. Kernels are templates over the storage
// type (float or Bf16); parameters, statistics and losses are float whatever the activations are.
#pragma once

#include <cuda_bf16.h>

#include "base/blocks.h"
#include "cuda/launch.cuh"

namespace expctr::cuda {

struct Bf16 {
  std::uint16_t bits;
};

/// Elements of a 16-byte packet.
template <class S>
constexpr int packet_size = 16 / static_cast<int>(sizeof(S));

/// Elements a thread takes of several arrays at a time so that none is accessed by more than 16 bytes.
template <class... S>
constexpr int common_packet = ((sizeof(S) == 4) || ...) ? 4 : 8;

__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ float widen(Bf16 value) { return float_of_bf16(value.bits); }

__device__ __forceinline__ std::uint32_t bf16_pair(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  std::uint32_t bits;
  memcpy(&bits, &pair, sizeof bits);
  return bits;
}

__device__ __forceinline__ void store_element(float* to, float value) { *to = value; }
__device__ __forceinline__ void store_element(Bf16* to, float value) { to->bits = static_cast<std::uint16_t>(bf16_pair(value, 0.0f)); }

/// N elements from an address that is a multiple of their bytes (of 16, where they are more).
template <int N>
__device__ __forceinline__ void load_packet(const float* from, float (&to)[N]) {
  if constexpr (N % 4 == 0) {
#pragma unroll
    for (int i = 0; i < N; i += 4) {
      const float4 v = *reinterpret_cast<const float4*>(from + i);
      to[i] = v.x;
      to[i + 1] = v.y;
      to[i + 2] = v.z;
      to[i + 3] = v.w;
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) to[i] = from[i];
  }
}

template <int N>
__device__ __forceinline__ void load_packet(const Bf16* from, float (&to)[N]) {
  const auto unpack = [&](int i, std::uint32_t word) {
    to[i] = float_of_bits(word << 16);
    to[i + 1] = float_of_bits(word & 0xFFFF0000u);
  };
  if constexpr (N % 8 == 0) {
#pragma unroll
    for (int i = 0; i < N; i += 8) {
      const uint4 v = *reinterpret_cast<const uint4*>(from + i);
      unpack(i, v.x);
      unpack(i + 2, v.y);
      unpack(i + 4, v.z);
      unpack(i + 6, v.w);
    }
  } else if constexpr (N == 4) {
    const uint2 v = *reinterpret_cast<const uint2*>(from);
    unpack(0, v.x);
    unpack(2, v.y);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) to[i] = widen(from[i]);
  }
}

/// The intrinsic stores a vector whatever the compiler knows of its parts; an assignment of what was just loaded becomes four stores.
template <int N>
__device__ __forceinline__ void store_packet(float* to, const float (&from)[N]) {
  if constexpr (N % 4 == 0) {
#pragma unroll
    for (int i = 0; i < N; i += 4) __stwb(reinterpret_cast<float4*>(to + i), make_float4(from[i], from[i + 1], from[i + 2], from[i + 3]));
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) to[i] = from[i];
  }
}

template <int N>
__device__ __forceinline__ void store_packet(Bf16* to, const float (&from)[N]) {
  if constexpr (N % 8 == 0) {
#pragma unroll
    for (int i = 0; i < N; i += 8)
      __stwb(reinterpret_cast<uint4*>(to + i), make_uint4(bf16_pair(from[i], from[i + 1]), bf16_pair(from[i + 2], from[i + 3]),
                                                          bf16_pair(from[i + 4], from[i + 5]), bf16_pair(from[i + 6], from[i + 7])));
  } else if constexpr (N == 4) {
    __stwb(reinterpret_cast<uint2*>(to), make_uint2(bf16_pair(from[0], from[1]), bf16_pair(from[2], from[3])));
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) store_element(to + i, from[i]);
  }
}

/// All present views have one dtype, f32 or bf16, which is returned (f32 when none is there).
inline DType require_activations(const char* kernel, std::initializer_list<const View*> views) {
  DType dtype = DType::f32;
  for (const View* view : views)
    if (!view->empty()) {
      dtype = view->dtype;
      break;
    }
  if (dtype != DType::bf16) dtype = DType::f32;
  require(kernel, dtype, views);
  return dtype;
}

/// Calls f(float{}) or f(Bf16{}) for a dtype from require_activations.
template <class F>
void dispatch_activation(DType dtype, F f) {
  if (dtype == DType::bf16)
    f(Bf16{});
  else
    f(float{});
}

/// Rows of `width` elements that start where the views do consist of packets of N elements.
template <int N>
bool packets_fit(std::int64_t width, std::initializer_list<const View*> views) {
  bool fit = width % N == 0;
  for (const View* view : views) {
    const std::size_t bytes = dtype_bytes(view->dtype, N);
    fit = fit && reinterpret_cast<std::uintptr_t>(view->data) % (bytes < 16 ? bytes : 16) == 0;
  }
  return fit;
}

}  // namespace expctr::cuda
