// From dtypes to templates, and loops over pieces and sums whose order depends on shapes only.
#pragma once

#include <cstdint>
#include <functional>

#include "base/view.h"
#include "cpu/thread_pool.h"

namespace expctr::cpu {

/// Calls body(float{}) or body(double{}); the dtype has been checked to be one of them.
template <class Body>
void with_floating(DType dtype, Body&& body) {
  if (dtype == DType::f64)
    body(double{});
  else
    body(float{});
}

/// parallel_for without copying the body; small work stays on this thread.
template <class Body>
void for_pieces(std::int64_t n, std::int64_t grain, Body&& body) {
  if (n <= 0) return;
  if (n <= grain)
    body(std::int64_t{0}, n);
  else
    parallel_for(n, grain, std::ref(body));
}

/// for_pieces over rows of `width` elements, about `elements` elements a piece.
template <class Body>
void for_rows(std::int64_t rows, std::int64_t width, std::int64_t elements, Body&& body) {
  const std::int64_t grain = elements / (width > 0 ? width : 1);
  for_pieces(rows, grain > 0 ? grain : 1, body);
}

constexpr std::int64_t cheap_grain = 16384;  ///< elements a piece where memory bounds the loop
constexpr std::int64_t heavy_grain = 4096;   ///< elements a piece where exp and its like do
constexpr std::int64_t column_grain = 64;    ///< columns a piece of a sum over rows; their sums stay in the first-level cache

/// sum of term(0) .. term(n - 1): 16 lanes of T within blocks of 512 terms, blocks added in double.
template <class T, class Term>
double lane_sum(std::int64_t n, Term term) {
  constexpr int lanes = 16;
  double total = 0;
  for (std::int64_t block = 0; block < n; block += 512) {
    const std::int64_t end = block + 512 < n ? block + 512 : n;
    T sum[lanes] = {};
    std::int64_t i = block;
    for (; i + lanes <= end; i += lanes)
      for (int lane = 0; lane < lanes; ++lane) sum[lane] += term(i + lane);
    for (int lane = 0; i < end; ++i, ++lane) sum[lane] += term(i);
    double block_sum = 0;
    for (int lane = 0; lane < lanes; ++lane) block_sum += static_cast<double>(sum[lane]);
    total += block_sum;
  }
  return total;
}

}  // namespace expctr::cpu
