// Sixteen sums of four byte products in one AVX-512 register: with AVX512_VNNI, and without it. Both are exact, so they agree.
#pragma once

#include "cpu/simd_avx512.h"

namespace expctr::cpu {

namespace avx512 {

template <class Self>
struct BytesBase {
  using Float = Floats;
  static constexpr int int8_vectors = 2;
  __m512i all;

  static Self zero() { return {{_mm512_setzero_si512()}}; }
  static Self broadcast(std::int32_t x) { return {{_mm512_set1_epi32(x)}}; }
  static Self load(const std::uint8_t* p) { return {{_mm512_loadu_si512(p)}}; }
  Self low_nibbles() const { return {{_mm512_and_si512(all, _mm512_set1_epi8(15))}}; }
  Self high_nibbles() const { return {{_mm512_and_si512(_mm512_srli_epi16(all, 4), _mm512_set1_epi8(15))}}; }
  Floats to_float() const { return {_mm512_cvtepi32_ps(all)}; }
};

struct Bytes : BytesBase<Bytes> {
  static constexpr int int8_rows = 4;
  static constexpr bool signed_codes = true;  ///< WIDE codes are taken as code - 128

  /// sum + codes[4 i .. 4 i + 3] . x[4 i .. 4 i + 3] for every lane i; x in [-127, 127].
  template <bool WIDE>
  static Bytes add_products(Bytes sum, Bytes codes, Bytes x) {
    __m512i factor = x.all, magnitude = codes.all;
    if constexpr (WIDE) {  // the instruction wants one operand without sign: |code - 128| <= 128, and two products stay below 2^15
      const __m512i code = _mm512_xor_si512(codes.all, _mm512_set1_epi8(static_cast<char>(0x80)));
      factor = _mm512_mask_sub_epi8(factor, _mm512_movepi8_mask(code), _mm512_setzero_si512(), factor);
      magnitude = _mm512_abs_epi8(code);
    }
    const __m512i pairs = _mm512_maddubs_epi16(magnitude, factor);
    return {{_mm512_add_epi32(sum.all, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))}};
  }
};

}  // namespace avx512

#ifdef __AVX512VNNI__
namespace avx512vnni {

struct Bytes : avx512::BytesBase<Bytes> {
  static constexpr int int8_rows = 6;
  static constexpr bool signed_codes = false;

  template <bool WIDE>
  static Bytes add_products(Bytes sum, Bytes codes, Bytes x) {
    return {{_mm512_dpbusd_epi32(sum.all, codes.all, x.all)}};
  }
};

}  // namespace avx512vnni
#endif

}  // namespace expctr::cpu
