// The two roofs that speeds are shares of. Arithmetic: independent chains of fused multiply-adds that stay in registers, in the widest
// vectors in use. Memory: the triad of STREAM (McCalpin 1995), best of several passes.
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
  const bool wide = cpu::active_isa() >= cpu::Isa::avx512;
  const int threads = cpu::thread_count();
  std::atomic<float> sink{0};
  const double arithmetic = fastest(3, [&] {
    cpu::parallel_for(threads, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) sink = sink + (wide ? multiply_add_avx512(1.0f) : multiply_add_v3(1.0f));
    });
  });
  const double flops = 2.0 * (wide ? 16 : 8) * chains * static_cast<double>(rounds) * threads;

  constexpr std::int64_t elements = 16 << 20, piece = 1 << 16;
  std::vector<float> a(elements, 1.0f), b(elements, 2.0f), c(elements, 3.0f);
  const double memory = fastest(4, [&] {
    cpu::parallel_for(elements, piece, [&](std::int64_t begin, std::int64_t end) {
      const __m256 half = _mm256_set1_ps(0.5f);
      for (std::int64_t i = begin; i < end; i += 8)  // pieces are multiples of 8
        _mm256_storeu_ps(a.data() + i, _mm256_fmadd_ps(half, _mm256_loadu_ps(c.data() + i), _mm256_loadu_ps(b.data() + i)));
    });
  });
  return {1e-9 * flops / arithmetic, 1e-9 * 12.0 * static_cast<double>(elements) / memory};
}

}  // namespace expctr
