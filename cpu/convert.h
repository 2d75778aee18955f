// Reading one run of elements of any storage type as float or double; shared by Convert and Gather.
#pragma once

#include <cstdint>

#include "base/blocks.h"
#include "base/dtype.h"

namespace expctr::cpu {

/// Storage types that read_elements understands.
constexpr bool is_readable(DType dtype) { return is_floating(dtype) || dtype == DType::bf16 || dtype == DType::f16 || is_quantised(dtype); }

/// out[i] = element begin + i, where begin and count are whole blocks.
template <class Block, class T>
void read_blocks(const void* data, DType dtype, std::int64_t begin, std::int64_t count, T* out) {
  const int length = dtype_traits(dtype).block_elements;
  const Block* block = static_cast<const Block*>(data) + begin / length;
  for (std::int64_t i = 0; i < count; i += length, ++block)
    for (int j = 0; j < length; ++j) out[i + j] = static_cast<T>(dequantise(*block, j));
}

/// out[i] = element begin + i of `data`, i < count. For block formats begin and count are multiples of the block.
template <class T>
void read_elements(const void* data, DType dtype, std::int64_t begin, std::int64_t count, T* out) {
  switch (dtype) {
    case DType::f32: {
      const float* x = static_cast<const float*>(data) + begin;
      for (std::int64_t i = 0; i < count; ++i) out[i] = static_cast<T>(x[i]);
      return;
    }
    case DType::f64: {
      const double* x = static_cast<const double*>(data) + begin;
      for (std::int64_t i = 0; i < count; ++i) out[i] = static_cast<T>(x[i]);
      return;
    }
    case DType::bf16: {
      const std::uint16_t* x = static_cast<const std::uint16_t*>(data) + begin;
      for (std::int64_t i = 0; i < count; ++i) out[i] = static_cast<T>(float_of_bf16(x[i]));
      return;
    }
    case DType::f16: {
      const std::uint16_t* x = static_cast<const std::uint16_t*>(data) + begin;
      for (std::int64_t i = 0; i < count; ++i) out[i] = static_cast<T>(float_of_f16(x[i]));
      return;
    }
    case DType::q4_0:
      return read_blocks<BlockQ4_0>(data, dtype, begin, count, out);
    case DType::q4_1:
      return read_blocks<BlockQ4_1>(data, dtype, begin, count, out);
    case DType::q5_0:
      return read_blocks<BlockQ5_0>(data, dtype, begin, count, out);
    case DType::q5_1:
      return read_blocks<BlockQ5_1>(data, dtype, begin, count, out);
    case DType::q8_0:
      return read_blocks<BlockQ8_0>(data, dtype, begin, count, out);
    case DType::q4_k:
      return read_blocks<BlockQ4_K>(data, dtype, begin, count, out);
    case DType::q5_k:
      return read_blocks<BlockQ5_K>(data, dtype, begin, count, out);
    case DType::q6_k:
      return read_blocks<BlockQ6_K>(data, dtype, begin, count, out);
    default:
      return;  // is_readable has been checked
  }
}

}  // namespace expctr::cpu
