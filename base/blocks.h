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

/// 32 codes of 4 bits: value = d q + m. Byte j holds element j in its low and element j + 16 in its high half.
struct BlockQ4_1 {
  std::uint16_t d, m;
  std::uint8_t codes[16];
};
static_assert(sizeof(BlockQ4_1) == 20);

/// 32 signed codes of 8 bits: value = d q.
struct BlockQ8_0 {
  std::uint16_t d;
  std::int8_t codes[32];
};
static_assert(sizeof(BlockQ8_0) == 34);

EXPCTR_HOST_DEVICE float dequantise(const BlockQ4_1& block, int i) {
  const int code = i < 16 ? block.codes[i] & 15 : block.codes[i - 16] >> 4;
  const float scaled = float_of_f16(block.d) * static_cast<float>(code);
  return scaled + float_of_f16(block.m);
}

EXPCTR_HOST_DEVICE float dequantise(const BlockQ8_0& block, int i) { return float_of_f16(block.d) * static_cast<float>(block.codes[i]); }

}  // namespace expctr
