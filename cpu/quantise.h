// Numbers to 8 bits, 32 at a time.
#pragma once

#include <cstdint>

#include "base/blocks.h"

namespace expctr::cpu {

/// codes[i] = x[i] / scale rounded to nearest (ties to even), in [-127, 127]; returns scale = largest |x| / 127. Zeros, or numbers too
/// small for a scale, give scale 0; an infinity or not-a-number gives codes 0 and the scale not-a-number, so that what is made of them
/// shows it.
inline float quantise_32(const float* x, std::int32_t* codes) {
  std::uint32_t largest = 0;  // of |x| as bits: the order of the numbers, not-a-number above all
  for (int i = 0; i < 32; ++i) {
    const std::uint32_t magnitude = bits_of_float(x[i]) & 0x7FFFFFFFu;
    largest = magnitude > largest ? magnitude : largest;
  }
  constexpr std::uint32_t smallest = 0x02000000u, infinity = 0x7F800000u;  // 127 / 2^-123 is finite
  const bool usable = largest >= smallest && largest < infinity;
  const float top = usable ? float_of_bits(largest) : 1.0f, inverse = 127.0f / top;
  constexpr float round_to_integer = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  for (int i = 0; i < 32; ++i) {
    const float shifted = (usable ? x[i] : 0.0f) * inverse + round_to_integer;
    codes[i] = static_cast<std::int32_t>(bits_of_float(shifted) - bits_of_float(round_to_integer));
  }
  if (largest >= infinity) return float_of_bits(0x7FC00000u);
  return usable ? top / 127.0f : 0.0f;
}

}  // namespace expctr::cpu
