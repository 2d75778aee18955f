// Numbers to 8 bits, 32 at a time: codes = x / scale rounded to nearest (ties to even), in [-127, 127].
#pragma once

#include <cmath>
#include <cstdint>

#include "base/blocks.h"

namespace expctr::cpu {

/// scale = largest |x| / 127. Zeros, or numbers too small for a scale, give scale 0; an infinity or not-a-number gives codes 0 and the
/// scale not-a-number, so that what is made of them shows it. Both have inverse 0.
struct Int8Scale {
  float scale, inverse;

  /// largest: the largest |x| as bits, whose order is that of the numbers, not-a-number above all.
  explicit Int8Scale(std::uint32_t largest) {
    constexpr std::uint32_t smallest = 0x02000000u, infinity = 0x7F800000u;  // 127 / 2^-123 is finite
    const bool usable = largest >= smallest && largest < infinity;
    const float top = usable ? float_of_bits(largest) : 1.0f;
    scale = usable ? top / 127.0f : largest >= infinity ? float_of_bits(0x7FC00000u) : 0.0f;
    inverse = usable ? 127.0f / top : 0.0f;
  }
};

/// The same in every lane; V: 16 floats.
template <class V>
struct Int8Scales {
  V scale, inverse;

  explicit Int8Scales(V largest) {
    const V smallest = V::broadcast(float_of_bits(0x02000000u)), infinity = V::broadcast(float_of_bits(0x7F800000u)),
            nan = V::broadcast(float_of_bits(0x7FC00000u)), most = V::broadcast(127.0f), zero = V::zero();
    scale = V::select_less(largest, smallest, zero, V::select_less(largest, infinity, largest / most, nan));
    inverse = V::select_less(largest, smallest, zero, V::select_less(largest, infinity, most / largest, zero));
  }
};

/// Returns the scale of 32 numbers and writes their codes.
inline float quantise_32(const float* x, std::int32_t* codes) {
  std::uint32_t largest = 0;
  for (int i = 0; i < 32; ++i) {
    const std::uint32_t magnitude = bits_of_float(x[i]) & 0x7FFFFFFFu;
    largest = magnitude > largest ? magnitude : largest;
  }
  const Int8Scale scale(largest);
  for (int i = 0; i < 32; ++i) codes[i] = scale.inverse == 0 ? 0 : static_cast<std::int32_t>(std::nearbyint(x[i] * scale.inverse));
  return scale.scale;
}

}  // namespace expctr::cpu
