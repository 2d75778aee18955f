// Sixteen float lanes in two AVX registers. The same interface and, operation by operation, the same results as cpu/simd_avx512.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace expctr::cpu::v3 {

struct Lanes {
  __m256i low, high;
};

struct Floats {
  using Integers = Lanes;
  __m256 low, high;

  static constexpr int tile_rows = 6;     ///< rows of a matrix tile that fit the registers, with ...
  static constexpr int direct_rows = 2;   ///< rows of a tile that reads an unpacked operand
  static constexpr int fused_rows = 4;    ///< rows of a tile that also unpacks its weights
  static constexpr int tile_vectors = 1;  ///< ... this many vectors of 16 columns

  static Floats zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static Floats broadcast(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static Floats load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static Floats load(const float* p, int n) { return {_mm256_maskload_ps(p, mask(n)), _mm256_maskload_ps(p + 8, mask(n - 8))}; }
  void store(float* p) const {
    _mm256_storeu_ps(p, low);
    _mm256_storeu_ps(p + 8, high);
  }
  void store(float* p, int n) const {
    _mm256_maskstore_ps(p, mask(n), low);
    _mm256_maskstore_ps(p + 8, mask(n - 8), high);
  }
  static Floats load_f16(const std::uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
            _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
  }
  static Floats load_bf16(const std::uint16_t* p) { return {widen_bf16(p), widen_bf16(p + 8)}; }
  static Floats load_i8(const std::int8_t* p) {
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)))),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + 8))))};
  }
  static Floats load_u8(const std::uint8_t* p) {
    const Lanes x = load_lanes(p);
    return {_mm256_cvtepi32_ps(x.low), _mm256_cvtepi32_ps(x.high)};
  }
  static Lanes load_lanes(const std::uint16_t* p) {
    return {_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
            _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
  }
  static Lanes load_lanes(const std::uint8_t* p) {
    return {_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))),
            _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + 8)))};
  }
  static Lanes load_lanes(const std::uint32_t* p) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 8))};
  }
  /// Bits 4 i to 4 i + 3 of every lane, as numbers 0 to 15.
  template <int i>
  static Floats nibble(Lanes x) {
    const __m256i fifteen = _mm256_set1_epi32(15);
    return {_mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(x.low, 4 * i), fifteen)),
            _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(x.high, 4 * i), fifteen))};
  }

  /// Bits 4 i to 4 i + 3 of `low` with the i-th group of BITS bits of `high` above them, as numbers.
  template <int i, int BITS>
  static Floats code(Lanes low, Lanes high) {
    return {code<i, BITS>(low.low, high.low), code<i, BITS>(low.high, high.high)};
  }
  /// Byte i of every lane, as numbers 0 to 255.
  template <int i>
  static Floats byte(Lanes x) {
    const __m256i all = _mm256_set1_epi32(255);
    return {_mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(x.low, 8 * i), all)),
            _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(x.high, 8 * i), all))};
  }

  /// Rounded to bf16 (nearest, ties to even; not-a-number stays one).
  Floats bf16() const { return {upper(bf16_bits(low)), upper(bf16_bits(high))}; }
  void store_bf16(std::uint16_t* p) const {
    const __m256i halves = _mm256_packus_epi32(_mm256_srli_epi32(bf16_bits(low), 16), _mm256_srli_epi32(bf16_bits(high), 16));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(halves, 0xD8));
  }
  /// Words of two bf16: `first` in the low halves.
  static Floats bf16_pairs(Floats first, Floats second) {
    const Floats above = second.bf16();
    return {_mm256_castsi256_ps(_mm256_or_si256(_mm256_srli_epi32(bf16_bits(first.low), 16), _mm256_castps_si256(above.low))),
            _mm256_castsi256_ps(_mm256_or_si256(_mm256_srli_epi32(bf16_bits(first.high), 16), _mm256_castps_si256(above.high)))};
  }
  Floats first_of_pair() const {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(low), 16)),
            _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(high), 16))};
  }
  Floats second_of_pair() const { return {upper(_mm256_castps_si256(low)), upper(_mm256_castps_si256(high))}; }
  /// Whole numbers in [-128, 127] as bytes.
  void store_i8(std::int8_t* p) const {
    const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(low), _mm256_cvtps_epi32(high));
    const __m256i bytes = _mm256_permute4x64_epi64(words, 0xD8);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1)));
  }
  /// Whole numbers as 32-bit integers in the lanes.
  Floats integer_bits() const { return {_mm256_castsi256_ps(_mm256_cvtps_epi32(low)), _mm256_castsi256_ps(_mm256_cvtps_epi32(high))}; }
  /// The larger of |a| and |b| in every lane; not-a-number is above infinity.
  static Floats larger_magnitude(Floats a, Floats b) {
    const __m256 no_sign = _mm256_castsi256_ps(_mm256_set1_epi32(0x7FFFFFFF));
    return {larger_bits(_mm256_and_ps(a.low, no_sign), _mm256_and_ps(b.low, no_sign)),
            larger_bits(_mm256_and_ps(a.high, no_sign), _mm256_and_ps(b.high, no_sign))};
  }
  /// Lane i: the largest lane of x[i]; no x is negative, not-a-number is above infinity.
  static Floats largest_of_each(const Floats (&x)[16]) { return {join_each(x, larger_bits), join_each(x + 8, larger_bits)}; }
  /// Lane i: the sum of the lanes of x[i]. Not the order of sum(): for sums that are exact.
  static Floats sum_of_each(const Floats (&x)[16]) {
    const auto add = [](__m256 a, __m256 b) { return _mm256_add_ps(a, b); };
    return {join_each(x, add), join_each(x + 8, add)};
  }

  friend Floats operator+(Floats a, Floats b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
  friend Floats operator-(Floats a, Floats b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
  friend Floats operator*(Floats a, Floats b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
  friend Floats operator/(Floats a, Floats b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
  static Floats fma(Floats a, Floats b, Floats c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
  }
  static Floats max(Floats a, Floats b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
  static Floats min(Floats a, Floats b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
  static Floats round(Floats a) {
    constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(a.low, mode), _mm256_round_ps(a.high, mode)};
  }
  /// a 2^n for whole n in [-252, 254], rounded once: in two steps, of which the first is exact for a in [1/2, 2].
  static Floats times_power_of_two(Floats a, Floats n) {
    const Floats half = round(n * broadcast(0.5f)), rest = n - half;
    return a * Floats{power_of_two(half.low), power_of_two(half.high)} * Floats{power_of_two(rest.low), power_of_two(rest.high)};
  }
  /// a < b ? x : y, lane by lane.
  static Floats select_less(Floats a, Floats b, Floats x, Floats y) {
    return {_mm256_blendv_ps(y.low, x.low, _mm256_cmp_ps(a.low, b.low, _CMP_LT_OQ)),
            _mm256_blendv_ps(y.high, x.high, _mm256_cmp_ps(a.high, b.high, _CMP_LT_OQ))};
  }
  /// The first n lanes of x, the others from y.
  static Floats first(int n, Floats x, Floats y) {
    return {_mm256_blendv_ps(y.low, x.low, _mm256_castsi256_ps(mask(n))),
            _mm256_blendv_ps(y.high, x.high, _mm256_castsi256_ps(mask(n - 8)))};
  }
  /// out[c * out_stride + r] = in[r * in_stride + c] for r < rows <= 16, c < 16.
  static void transpose(const float* in, std::int64_t in_stride, int rows, float* out, std::int64_t out_stride) {
    int r = 0;
    for (; r + 8 <= rows; r += 8) {
      transpose_8x8(in + r * in_stride, in_stride, out + r, out_stride);
      transpose_8x8(in + r * in_stride + 8, in_stride, out + 8 * out_stride + r, out_stride);
    }
    for (; r < rows; ++r)
      for (int c = 0; c < 16; ++c) out[c * out_stride + r] = in[r * in_stride + c];
  }
  /// Lane i + lane i + 8, then + 4, + 2, + 1.
  float sum() const {
    const __m256 eight = _mm256_add_ps(low, high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
  }
  float largest() const {
    const __m256 eight = _mm256_max_ps(low, high);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
  }

 private:
  static __m256 larger_bits(__m256 a, __m256 b) {
    return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
  }
  /// Lane i: the lanes of x[i] of eight joined by `join`, in halves.
  template <class Join>
  static __m256 join_each(const Floats* x, const Join& join) {
    __m256 fours[2];
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      __m256 f[4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) f[j] = join(x[4 * i + j].low, x[4 * i + j].high);
      const __m256d a = _mm256_castps_pd(join(_mm256_unpacklo_ps(f[0], f[1]), _mm256_unpackhi_ps(f[0], f[1])));
      const __m256d b = _mm256_castps_pd(join(_mm256_unpacklo_ps(f[2], f[3]), _mm256_unpackhi_ps(f[2], f[3])));
      fours[i] = join(_mm256_castpd_ps(_mm256_unpacklo_pd(a, b)), _mm256_castpd_ps(_mm256_unpackhi_pd(a, b)));
    }
    return join(_mm256_permute2f128_ps(fours[0], fours[1], 0x20), _mm256_permute2f128_ps(fours[0], fours[1], 0x31));
  }
  static __m256i mask(int n) { return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)); }
  static void transpose_8x8(const float* in, std::int64_t in_stride, float* out, std::int64_t out_stride) {
    __m256 x[8], pairs[8], fours[8];
    for (int i = 0; i < 8; ++i) x[i] = _mm256_loadu_ps(in + i * in_stride);
    for (int i = 0; i < 8; i += 2) {
      pairs[i] = _mm256_unpacklo_ps(x[i], x[i + 1]);
      pairs[i + 1] = _mm256_unpackhi_ps(x[i], x[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
      for (int j = 0; j < 2; ++j) {
        const __m256d a = _mm256_castps_pd(pairs[i + j]), b = _mm256_castps_pd(pairs[i + 2 + j]);
        fours[i + 2 * j] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, b));
        fours[i + 2 * j + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, b));
      }
    for (int c = 0; c < 4; ++c) {
      _mm256_storeu_ps(out + c * out_stride, _mm256_permute2f128_ps(fours[c], fours[4 + c], 0x20));
      _mm256_storeu_ps(out + (4 + c) * out_stride, _mm256_permute2f128_ps(fours[c], fours[4 + c], 0x31));
    }
  }
  static __m256i bf16_bits(__m256 x) {  // in the upper half of a lane
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i even = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(even, _mm256_set1_epi32(0x7FFF)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    return _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)));
  }
  static __m256 upper(__m256i x) { return _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(static_cast<int>(0xFFFF0000u)))); }
  template <int i, int BITS>
  static __m256 code(__m256i low, __m256i high) {
    const __m256i above = _mm256_and_si256(_mm256_srli_epi32(high, BITS * i), _mm256_set1_epi32((1 << BITS) - 1));
    const __m256i below = _mm256_and_si256(_mm256_srli_epi32(low, 4 * i), _mm256_set1_epi32(15));
    return _mm256_cvtepi32_ps(_mm256_or_si256(below, _mm256_slli_epi32(above, 4)));
  }
  static __m256 widen_bf16(const std::uint16_t* p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16));
  }
  static __m256 power_of_two(__m256 n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
  }
};

/// Sixteen sums of four byte products in two AVX registers; the interface of avx512::Bytes.
struct Bytes {
  using Float = Floats;
  static constexpr int int8_rows = 2;
  static constexpr int int8_vectors = 1;
  static constexpr bool signed_codes = true;
  __m256i low, high;

  static Bytes zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  static Bytes broadcast(std::int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
  static Bytes load(const std::uint8_t* p) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))};
  }
  Bytes low_nibbles() const {
    const __m256i fifteen = _mm256_set1_epi8(15);
    return {_mm256_and_si256(low, fifteen), _mm256_and_si256(high, fifteen)};
  }
  Bytes high_nibbles() const { return Bytes{_mm256_srli_epi16(low, 4), _mm256_srli_epi16(high, 4)}.low_nibbles(); }
  Floats to_float() const { return {_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high)}; }
  template <bool WIDE>
  static Bytes add_products(Bytes sum, Bytes codes, Bytes x) {
    return {add_products<WIDE>(sum.low, codes.low, x.low), add_products<WIDE>(sum.high, codes.high, x.high)};
  }

 private:
  template <bool WIDE>
  static __m256i add_products(__m256i sum, __m256i codes, __m256i x) {
    if constexpr (WIDE) {  // the instruction wants one operand without sign: |code - 128| <= 128, and two products stay below 2^15
      codes = _mm256_xor_si256(codes, _mm256_set1_epi8(static_cast<char>(0x80)));
      x = _mm256_sign_epi8(x, codes);
      codes = _mm256_abs_epi8(codes);
    }
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(codes, x), _mm256_set1_epi16(1)));
  }
};

}  // namespace expctr::cpu::v3
