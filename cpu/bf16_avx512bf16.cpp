// Products of pairs of bf16 by AVX512_BF16: the float32 tiles with another multiply-add. Its sum of a pair is added to the accumulator with
// the instruction's own rounding (no subnormal numbers), pairs ascending; row count and place change no bit.
// g++ 12 reports the undefined operands inside its own AVX-512 intrinsics (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"

#include "cpu/gemm_kernel.h"
#include "cpu/kernel_table.h"
#include "cpu/simd_avx512.h"
#include "cpu/weight_kernel.h"

namespace expctr::cpu {
namespace {

/// Sixteen floats where sums are meant, sixteen pairs of bf16 where factors are.
struct Pairs {
  __m512 all;

  static constexpr int tile_rows = avx512::Floats::tile_rows;
  static constexpr int tile_vectors = avx512::Floats::tile_vectors;

  static Pairs zero() { return {_mm512_setzero_ps()}; }
  static Pairs broadcast(float x) { return {_mm512_set1_ps(x)}; }
  static Pairs load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static Pairs load(const float* p, int n) { return {avx512::Floats::load(p, n).all}; }
  void store(float* p) const { _mm512_storeu_ps(p, all); }
  void store(float* p, int n) const { avx512::Floats{all}.store(p, n); }
  friend Pairs operator+(Pairs a, Pairs b) { return {_mm512_add_ps(a.all, b.all)}; }
  static Pairs fma(Pairs a, Pairs b, Pairs sum) {
    return {_mm512_dpbf16_ps(sum.all, reinterpret_cast<__m512bh>(a.all), reinterpret_cast<__m512bh>(b.all))};
  }
};

/// Values of a block as pairs of bf16. The conversion flushes subnormal numbers, which the product would take for zeros anyway.
struct PairProduct {
  using Floats = avx512::Floats;
  static constexpr int inputs = 2, fused_rows = 4;

  template <int i, class Reader>
  static Floats weight(const Reader& reader) {
    const __m512bh both = _mm512_cvtne2ps_pbh(reader.template value<2 * i + 1>().all, reader.template value<2 * i>().all);
    const __m512i order = _mm512_setr_epi32(0x100000, 0x110001, 0x120002, 0x130003, 0x140004, 0x150005, 0x160006, 0x170007, 0x180008,
                                            0x190009, 0x1A000A, 0x1B000B, 0x1C000C, 0x1D000D, 0x1E000E, 0x1F000F);
    return {_mm512_castsi512_ps(_mm512_permutexvar_epi16(order, reinterpret_cast<__m512i>(both)))};
  }
  static Floats fma(Floats a, Floats b, Floats sum) { return {Pairs::fma({a.all}, {b.all}, {sum.all}).all}; }
};

}  // namespace

void add_bf16_kernels(KernelTable& table) {
  table.bf16_fused_rows = PairProduct::fused_rows;
  table.bf16_panel = gemm_panel<Pairs>;
  table.quantised_bf16_rows = quantised_rows<avx512::Floats, PairProduct>;
}

}  // namespace expctr::cpu
