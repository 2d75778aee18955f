// Reading any storage format as float (double for f64), element by element: plain types, half precision, block-quantised formats.
#pragma once

#include <string>

#include "base/blocks.h"
#include "cuda/launch.cuh"

namespace expctr::cuda {

template <class T>
struct PlainStorage {
  using Value = T;
  static __device__ __forceinline__ T load(const void* data, std::int64_t i) { return static_cast<const T*>(data)[i]; }
};

struct Bf16Storage {
  using Value = float;
  static __device__ __forceinline__ float load(const void* data, std::int64_t i) {
    return float_of_bf16(static_cast<const std::uint16_t*>(data)[i]);
  }
};

struct F16Storage {
  using Value = float;
  static __device__ __forceinline__ float load(const void* data, std::int64_t i) {
    return float_of_f16(static_cast<const std::uint16_t*>(data)[i]);
  }
};

/// Blocks of base/blocks.h; rows are whole blocks, so a linear index works across rows. The neighbours that share a block read it from
/// cache.
template <class Block, int Elements>
struct BlockStorage {
  using Value = float;
  static __device__ __forceinline__ float load(const void* data, std::int64_t i) {
    return dequantise(static_cast<const Block*>(data)[i / Elements], static_cast<int>(i % Elements));
  }
};

/// Calls f(Storage{}) with the storage class of the dtype; Error for ids and masks.
template <class F>
void dispatch_storage(const char* kernel, DType dtype, F f) {
  switch (dtype) {
    case DType::f32:
      return f(PlainStorage<float>{});
    case DType::f64:
      return f(PlainStorage<double>{});
    case DType::bf16:
      return f(Bf16Storage{});
    case DType::f16:
      return f(F16Storage{});
    case DType::q4_0:
      return f(BlockStorage<BlockQ4_0, 32>{});
    case DType::q4_1:
      return f(BlockStorage<BlockQ4_1, 32>{});
    case DType::q5_0:
      return f(BlockStorage<BlockQ5_0, 32>{});
    case DType::q5_1:
      return f(BlockStorage<BlockQ5_1, 32>{});
    case DType::q8_0:
      return f(BlockStorage<BlockQ8_0, 32>{});
    case DType::q4_k:
      return f(BlockStorage<BlockQ4_K, 256>{});
    case DType::q5_k:
      return f(BlockStorage<BlockQ5_K, 256>{});
    case DType::q6_k:
      return f(BlockStorage<BlockQ6_K, 256>{});
    default:
      throw Error(std::string("cuda: ") + kernel + " cannot read elements of type " + dtype_name(dtype), "convert the tensor to f32 first");
  }
}

}  // namespace expctr::cuda
