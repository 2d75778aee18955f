// Frozen weights in device memory. Plain types: rows of f32, bf16 or f16, bf16 rows padded to whole 16 bytes. Block formats keep their
// bits, moved into planes that 16-byte accesses suit. A unit is 32 consecutive elements of a row; every plane is [units of a row][rows]:
//   codes   the low four bits of the unit's codes, 16 bytes; q8_0: all bits, each half of the unit [2 units][rows] of 16 bytes
//   high    the fifth bits (4 bytes) or the upper two bits (8 bytes) of five- and six-bit codes
//   scales  what the block has for each unit: d; d and m; a six-bit scale and minimum; two signed scales (2 or 4 bytes)
//   supers  what 256 elements share, [units / 8][rows]: d and minimum of q4_k and q5_k, d of q6_k (4 bytes)
// Rows are padded to a multiple of 16 with zeros. The planes besides the codes hold rows r and r + 8 of a group of 16 side by side
// (side_slot), so that a lane of a tensor-core fragment reads both at once. Bits a weight: q4_0 4.5, q4_1 5, q5_0 5.5, q5_1 6, q8_0 8.5,
// q4_k 4.625, q5_k 5.625, q6_k 6.625. Nothing is rounded: the planes give base/blocks.h's values bit for bit.
#pragma once

#include <cuda_fp16.h>

#include <string>

#include "base/blocks.h"
#include "base/kernels/linear.h"
#include "cuda/launch.cuh"

namespace expctr::cuda {

constexpr int unit_elements = 32;

__host__ __device__ __forceinline__ constexpr std::int64_t side_slot(std::int64_t row) {
  return (row & ~std::int64_t{15}) | ((row & 7) << 1) | ((row >> 3) & 1);
}

/// Where the 16 bytes of codes `half` (0 unless a unit has 32) of a unit lie in the plane, in units of 16 bytes.
template <class F>
__host__ __device__ __forceinline__ std::int64_t codes_at(std::int64_t unit, int half, std::int64_t rows, std::int64_t row) {
  return (unit * (F::code_bytes / 16) + half) * rows + row;
}

/// How the scales of a unit are kept.
enum class ScaleKind { d, d_and_m, scale_and_minimum, two_scales };

/// value = scale (code - center) + offset, in float32 with one rounding (the products of a scale are exact).
template <class BlockType, int Elements, int CodeBits, int HighBits, ScaleKind Kind, int Center>
struct Format {
  using Block = BlockType;
  static constexpr int elements = Elements, center = Center;
  static constexpr ScaleKind kind = Kind;
  static constexpr bool has_offset = Kind == ScaleKind::d_and_m || Kind == ScaleKind::scale_and_minimum;
  static constexpr int code_bytes = CodeBits == 8 ? 32 : 16, high_bits = HighBits, high_bytes = HighBits * 4,
                       scale_bytes = Kind == ScaleKind::d_and_m ? 4 : 2, super_bytes = Elements == 256 ? 4 : 0;
};
using FormatQ4_0 = Format<BlockQ4_0, 32, 4, 0, ScaleKind::d, 8>;
using FormatQ4_1 = Format<BlockQ4_1, 32, 4, 0, ScaleKind::d_and_m, 0>;
using FormatQ5_0 = Format<BlockQ5_0, 32, 4, 1, ScaleKind::d, 16>;
using FormatQ5_1 = Format<BlockQ5_1, 32, 4, 1, ScaleKind::d_and_m, 0>;
using FormatQ8_0 = Format<BlockQ8_0, 32, 8, 0, ScaleKind::d, 0>;
using FormatQ4_K = Format<BlockQ4_K, 256, 4, 0, ScaleKind::scale_and_minimum, 0>;
using FormatQ5_K = Format<BlockQ5_K, 256, 4, 1, ScaleKind::scale_and_minimum, 0>;
using FormatQ6_K = Format<BlockQ6_K, 256, 4, 2, ScaleKind::two_scales, 32>;

/// Calls f(Format{}) for a block-quantised dtype.
template <class F>
void dispatch_format(DType dtype, F f) {
  switch (dtype) {
    case DType::q4_0:
      return f(FormatQ4_0{});
    case DType::q4_1:
      return f(FormatQ4_1{});
    case DType::q5_0:
      return f(FormatQ5_0{});
    case DType::q5_1:
      return f(FormatQ5_1{});
    case DType::q8_0:
      return f(FormatQ8_0{});
    case DType::q4_k:
      return f(FormatQ4_K{});
    case DType::q5_k:
      return f(FormatQ5_K{});
    case DType::q6_k:
      return f(FormatQ6_K{});
    default:
      throw Error(std::string("cuda: ") + dtype_name(dtype) + " is no block format", "convert the weight to f32 or bf16");
  }
}

/// The planes of a weight; all pointers 256-byte aligned when the weight's memory is.
struct Planes {
  const unsigned char *codes = nullptr, *high = nullptr, *scales = nullptr, *supers = nullptr;
  int rows = 0;   ///< padded to a multiple of 16
  int units = 0;  ///< of a row
};

struct PlaneSizes {
  std::size_t codes, high, scales, supers;
  std::size_t bytes() const { return codes + high + scales + supers; }
};

inline std::int64_t padded_rows(std::int64_t rows) { return ceil_div(rows, 16) * 16; }

template <class F>
PlaneSizes plane_sizes(std::int64_t outputs, std::int64_t inputs) {
  const std::int64_t rows = padded_rows(outputs), units = inputs / unit_elements;
  const auto size = [](std::int64_t bytes) { return static_cast<std::size_t>(ceil_div(bytes, 256) * 256); };
  return {size(units * rows * F::code_bytes), size(units * rows * F::high_bytes), size(units * rows * F::scale_bytes),
          size(F::super_bytes == 0 ? 0 : ceil_div(units, 8) * rows * F::super_bytes)};
}

template <class F>
Planes planes_of(const PackedWeight& weight) {
  const PlaneSizes sizes = plane_sizes<F>(weight.outputs, weight.inputs);
  Planes planes;
  planes.codes = static_cast<const unsigned char*>(weight.data);
  planes.high = planes.codes + sizes.codes;
  planes.scales = planes.high + sizes.high;
  planes.supers = planes.scales + sizes.scales;
  planes.rows = static_cast<int>(padded_rows(weight.outputs));
  planes.units = static_cast<int>(weight.inputs / unit_elements);
  return planes;
}

/// Element type of a packed weight that is not block-quantised: bf16 in mode bf16; in mode f32 what the file held, f64 as f32.
inline DType plain_dtype(const PackedWeight& weight) {
  if (weight.mode == ComputeMode::bf16 || weight.dtype == DType::bf16) return DType::bf16;
  return weight.dtype == DType::f16 ? DType::f16 : DType::f32;
}
/// Elements from row to row of such a weight.
inline std::int64_t plain_stride(const PackedWeight& weight) {
  return plain_dtype(weight) == DType::bf16 ? ceil_div(weight.inputs, 8) * 8 : weight.inputs;
}

__device__ __forceinline__ float float_of_half_bits(std::uint32_t bits) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
}

struct ScaleOffset {
  float scale, offset;
};

/// Scale and offset of elements 8 chunk .. 8 chunk + 7 of a unit.
template <class F>
__device__ __forceinline__ ScaleOffset scale_of(std::uint32_t scales, std::uint32_t super, int chunk) {
  if constexpr (F::kind == ScaleKind::d) return {float_of_half_bits(scales), 0.0f};
  if constexpr (F::kind == ScaleKind::d_and_m) return {float_of_half_bits(scales & 0xFFFFu), float_of_half_bits(scales >> 16)};
  if constexpr (F::kind == ScaleKind::scale_and_minimum)
    return {float_of_half_bits(super & 0xFFFFu) * static_cast<float>(scales & 255u),
            -(float_of_half_bits(super >> 16) * static_cast<float>(scales >> 8))};
  if constexpr (F::kind == ScaleKind::two_scales)
    return {float_of_half_bits(super & 0xFFFFu) * static_cast<float>(static_cast<signed char>(scales >> (chunk < 2 ? 0 : 8))), 0.0f};
}

/// Element pairs 2 i, 2 i + 1 of a chunk of eight. codes: the chunk's word of the codes plane (two words for 8-bit codes); high: the
/// unit's word of the high plane, for six bits its word chunk / 2.
/// Four-bit words hold element e at bit 4 (e / 2) + 16 (e mod 2): both halves of a pair come out with one mask, and 0x4300 before a code
/// below 128 is the bf16 number 128 + code. Eight-bit codes go through the float 2^23 + code + 128.
template <class F>
__device__ __forceinline__ float2 pair_values(uint2 codes, std::uint32_t high, ScaleOffset s, int chunk, int i) {
  float low, upper;
  if constexpr (F::code_bytes == 32) {
    const std::uint32_t word = (i < 2 ? codes.x : codes.y) ^ 0x80808080u;
    low = __uint_as_float(__byte_perm(word, 0x4B000000u, 0x7440 + 2 * (i & 1))) - 8388736.0f;
    upper = __uint_as_float(__byte_perm(word, 0x4B000000u, 0x7441 + 2 * (i & 1))) - 8388736.0f;
  } else {
    std::uint32_t pair = (codes.x >> (4 * i)) & 0x000F000Fu;
    if constexpr (F::high_bits == 1) pair |= ((high >> (4 * chunk + i)) & 0x00010001u) << 4;
    if constexpr (F::high_bits == 2) pair |= ((high >> (2 * (4 * (chunk & 1) + i))) & 0x00030003u) << 4;
    pair |= 0x43004300u;
    low = __uint_as_float(pair << 16) - static_cast<float>(128 + F::center);
    upper = __uint_as_float(pair & 0xFFFF0000u) - static_cast<float>(128 + F::center);
  }
  if constexpr (F::has_offset) return make_float2(fmaf(s.scale, low, s.offset), fmaf(s.scale, upper, s.offset));
  return make_float2(s.scale * low, s.scale * upper);
}

/// Codes of base/blocks.h's blocks before the center is taken off; q8_0 as the two's complement byte.
__device__ __forceinline__ int stored_code(const BlockQ4_0& b, int i) { return nibble(b.codes, i); }
__device__ __forceinline__ int stored_code(const BlockQ4_1& b, int i) { return nibble(b.codes, i); }
__device__ __forceinline__ int stored_code(const BlockQ5_0& b, int i) { return nibble(b.codes, i) | fifth_bit(b.high, i); }
__device__ __forceinline__ int stored_code(const BlockQ5_1& b, int i) { return nibble(b.codes, i) | fifth_bit(b.high, i); }
__device__ __forceinline__ int stored_code(const BlockQ8_0& b, int i) { return b.codes[i] & 255; }
__device__ __forceinline__ int stored_code(const BlockQ4_K& b, int i) {
  return (b.codes[(i >> 6) * 32 + (i & 31)] >> ((i >> 5 & 1) * 4)) & 15;
}
__device__ __forceinline__ int stored_code(const BlockQ5_K& b, int i) {
  return ((b.codes[(i >> 6) * 32 + (i & 31)] >> ((i >> 5 & 1) * 4)) & 15) | (((b.high[i & 31] >> (i >> 5)) & 1) << 4);
}
__device__ __forceinline__ int stored_code(const BlockQ6_K& b, int i) {
  const int half = i >> 7, j = i & 127, byte = b.low[half * 64 + (j & 63)];
  return (j < 64 ? byte & 15 : byte >> 4) | (((b.high[half * 32 + (j & 31)] >> (2 * (j >> 5))) & 3) << 4);
}

/// The scales word of unit u of a block.
template <class Block>
__device__ __forceinline__ std::uint32_t stored_scales(const Block& b, int u) {
  if constexpr (requires { b.m; }) {
    return b.d | static_cast<std::uint32_t>(b.m) << 16;
  } else if constexpr (requires { b.minimum; }) {
    return static_cast<std::uint32_t>(packed_scale(b.scales, u, false) | packed_scale(b.scales, u, true) << 8);
  } else if constexpr (requires { b.scales; }) {
    return (b.scales[2 * u] & 255u) | (b.scales[2 * u + 1] & 255u) << 8;
  } else {
    return b.d;
  }
}

template <class Block>
__device__ __forceinline__ std::uint32_t stored_super(const Block& b) {
  if constexpr (requires { b.minimum; }) return b.d | static_cast<std::uint32_t>(b.minimum) << 16;
  return b.d;
}

}  // namespace expctr::cuda
