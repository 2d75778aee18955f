// Operands in bf16. A pair of neighbouring inputs of one output or row is a 32-bit word (the first input in the low half), so that pairs
// move through the float32 packing and tiles as if they were numbers. Rounding is to nearest, ties to even.
#pragma once

#include <cstdint>

#include "base/blocks.h"
#include "cpu/gemm_kernel.h"

namespace expctr::cpu {

/// Pairs of rows: in float [count][32] -> out [(count + 1) / 2][32] words; a missing last row is zero. in and out may be the same.
template <class V>
void bf16_pairs(const float* in, std::int64_t count, float* out) {
  for (std::int64_t k = 0; k < count; k += 2, in += 2 * panel_width, out += panel_width) {
    for (int n = 0; n < panel_width; n += 16) {
      const V second = k + 1 < count ? V::load(in + panel_width + n) : V::zero();
      V::bf16_pairs(V::load(in + n), second).store(out + n);
    }
  }
}

/// Pairs of neighbours: in float [count] -> out [(count + 1) / 2] words; a missing last number is zero.
template <class V>
void bf16_row(const float* in, std::int64_t count, float* out) {
  auto* halves = reinterpret_cast<std::uint16_t*>(out);
  std::int64_t i = 0;
  for (; i + 16 <= count; i += 16) V::load(in + i).store_bf16(halves + i);
  for (; i < count; ++i) halves[i] = bf16_of_float(in[i]);
  if (count % 2 == 1) halves[count] = 0;
}

/// out[i] = in[i] rounded to bf16; in and out may be the same.
template <class V>
void bf16_round(const float* in, std::int64_t count, float* out) {
  std::int64_t i = 0;
  for (; i + 16 <= count; i += 16) V::load(in + i).bf16().store(out + i);
  for (; i < count; ++i) out[i] = float_of_bf16(bf16_of_float(in[i]));
}

/// Rows [k0, k1) of a panel of pairs [inputs / 2][32] as float [k1 - k0][32]; k0 is even.
template <class V>
void unpack_pairs(const void* panel, std::int64_t k0, std::int64_t k1, float* out) {
  const float* words = static_cast<const float*>(panel) + k0 / 2 * panel_width;
  for (std::int64_t k = k0; k < k1; k += 2, words += panel_width, out += 2 * panel_width) {
    for (int n = 0; n < panel_width; n += 16) {
      const V pair = V::load(words + n);
      pair.first_of_pair().store(out + n);
      if (k + 1 < k1) pair.second_of_pair().store(out + panel_width + n);
    }
  }
}

}  // namespace expctr::cpu
