// Half-precision conversions and the block-quantised formats of GGUF: memory layout and exact dequantisation.
// Source: GGUF specification (ggml); values equal gguf-py's and llama.cpp's bit for bit: scale times code, then plus minimum.
#pragma once

#include <cstdint>
#include <cstring>

#include "base/host_device.h"

namespace expctr {

EXPCTR_HOST_DEVICE float float_of_bits(std::uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

EXPCTR_HOST_DEVICE std::uint32_t bits_of_float(float value) {
  std::uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

/// IEEE binary16 to float, exact.
EXPCTR_HOST_DEVICE float float_of_f16(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16, exponent = (half >> 10) & 31u, fraction = half & 0x3FFu;
  if (exponent == 31) return float_of_bits(sign | 0x7F800000u | (fraction << 13));
  if (exponent != 0) return float_of_bits(sign | ((exponent + 112) << 23) | (fraction << 13));
  const float magnitude = static_cast<float>(fraction) * 5.9604644775390625e-8f;  // 2^-24
  return float_of_bits(sign | bits_of_float(magnitude));
}

EXPCTR_HOST_DEVICE float float_of_bf16(std::uint16_t half) { return float_of_bits(static_cast<std::uint32_t>(half) << 16); }

/// Round to nearest, ties to even; NaN stays NaN.
EXPCTR_HOST_DEVICE std::uint16_t bf16_of_float(float value) {
  const std::uint32_t bits = bits_of_float(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<std::uint16_t>((bits >> 16) | 64u);
  return static_cast<std::uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

/// 32 codes of 4 bits: value = d (q - 8). Byte j holds element j in its low and element j + 16 in its high half.
struct BlockQ4_0 {
  std::uint16_t d;
  std::uint8_t codes[16];
};
static_assert(sizeof(BlockQ4_0) == 18);

/// 32 codes of 4 bits: value = d q + m. Halves of a byte as in q4_0.
struct BlockQ4_1 {
  std::uint16_t d, m;
  std::uint8_t codes[16];
};
static_assert(sizeof(BlockQ4_1) == 20);

/// 32 codes of 5 bits: value = d (q - 16). Low four bits as in q4_0; bit i of the 32 high bits (little-endian) belongs to element i.
struct BlockQ5_0 {
  std::uint16_t d;
  std::uint8_t high[4];
  std::uint8_t codes[16];
};
static_assert(sizeof(BlockQ5_0) == 22);

/// 32 codes of 5 bits: value = d q + m. Bits as in q5_0.
struct BlockQ5_1 {
  std::uint16_t d, m;
  std::uint8_t high[4];
  std::uint8_t codes[16];
};
static_assert(sizeof(BlockQ5_1) == 24);

/// 32 signed codes of 8 bits: value = d q.
struct BlockQ8_0 {
  std::uint16_t d;
  std::int8_t codes[32];
};
static_assert(sizeof(BlockQ8_0) == 34);

/// 256 codes of 4 bits in eight groups of 32: value = (d s_g) q - (minimum m_g), s_g and m_g of 6 bits, packed (packed_scale).
/// 32 bytes of codes hold two groups: the even group in the low halves, the odd one in the high halves.
struct BlockQ4_K {
  std::uint16_t d, minimum;
  std::uint8_t scales[12];
  std::uint8_t codes[128];
};
static_assert(sizeof(BlockQ4_K) == 144);

/// As q4_k with a fifth bit: bit g of high[j] belongs to element j of group g.
struct BlockQ5_K {
  std::uint16_t d, minimum;
  std::uint8_t scales[12];
  std::uint8_t high[32];
  std::uint8_t codes[128];
};
static_assert(sizeof(BlockQ5_K) == 176);

/// 256 codes of 6 bits in sixteen groups of 16: value = (d s_g) (q - 32), s_g signed. Two halves of 128 elements; of each, 64 bytes hold
/// the low four bits (elements 0..63 in the low, 64..127 in the high halves) and 32 bytes the upper two (element j: bits 2 (j / 32) of
/// byte j mod 32).
struct BlockQ6_K {
  std::uint8_t low[128];
  std::uint8_t high[64];
  std::int8_t scales[16];
  std::uint16_t d;
};
static_assert(sizeof(BlockQ6_K) == 210);

/// Scale (or, with `minimum`, minimum) of group g of a q4_k or q5_k block: 6 bits. Groups 0..3: low six bits of bytes g and g + 4;
/// groups 4..7: four bits of byte g + 4 and the two top bits of bytes g - 4 and g.
EXPCTR_HOST_DEVICE int packed_scale(const std::uint8_t* scales, int g, bool minimum) {
  if (g < 4) return scales[minimum ? g + 4 : g] & 63;
  return minimum ? (scales[g + 4] >> 4) | ((scales[g] >> 6) << 4) : (scales[g + 4] & 15) | ((scales[g - 4] >> 6) << 4);
}

/// Four-bit code of element i of 32, stored in 16 bytes.
EXPCTR_HOST_DEVICE int nibble(const std::uint8_t* codes, int i) { return i < 16 ? codes[i] & 15 : codes[i - 16] >> 4; }

/// Fifth bit of element i of 32, as 0 or 16.
EXPCTR_HOST_DEVICE int fifth_bit(const std::uint8_t* high, int i) { return ((high[i >> 3] >> (i & 7)) & 1) << 4; }

/// The stored code of element i, not negative: value = scale (code - offset) or scale code + minimum. q8_0: the signed code plus 128.
EXPCTR_HOST_DEVICE int code_of(const BlockQ4_0& block, int i) { return nibble(block.codes, i); }
EXPCTR_HOST_DEVICE int code_of(const BlockQ4_1& block, int i) { return nibble(block.codes, i); }
EXPCTR_HOST_DEVICE int code_of(const BlockQ5_0& block, int i) { return nibble(block.codes, i) | fifth_bit(block.high, i); }
EXPCTR_HOST_DEVICE int code_of(const BlockQ5_1& block, int i) { return nibble(block.codes, i) | fifth_bit(block.high, i); }
EXPCTR_HOST_DEVICE int code_of(const BlockQ8_0& block, int i) { return block.codes[i] + 128; }
EXPCTR_HOST_DEVICE int code_of(const BlockQ4_K& block, int i) {
  const int byte = block.codes[(i >> 6) * 32 + (i & 31)];
  return ((i >> 5) & 1) ? byte >> 4 : byte & 15;
}
EXPCTR_HOST_DEVICE int code_of(const BlockQ5_K& block, int i) {
  const int g = i >> 5, byte = block.codes[(i >> 6) * 32 + (i & 31)];
  return ((g & 1) ? byte >> 4 : byte & 15) | (((block.high[i & 31] >> g) & 1) << 4);
}
EXPCTR_HOST_DEVICE int code_of(const BlockQ6_K& block, int i) {
  const int half = i >> 7, j = i & 127, byte = block.low[half * 64 + (j & 63)];
  return (j < 64 ? byte & 15 : byte >> 4) | (((block.high[half * 32 + (j & 31)] >> (2 * (j >> 5))) & 3) << 4);
}

EXPCTR_HOST_DEVICE float dequantise(const BlockQ4_0& block, int i) {
  return float_of_f16(block.d) * static_cast<float>(code_of(block, i) - 8);
}

EXPCTR_HOST_DEVICE float dequantise(const BlockQ4_1& block, int i) {
  const float scaled = float_of_f16(block.d) * static_cast<float>(code_of(block, i));
  return scaled + float_of_f16(block.m);
}

EXPCTR_HOST_DEVICE float dequantise(const BlockQ5_0& block, int i) {
  return float_of_f16(block.d) * static_cast<float>(code_of(block, i) - 16);
}

EXPCTR_HOST_DEVICE float dequantise(const BlockQ5_1& block, int i) {
  const float scaled = float_of_f16(block.d) * static_cast<float>(code_of(block, i));
  return scaled + float_of_f16(block.m);
}

EXPCTR_HOST_DEVICE float dequantise(const BlockQ8_0& block, int i) { return float_of_f16(block.d) * static_cast<float>(block.codes[i]); }

EXPCTR_HOST_DEVICE float dequantise(const BlockQ4_K& block, int i) {
  const float scale = float_of_f16(block.d) * static_cast<float>(packed_scale(block.scales, i >> 5, false));
  const float minimum = float_of_f16(block.minimum) * static_cast<float>(packed_scale(block.scales, i >> 5, true));
  const float scaled = scale * static_cast<float>(code_of(block, i));
  return scaled - minimum;
}

EXPCTR_HOST_DEVICE float dequantise(const BlockQ5_K& block, int i) {
  const float scale = float_of_f16(block.d) * static_cast<float>(packed_scale(block.scales, i >> 5, false));
  const float minimum = float_of_f16(block.minimum) * static_cast<float>(packed_scale(block.scales, i >> 5, true));
  const float scaled = scale * static_cast<float>(code_of(block, i));
  return scaled - minimum;
}

EXPCTR_HOST_DEVICE float dequantise(const BlockQ6_K& block, int i) {
  const float scale = float_of_f16(block.d) * static_cast<float>(block.scales[i >> 4]);
  return scale * static_cast<float>(code_of(block, i) - 32);
}

}  // namespace expctr
