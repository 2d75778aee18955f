#include <doctest/doctest.h>

#include "base/blocks.h"
#include "base/philox.h"

using namespace expctr;

TEST_CASE("splitmix64 and fnv1a give their published values") {
  CHECK(splitmix64(0) == 0xE220A8397B1DCDAFull);
  CHECK(fnv1a("") == 0xCBF29CE484222325ull);
  CHECK(fnv1a("a") == 0xAF63DC4C8601EC8Cull);
}

TEST_CASE("philox4x32-10 gives the known answers of Random123") {
  const RandomBits zero = philox({0, 0}, {0, 0, 0, 0});
  CHECK(zero.word[0] == 0x6627e8d5u);
  CHECK(zero.word[1] == 0xe169c58du);
  CHECK(zero.word[2] == 0xbc57ac4cu);
  CHECK(zero.word[3] == 0x9b00dbd8u);
  const RandomBits pi = philox({0xa4093822u, 0x299f31d0u}, {0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u});
  CHECK(pi.word[0] == 0xd16cfe09u);
  CHECK(pi.word[1] == 0x94fdccebu);
  CHECK(pi.word[2] == 0x5001e420u);
  CHECK(pi.word[3] == 0x24126ea1u);
}

TEST_CASE("half precision conversions") {
  CHECK(float_of_f16(0x3C00) == 1.0f);
  CHECK(float_of_f16(0xC000) == -2.0f);
  CHECK(float_of_f16(0x0001) == doctest::Approx(5.9604644775390625e-8));
  CHECK(float_of_f16(0x7BFF) == 65504.0f);
  CHECK(bf16_of_float(1.0f) == 0x3F80);
  CHECK(bf16_of_float(float_of_bits(0x3F808000u)) == 0x3F80);  // tie goes to even
  CHECK(bf16_of_float(float_of_bits(0x3F818000u)) == 0x3F82);
  CHECK(float_of_bf16(0x4049) == doctest::Approx(3.140625));
}
