// The roofs that speeds are shares of. Arithmetic: independent chains of fused multiply-adds, or of products of bf16 pairs or bytes, that
// stay in registers, in the widest vectors in use. Memory: the triad of STREAM (McCalpin 1995), best of several passes.
#include <immintrin.h>

#include <atomic>
#include <limits>

#include "bench/suite/measure.h"
#include "cpu/isa.h"
#include "cpu/thread_pool.h"

namespace expctr {

namespace {

constexpr int chains = 12;  // hides the latency of 4 cycles on two units
constexpr std::int64_t rounds = 2000000;

float multiply_add_v3(float x) {
  __m256 sum[chains];
  for (int c = 0; c < chains; ++c) sum[c] = _mm256_set1_ps(x + static_cast<float>(c));  // different, or the compiler keeps one chain
  const __m256 a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(1e-3f);
  for (std::int64_t i = 0; i < rounds; ++i)
#pragma GCC unroll 12
    for (int c = 0; c < chains; ++c) sum[c] = _mm256_fmadd_ps(sum[c], a, b);
  for (int c = 1; c < chains; ++c) sum[0] = _mm256_add_ps(sum[0], sum[c]);
  return _mm256_cvtss_f32(sum[0]);
}

__attribute__((target("avx512f"))) float multiply_add_avx512(float x) {
  __m512 sum[chains];
  for (int c = 0; c < chains; ++c) sum[c] = _mm512_set1_ps(x + static_cast<float>(c));
  const __m512 a = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(1e-3f);
  for (std::int64_t i = 0; i < rounds; ++i)
#pragma GCC unroll 12
    for (int c = 0; c < chains; ++c) sum[c] = _mm512_fmadd_ps(sum[c], a, b);
  for (int c = 1; c < chains; ++c) sum[0] = _mm512_add_ps(sum[0], sum[c]);
  return _mm512_cvtss_f32(sum[0]);
}

__attribute__((target("avx512f,avx512bf16"))) float multiply_pairs(float x) {
  __m512 sum[chains];
  for (int c = 0; c < chains; ++c) sum[c] = _mm512_set1_ps(x + static_cast<float>(c));
  const __m512bh ones = reinterpret_cast<__m512bh>(_mm512_set1_epi32(0x3F803F80));
  for (std::int64_t i = 0; i < rounds; ++i)
#pragma GCC unroll 12
    for (int c = 0; c < chains; ++c) sum[c] = _mm512_dpbf16_ps(sum[c], ones, ones);
  for (int c = 1; c < chains; ++c) sum[0] = _mm512_add_ps(sum[0], sum[c]);
  return _mm512_cvtss_f32(sum[0]);
}

__attribute__((target("avx512f,avx512vnni"))) float multiply_bytes_vnni(float x) {
  __m512i sum[chains];
  for (int c = 0; c < chains; ++c) sum[c] = _mm512_set1_epi32(static_cast<int>(x) + c);
  const __m512i ones = _mm512_set1_epi8(1);
  for (std::int64_t i = 0; i < rounds; ++i)
#pragma GCC unroll 12
    for (int c = 0; c < chains; ++c) sum[c] = _mm512_dpbusd_epi32(sum[c], ones, ones);
  for (int c = 1; c < chains; ++c) sum[0] = _mm512_add_epi32(sum[0], sum[c]);
  return static_cast<float>(_mm512_cvtsi512_si32(sum[0]));
}

// Without VNNI a product of bytes takes three instructions. The empty assembly hides that all operands are the same.
__attribute__((target("avx512f,avx512bw"))) float multiply_bytes_avx512(float x) {
  __m512i sum[chains], ones = _mm512_set1_epi16(1);
  for (int c = 0; c < chains; ++c) sum[c] = _mm512_set1_epi32(static_cast<int>(x) + c);
  for (std::int64_t i = 0; i < rounds; ++i)
#pragma GCC unroll 12
    for (int c = 0; c < chains; ++c) {
      asm volatile("" : "+v"(ones));
      sum[c] = _mm512_add_epi32(sum[c], _mm512_madd_epi16(_mm512_maddubs_epi16(ones, ones), ones));
    }
  for (int c = 1; c < chains; ++c) sum[0] = _mm512_add_epi32(sum[0], sum[c]);
  return static_cast<float>(_mm512_cvtsi512_si32(sum[0]));
}

float multiply_bytes_v3(float x) {
  __m256i sum[chains], ones = _mm256_set1_epi16(1);
  for (int c = 0; c < chains; ++c) sum[c] = _mm256_set1_epi32(static_cast<int>(x) + c);
  for (std::int64_t i = 0; i < rounds; ++i)
#pragma GCC unroll 12
    for (int c = 0; c < chains; ++c) {
      asm volatile("" : "+x"(ones));
      sum[c] = _mm256_add_epi32(sum[c], _mm256_madd_epi16(_mm256_maddubs_epi16(ones, ones), ones));
    }
  for (int c = 1; c < chains; ++c) sum[0] = _mm256_add_epi32(sum[0], sum[c]);
  return static_cast<float>(_mm256_cvtsi256_si32(sum[0]));
}

double fastest(int passes, const std::function<void()>& body) {
  double best = std::numeric_limits<double>::infinity();
  for (int pass = 0; pass < passes; ++pass) {
    const StopWatch watch;
    body();
    best = std::min(best, watch.elapsed().wall);
  }
  return best;
}

}  // namespace

Ceilings measure_ceilings() {
  const cpu::Isa isa = cpu::active_isa();
  const int threads = cpu::thread_count();
  std::atomic<float> sink{0};
  const auto arithmetic = [&](int products, float (*chain)(float)) {
    const double seconds = fastest(3, [&] {
      cpu::parallel_for(threads, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) sink = sink + chain(1.0f);
      });
    });
    return 2e-9 * products * chains * static_cast<double>(rounds) * threads / seconds;
  };
  Ceilings ceilings;
  ceilings.gflops = isa >= cpu::Isa::avx512 ? arithmetic(16, multiply_add_avx512) : arithmetic(8, multiply_add_v3);
  ceilings.bf16_gflops = isa >= cpu::Isa::avx512bf16 ? arithmetic(32, multiply_pairs) : ceilings.gflops;
  ceilings.int8_gflops = isa >= cpu::Isa::avx512vnni ? arithmetic(64, multiply_bytes_vnni)
                         : isa >= cpu::Isa::avx512   ? arithmetic(64, multiply_bytes_avx512)
                                                     : arithmetic(32, multiply_bytes_v3);

  constexpr std::int64_t elements = 32 << 20, piece = 1 << 16;
  std::vector<float> a(elements, 1.0f), b(elements, 2.0f), c(elements, 3.0f);
  const double memory = fastest(4, [&] {
    cpu::parallel_for(elements, piece, [&](std::int64_t begin, std::int64_t end) {
      const __m256 half = _mm256_set1_ps(0.5f);
      for (std::int64_t i = begin; i < end; i += 8)  // pieces are multiples of 8
        _mm256_storeu_ps(a.data() + i, _mm256_fmadd_ps(half, _mm256_loadu_ps(c.data() + i), _mm256_loadu_ps(b.data() + i)));
    });
  });
  ceilings.gbps = 1e-9 * 12.0 * static_cast<double>(elements) / memory;
  return ceilings;
}

}  // namespace expctr
