// Products of pairs of bf16 by AVX512_BF16: the float32 tiles with another multiply-add. Its sum of a pair is added to the accumulator with
// the instruction's own rounding (no subnormal numbers), pairs ascending; row count and place change no bit.
// g++ 12 reports the undefined operands inside its own AVX-512 intrinsics (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"

#include "cpu/gemm_kernel.h"
#include "cpu/kernel_table.h"
#include "cpu/simd_avx512.h"

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

}  // namespace

void add_bf16_kernels(KernelTable& table) { table.bf16_panel = gemm_panel<Pairs>; }

}  // namespace expctr::cpu
