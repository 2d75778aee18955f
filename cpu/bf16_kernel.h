// Operands in bf16. A pair of neighbouring inputs of one output or row is a 32-bit word (the first input in the low half), so that pairs
// move through the float32 packing and tiles as if they were numbers. Rounding is to nearest, ties to even.
#pragma once

#include <cstdint>
#include <cstring>

#include "base/blocks.h"
#include "cpu/gemm_kernel.h"

namespace expctr::cpu {

/// Pairs of rows: in float [count][32] -> out [(count + 1) / 2][32] words; a missing last row is zero.
template <class V>
void bf16_pairs(const float* in, std::int64_t count, float* out) {
  for (std::int64_t k = 0; k < count; k += 2, in += 2 * panel_width, out += panel_width) {
    std::uint32_t words[panel_width];
    for (int n = 0; n < panel_width; ++n) words[n] = bf16_of_float(in[n]);
    if (k + 1 < count)
      for (int n = 0; n < panel_width; ++n) words[n] |= static_cast<std::uint32_t>(bf16_of_float(in[panel_width + n])) << 16;
    std::memcpy(out, words, sizeof words);
  }
}

/// Pairs of neighbours: in float [count] -> out [(count + 1) / 2] words; a missing last number is zero.
template <class V>
void bf16_row(const float* in, std::int64_t count, float* out) {
  for (std::int64_t i = 0; i + 1 < count; i += 2) {
    const std::uint32_t word = bf16_of_float(in[i]) | static_cast<std::uint32_t>(bf16_of_float(in[i + 1])) << 16;
    std::memcpy(out + i / 2, &word, sizeof word);
  }
  if (count % 2 == 1) {
    const std::uint32_t word = bf16_of_float(in[count - 1]);
    std::memcpy(out + count / 2, &word, sizeof word);
  }
}

/// out[i] = in[i] rounded to bf16; in and out may be the same.
template <class V>
void bf16_round(const float* in, std::int64_t count, float* out) {
  for (std::int64_t i = 0; i < count; ++i) out[i] = float_of_bf16(bf16_of_float(in[i]));
}

/// Rows [k0, k1) of a panel of pairs [inputs / 2][32] as float [k1 - k0][32]; k0 is even.
template <class V>
void unpack_pairs(const void* panel, std::int64_t k0, std::int64_t k1, float* out) {
  const std::uint32_t* words = static_cast<const std::uint32_t*>(panel) + k0 / 2 * panel_width;
  for (std::int64_t k = k0; k < k1; k += 2, words += panel_width, out += 2 * panel_width) {
    for (int n = 0; n < panel_width; ++n) out[n] = float_of_bits(words[n] << 16);
    if (k + 1 < k1)
      for (int n = 0; n < panel_width; ++n) out[panel_width + n] = float_of_bits(words[n] & 0xFFFF0000u);
  }
}

}  // namespace expctr::cpu
