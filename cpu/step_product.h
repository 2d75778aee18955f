// Products of few rows with one matrix, many times: c [rows, columns] (+)= a [rows, k] B with B packed once. Every element adds its
// products along k in ascending order with fused multiply-add, so it does not depend on the rows beside it.
#pragma once

#include <cmath>
#include <cstdint>

#include "cpu/gemm_kernel.h"
#include "cpu/kernel_table.h"
#include "cpu/matmul_pack.h"

namespace expctr::cpu {

template <class T>
class StepProduct;

/// float: panels of 32 columns for the register-tile kernel.
template <>
class StepProduct<float> {
 public:
  static std::int64_t packed_elements(std::int64_t k, std::int64_t columns) {
    return (columns + panel_width - 1) / panel_width * panel_width * k;
  }
  /// Element (k, n) of B at b[k * k_stride + n * column_stride], one stride is 1.
  StepProduct(const float* b, std::int64_t k_stride, std::int64_t column_stride, std::int64_t k, std::int64_t columns, float* packed)
      : table_(kernels()), k_(k), columns_(columns), packed_(packed) {
    parallel_for((columns + panel_width - 1) / panel_width, std::max<std::int64_t>(1, 2048 / std::max<std::int64_t>(1, k)),
                 [&](std::int64_t begin, std::int64_t end) {
                   for (std::int64_t p = begin; p < end; ++p)
                     pack_panel(table_, b + p * panel_width * column_stride, k_stride, column_stride, k, panel_columns(p),
                                packed + p * panel_width * k);
                 });
  }
  /// Elements of `rows_scratch` for up to `rows` rows.
  static std::int64_t row_scratch(std::int64_t rows, std::int64_t k) { return rows * k; }
  void multiply(std::int64_t rows, const float* a, float* c, bool accumulate, float* rows_scratch) const {
    for (std::int64_t r = 0; r < rows; r += table_.tile_rows) {
      const std::int64_t count = std::min<std::int64_t>(table_.tile_rows, rows - r);
      table_.transpose(a + r * k_, k_, count, k_, rows_scratch + r * k_, count);
    }
    for (std::int64_t p = 0; p * panel_width < columns_; ++p)
      table_.gemm_panel(rows, k_, rows_scratch, packed_ + p * panel_width * k_, panel_width, c + p * panel_width, columns_,
                        panel_columns(p), nullptr, accumulate);
  }

 private:
  int panel_columns(std::int64_t p) const { return static_cast<int>(std::min<std::int64_t>(panel_width, columns_ - p * panel_width)); }
  const KernelTable& table_;
  std::int64_t k_, columns_;
  const float* packed_;
};

/// double: plain loops over B laid out [k][columns].
template <>
class StepProduct<double> {
 public:
  static std::int64_t packed_elements(std::int64_t k, std::int64_t columns) { return k * columns; }
  StepProduct(const double* b, std::int64_t k_stride, std::int64_t column_stride, std::int64_t k, std::int64_t columns, double* packed)
      : k_(k), columns_(columns), packed_(packed) {
    for (std::int64_t i = 0; i < k; ++i)
      for (std::int64_t n = 0; n < columns; ++n) packed[i * columns + n] = b[i * k_stride + n * column_stride];
  }
  static std::int64_t row_scratch(std::int64_t, std::int64_t) { return 0; }
  void multiply(std::int64_t rows, const double* a, double* c, bool accumulate, double*) const {
    for (std::int64_t r = 0; r < rows; ++r) {
      double* __restrict to = c + r * columns_;
      if (!accumulate) std::fill_n(to, columns_, 0.0);
      for (std::int64_t i = 0; i < k_; ++i) {
        const double factor = a[r * k_ + i];
        const double* from = packed_ + i * columns_;
        for (std::int64_t n = 0; n < columns_; ++n) to[n] = std::fma(factor, from[n], to[n]);
      }
    }
  }

 private:
  std::int64_t k_, columns_;
  const double* packed_;
};

}  // namespace expctr::cpu
