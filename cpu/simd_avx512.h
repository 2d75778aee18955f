// Sixteen float lanes in one AVX-512 register. The same interface and, operation by operation, the same results as cpu/simd_v3.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace expctr::cpu::avx512 {

struct Lanes {
  __m512i all;
};

struct Floats {
  using Integers = Lanes;
  __m512 all;

  static constexpr int tile_rows = 12;
  static constexpr int direct_rows = 8;
  static constexpr int fused_rows = 8;
  static constexpr int tile_vectors = 2;

  static Floats zero() { return {_mm512_setzero_ps()}; }
  static Floats broadcast(float x) { return {_mm512_set1_ps(x)}; }
  static Floats load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static Floats load(const float* p, int n) { return {_mm512_maskz_loadu_ps(mask(n), p)}; }
  void store(float* p) const { _mm512_storeu_ps(p, all); }
  void store(float* p, int n) const { _mm512_mask_storeu_ps(p, mask(n), all); }
  static Floats load_f16(const std::uint16_t* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))}; }
  static Floats load_bf16(const std::uint16_t* p) {
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16))};
  }
  static Floats load_i8(const std::int8_t* p) {
    return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
  }
  static Floats load_u8(const std::uint8_t* p) { return {_mm512_cvtepi32_ps(load_lanes(p).all)}; }
  static Lanes load_lanes(const std::uint32_t* p) { return {_mm512_loadu_si512(p)}; }
  static Lanes load_lanes(const std::uint16_t* p) {
    return {_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
  static Lanes load_lanes(const std::uint8_t* p) { return {_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))}; }
  template <int i>
  static Floats nibble(Lanes x) {
    // The permutation looks at the lowest four bits of a lane only.
    const __m512 numbers = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return {_mm512_permutexvar_ps(_mm512_srli_epi32(x.all, 4 * i), numbers)};
  }

  /// Bits 4 i to 4 i + 3 of `low` with the i-th group of BITS bits of `high` above them, as numbers.
  template <int i, int BITS>
  static Floats code(Lanes low, Lanes high) {
    const __m512i above = _mm512_and_si512(_mm512_srli_epi32(high.all, BITS * i), _mm512_set1_epi32((1 << BITS) - 1));
    const __m512i below = _mm512_and_si512(_mm512_srli_epi32(low.all, 4 * i), _mm512_set1_epi32(15));
    return {_mm512_cvtepi32_ps(_mm512_or_si512(below, _mm512_slli_epi32(above, 4)))};
  }
  /// Byte i of every lane, as numbers 0 to 255.
  template <int i>
  static Floats byte(Lanes x) {
    return {_mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(x.all, 8 * i), _mm512_set1_epi32(255)))};
  }

  /// Rounded to bf16 (nearest, ties to even; not-a-number stays one).
  Floats bf16() const { return {_mm512_castsi512_ps(_mm512_and_si512(bf16_bits(), _mm512_set1_epi32(static_cast<int>(0xFFFF0000u))))}; }
  void store_bf16(std::uint16_t* p) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(bf16_bits(), 16)));
  }
  /// Words of two bf16: `first` in the low halves.
  static Floats bf16_pairs(Floats first, Floats second) {
    return {_mm512_castsi512_ps(_mm512_or_si512(_mm512_srli_epi32(first.bf16_bits(), 16), _mm512_castps_si512(second.bf16().all)))};
  }
  Floats first_of_pair() const { return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(all), 16))}; }
  Floats second_of_pair() const {
    return {_mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(all), _mm512_set1_epi32(static_cast<int>(0xFFFF0000u))))};
  }
  /// Whole numbers in [-128, 127] as bytes.
  void store_i8(std::int8_t* p) const { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(all))); }
  /// Whole numbers as 32-bit integers in the lanes.
  Floats integer_bits() const { return {_mm512_castsi512_ps(_mm512_cvtps_epi32(all))}; }
  /// The larger of |a| and |b| in every lane; not-a-number is above infinity.
  static Floats larger_magnitude(Floats a, Floats b) {
    const __m512i no_sign = _mm512_set1_epi32(0x7FFFFFFF);
    return larger_bits({_mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(a.all), no_sign))},
                       {_mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(b.all), no_sign))});
  }
  /// Lane i: the largest lane of x[i]; no x is negative, not-a-number is above infinity.
  static Floats largest_of_each(const Floats (&x)[16]) { return join_each(x, larger_bits); }
  /// Lane i: the sum of the lanes of x[i]. Not the order of sum(): for sums that are exact.
  static Floats sum_of_each(const Floats (&x)[16]) {
    return join_each(x, [](Floats a, Floats b) { return a + b; });
  }

  friend Floats operator+(Floats a, Floats b) { return {_mm512_add_ps(a.all, b.all)}; }
  friend Floats operator-(Floats a, Floats b) { return {_mm512_sub_ps(a.all, b.all)}; }
  friend Floats operator*(Floats a, Floats b) { return {_mm512_mul_ps(a.all, b.all)}; }
  friend Floats operator/(Floats a, Floats b) { return {_mm512_div_ps(a.all, b.all)}; }
  static Floats fma(Floats a, Floats b, Floats c) { return {_mm512_fmadd_ps(a.all, b.all, c.all)}; }
  static Floats max(Floats a, Floats b) { return {_mm512_max_ps(a.all, b.all)}; }
  static Floats min(Floats a, Floats b) { return {_mm512_min_ps(a.all, b.all)}; }
  static Floats round(Floats a) { return {_mm512_roundscale_ps(a.all, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
  static Floats times_power_of_two(Floats a, Floats n) { return {_mm512_scalef_ps(a.all, n.all)}; }
  static Floats select_less(Floats a, Floats b, Floats x, Floats y) {
    return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.all, b.all, _CMP_LT_OQ), y.all, x.all)};
  }
  static Floats first(int n, Floats x, Floats y) { return {_mm512_mask_blend_ps(mask(n), y.all, x.all)}; }
  static void transpose(const float* in, std::int64_t in_stride, int rows, float* out, std::int64_t out_stride) {
    __m512 x[16], pairs[16], fours[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) x[i] = i < rows ? _mm512_loadu_ps(in + i * in_stride) : _mm512_setzero_ps();
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
      pairs[i] = _mm512_unpacklo_ps(x[i], x[i + 1]);
      pairs[i + 1] = _mm512_unpackhi_ps(x[i], x[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4)
#pragma GCC unroll 2
      for (int j = 0; j < 2; ++j) {
        const __m512d a = _mm512_castps_pd(pairs[i + j]), b = _mm512_castps_pd(pairs[i + 2 + j]);
        fours[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
        fours[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
      }
    // fours[4 g + c] holds, in its 128-bit part p, column 4 p + c of rows 4 g .. 4 g + 3.
    const __mmask16 lanes = mask(rows);
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      const __m512 low_a = _mm512_shuffle_f32x4(fours[c], fours[4 + c], 0x44),
                   low_b = _mm512_shuffle_f32x4(fours[8 + c], fours[12 + c], 0x44);
      const __m512 high_a = _mm512_shuffle_f32x4(fours[c], fours[4 + c], 0xEE),
                   high_b = _mm512_shuffle_f32x4(fours[8 + c], fours[12 + c], 0xEE);
      _mm512_mask_storeu_ps(out + c * out_stride, lanes, _mm512_shuffle_f32x4(low_a, low_b, 0x88));
      _mm512_mask_storeu_ps(out + (4 + c) * out_stride, lanes, _mm512_shuffle_f32x4(low_a, low_b, 0xDD));
      _mm512_mask_storeu_ps(out + (8 + c) * out_stride, lanes, _mm512_shuffle_f32x4(high_a, high_b, 0x88));
      _mm512_mask_storeu_ps(out + (12 + c) * out_stride, lanes, _mm512_shuffle_f32x4(high_a, high_b, 0xDD));
    }
  }
  float sum() const {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
  }
  float largest() const {
    const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
  }

 private:
  static Floats larger_bits(Floats a, Floats b) {
    return {_mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(a.all), _mm512_castps_si512(b.all)))};
  }
  /// Lane i: the lanes of x[i] joined by `join`, in halves: the steps of transpose() with half as many vectors after each.
  template <class Join>
  static Floats join_each(const Floats (&x)[16], const Join& join) {
    Floats fours[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const Floats* f = x + 4 * i;
      const Floats a = join({_mm512_unpacklo_ps(f[0].all, f[1].all)}, {_mm512_unpackhi_ps(f[0].all, f[1].all)});
      const Floats b = join({_mm512_unpacklo_ps(f[2].all, f[3].all)}, {_mm512_unpackhi_ps(f[2].all, f[3].all)});
      const __m512d c = _mm512_castps_pd(a.all), d = _mm512_castps_pd(b.all);
      fours[i] = join({_mm512_castpd_ps(_mm512_unpacklo_pd(c, d))}, {_mm512_castpd_ps(_mm512_unpackhi_pd(c, d))});
    }
    const auto shuffled = [&](const Floats& a, const Floats& b) {
      return join({_mm512_shuffle_f32x4(a.all, b.all, 0x44)}, {_mm512_shuffle_f32x4(a.all, b.all, 0xEE)});
    };
    const Floats a = shuffled(fours[0], fours[1]), b = shuffled(fours[2], fours[3]);
    return join({_mm512_shuffle_f32x4(a.all, b.all, 0x88)}, {_mm512_shuffle_f32x4(a.all, b.all, 0xDD)});
  }
  /// In the upper half of a lane.
  __m512i bf16_bits() const {
    const __m512i bits = _mm512_castps_si512(all);
    const __m512i even = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(even, _mm512_set1_epi32(0x7FFF)));
    return _mm512_mask_or_epi32(rounded, _mm512_cmp_ps_mask(all, all, _CMP_UNORD_Q), bits, _mm512_set1_epi32(0x400000));
  }
  static __mmask16 mask(int n) { return static_cast<__mmask16>(n <= 0 ? 0 : n >= 16 ? 0xFFFF : (1 << n) - 1); }
};

}  // namespace expctr::cpu::avx512
