// Elements of activations in float or bf16 storage, as 16-byte packets in registers; all arithmetic is in float.
#pragma once

#include <type_traits>

#include "cuda/packet.cuh"

namespace expctr::cuda {

__device__ __forceinline__ float load_element(const float* p) { return *p; }
__device__ __forceinline__ float load_element(const Bf16* p) { return widen(*p); }

/// 16 bytes of elements; element j with get(j), j known at compile time after unrolling.
template <class T>
struct Packet {
  std::uint32_t word[4];

  static __device__ __forceinline__ Packet of(uint4 raw) { return {{raw.x, raw.y, raw.z, raw.w}}; }
  __device__ __forceinline__ uint4 raw() const { return make_uint4(word[0], word[1], word[2], word[3]); }
  __device__ __forceinline__ float get(int j) const {
    if constexpr (std::is_same_v<T, float>)
      return __uint_as_float(word[j]);
    else
      return __uint_as_float(j % 2 == 0 ? word[j / 2] << 16 : word[j / 2] & 0xFFFF0000u);
  }
  __device__ __forceinline__ void set(int j, float value) {
    if constexpr (std::is_same_v<T, float>) {
      word[j] = __float_as_uint(value);
    } else {
      const std::uint32_t bits = bf16_of_float(value);
      word[j / 2] = j % 2 == 0 ? (word[j / 2] & 0xFFFF0000u) | bits : (word[j / 2] & 0xFFFFu) | bits << 16;
    }
  }
};

template <class T>
__device__ __forceinline__ Packet<T> load_packet(const T* p) {
  return Packet<T>::of(*reinterpret_cast<const uint4*>(p));
}
template <class T>
__device__ __forceinline__ void store_packet(T* p, const Packet<T>& packet) {
  __stwb(reinterpret_cast<uint4*>(p), packet.raw());  // an assignment may become four stores
}

/// Where the packets of a row stand among the lanes of the group that shares it. Vector: packet p of a lane is 16 consecutive bytes; else
/// its elements are `Lanes` apart, so that neighbouring lanes still read neighbouring addresses. Columns are numbered in 32 bits: rows have
/// less than 2^31 - 2^16 of them (require_columns).
template <class T, int Lanes, bool Vector>
struct RowPackets {
  static constexpr int size = packet_size<T>, span = Lanes * size;  ///< span: columns that one packet of every lane covers

  static __device__ __forceinline__ int column(int lane, int p, int j) {
    return Vector ? p * span + lane * size + j : p * span + j * Lanes + lane;
  }
  /// Columns past the end read as `outside`.
  static __device__ __forceinline__ Packet<T> load(const T* row, int width, int lane, int p, float outside) {
    Packet<T> packet = {};
    if (Vector) {
      const int at = column(lane, p, 0);
      if (at < width) return load_packet(row + at);
#pragma unroll
      for (int j = 0; j < size; ++j) packet.set(j, outside);
    } else {
#pragma unroll
      for (int j = 0; j < size; ++j) {
        const int at = column(lane, p, j);
        packet.set(j, at < width ? load_element(row + at) : outside);
      }
    }
    return packet;
  }
  static __device__ __forceinline__ void store(T* row, int width, int lane, int p, const Packet<T>& packet) {
    if (Vector) {
      const int at = column(lane, p, 0);
      if (at < width) store_packet(row + at, packet);
    } else {
#pragma unroll
      for (int j = 0; j < size; ++j) {
        const int at = column(lane, p, j);
        if (at < width) store_element(row + at, packet.get(j));
      }
    }
  }
};

/// Sum, or maximum, over the lanes of a row's group, the same bits in every lane. `shared` holds Lanes / 32 floats when Lanes exceeds 32.
template <int Lanes, bool Maximum = false>
__device__ __forceinline__ float row_reduce(float value, float* shared) {
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

/// Rows short enough for RowPackets.
inline void require_columns(const char* kernel, std::int64_t columns) {
  if (columns >= 0x7FFF0000)
    throw ShapeError(std::string("cuda: ") + kernel + ": rows of " + std::to_string(columns) + " columns", "split the rows");
}

/// Every present view is f32, or every one bf16.
inline void require_stored(const char* kernel, std::initializer_list<const View*> views) {
  const View* first = nullptr;
  for (const View* view : views) {
    if (view->empty()) continue;
    if (first == nullptr) first = view;
    if (view->dtype == first->dtype && (view->dtype == DType::f32 || view->dtype == DType::bf16)) continue;
    throw Error(std::string("cuda: ") + kernel + ": operands are " + dtype_name(first->dtype) + " and " + dtype_name(view->dtype) +
                    ", the kernel takes all f32 or all bf16",
                view->dtype == DType::f64 ? "f64 exists on the CPU only; choose --device cpu or f32" : "convert the operands first");
  }
}

/// Calls f(T*) with T float or Bf16.
template <class F>
void with_storage(DType dtype, F f) {
  if (dtype == DType::bf16)
    f(static_cast<Bf16*>(nullptr));
  else
    f(static_cast<float*>(nullptr));
}

/// Rows of `width` elements can be read and written in packets.
inline bool packed_rows(std::int64_t width, DType dtype, std::initializer_list<const void*> pointers) {
  bool packed = width % (16 / dtype_traits(dtype).block_bytes) == 0;
  for (const void* pointer : pointers) packed = packed && aligned16(pointer);
  return packed;
}

/// Calls f(std::true_type) or f(std::false_type).
template <class F>
void with_bool(bool value, F f) {
  if (value)
    f(std::true_type{});
  else
    f(std::false_type{});
}

}  // namespace expctr::cuda
