// Matrix tiles held in registers: C[rows, columns] (+)= A[rows, k] B[k, columns], one fused multiply-add a product, k ascending. Lanes are
// columns, so an element's sum never depends on its neighbours and every instruction set gives the same bits. Bound by the multiply-add
// units: tile_rows x tile_vectors accumulators hide their latency, B is read once a tile, A once a product (broadcast).
#pragma once

#include <cstdint>
#include <cstring>

namespace expctr::cpu {

constexpr int panel_width = 32;  ///< columns of a packed panel of B

/// One tile of ROWS rows and NV vectors of 16 columns. a: element [r, k] at a[r * ROW_STRIDE + k * K_STRIDE]; b: row k at b + k * ldb.
/// The sum starts at c when load, else at 0; bias (may be null) is added last. columns <= 16 NV are written.
template <class V, int ROWS, int NV, int ROW_STRIDE, int K_STRIDE>
inline void gemm_tile(std::int64_t k_count, const float* a, const float* b, std::int64_t ldb, float* c, std::int64_t ldc, int columns,
                      const float* bias, bool load) {
  V sum[ROWS][NV];
  const bool whole = columns == 16 * NV;
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v)
      sum[r][v] = !load ? V::zero() : whole ? V::load(c + r * ldc + 16 * v) : V::load(c + r * ldc + 16 * v, columns - 16 * v);
  }
  for (std::int64_t k = 0; k < k_count; ++k) {
    V row[NV];
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) row[v] = V::load(b + 16 * v);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
      const V factor = V::broadcast(a[r * ROW_STRIDE]);
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) sum[r][v] = V::fma(factor, row[v], sum[r][v]);
    }
    a += K_STRIDE;
    b += ldb;
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) {
      V value = sum[r][v];
      if (whole) {
        if (bias) value = value + V::load(bias + 16 * v);
        value.store(c + r * ldc + 16 * v);
      } else {
        if (bias) value = value + V::load(bias + 16 * v, columns - 16 * v);
        value.store(c + r * ldc + 16 * v, columns - 16 * v);
      }
    }
  }
}

/// Calls body(std::integral_constant<int, rows>) for the run-time value rows in [1, MOST].
template <int MOST, class Body>
inline void with_rows(int rows, const Body& body) {
  if constexpr (MOST >= 1) {
    if (rows == MOST)
      body.template operator()<MOST>();
    else
      with_rows<MOST - 1>(rows, body);
  }
}

/// Tiles of one panel: a as pack_rows() lays it out, b [k, 32] with row stride ldb and at least 16-column padding.
template <class V>
void gemm_panel(std::int64_t rows, std::int64_t k_count, const float* a, const float* b, std::int64_t ldb, float* c, std::int64_t ldc,
                int columns, const float* bias, bool load) {
  constexpr int width = 16 * V::tile_vectors;
  for (std::int64_t r = 0; r < rows; r += V::tile_rows) {
    const int count = static_cast<int>(rows - r < V::tile_rows ? rows - r : V::tile_rows);
    const float* tile = a + r * k_count;
    for (int column = 0; column < columns;) {
      const int left = columns - column;
      const float* tile_bias = bias ? bias + column : nullptr;
      float* tile_c = c + r * ldc + column;
      with_rows<V::tile_rows>(count, [&]<int ROWS>() {
        if (left > 16 && width > 16)
          gemm_tile<V, ROWS, V::tile_vectors, 1, ROWS>(k_count, tile, b + column, ldb, tile_c, ldc, left < width ? left : width, tile_bias,
                                                       load);
        else
          gemm_tile<V, ROWS, 1, 1, ROWS>(k_count, tile, b + column, ldb, tile_c, ldc, left < 16 ? left : 16, tile_bias, load);
      });
      column += left > 16 ? width : 16;
    }
  }
}

/// c[rows, columns] (+)= A B for up to V::tile_rows rows, columns a multiple of 16, strides of A as in gemm_tile.
template <class V, int ROW_STRIDE, int K_STRIDE>
inline void gemm_strip(int rows, std::int64_t k_count, const float* a, const float* b, std::int64_t ldb, float* c, std::int64_t ldc,
                       int columns, bool load) {
  with_rows<V::tile_rows>(rows, [&]<int ROWS>() {
    int column = 0;
    if constexpr (V::tile_vectors == 2)
      for (; column + 32 <= columns; column += 32)
        gemm_tile<V, ROWS, 2, ROW_STRIDE, K_STRIDE>(k_count, a, b + column, ldb, c + column, ldc, 32, nullptr, load);
    for (; column < columns; column += 16)
      gemm_tile<V, ROWS, 1, ROW_STRIDE, K_STRIDE>(k_count, a, b + column, ldb, c + column, ldc, 16, nullptr, load);
  });
}

/// out[c * out_stride + r] = in[r * in_stride + c].
template <class V>
void transpose(const float* in, std::int64_t in_stride, std::int64_t rows, std::int64_t columns, float* out, std::int64_t out_stride) {
  if (rows == 1 && out_stride == 1) {
    std::memcpy(out, in, static_cast<std::size_t>(columns) * sizeof(float));
    return;
  }
  for (std::int64_t r = 0; r < rows; r += 16) {
    const int count = static_cast<int>(rows - r < 16 ? rows - r : 16);
    std::int64_t c = 0;
    for (; c + 16 <= columns; c += 16) V::transpose(in + r * in_stride + c, in_stride, count, out + c * out_stride + r, out_stride);
    for (; c < columns; ++c)
      for (int i = 0; i < count; ++i) out[c * out_stride + r + i] = in[(r + i) * in_stride + c];
  }
}

/// c[rows, columns] (+)= A B^T for up to V::direct_rows rows and 32 columns, B read in place: column n at b + n * ldb. a: [k][rows]. Blocks of
/// 16 x 16 of B are turned in the first-level cache, so B passes through once: bound by reading it.
template <class V, int ROWS>
inline void direct_tile(std::int64_t k_count, const float* a, const float* b, std::int64_t ldb, float* c, std::int64_t ldc, int columns,
                        bool load) {
  alignas(64) float block[16 * panel_width] = {};
  V sum[ROWS][2];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) sum[r][v] = load ? V::load(c + r * ldc + 16 * v, columns - 16 * v) : V::zero();
  for (std::int64_t k0 = 0; k0 < k_count; k0 += 16) {
    const int count = static_cast<int>(k_count - k0 < 16 ? k_count - k0 : 16);
    if (count == 16) {
      constexpr int ahead = 64;  // floats
      for (int n = 0; n < columns; ++n) __builtin_prefetch(b + n * ldb + k0 + ahead, 0, 3);
      for (int v = 0; 16 * v < columns; ++v) {
        const int part = columns - 16 * v < 16 ? columns - 16 * v : 16;
        V::transpose(b + 16 * v * ldb + k0, ldb, part, block + 16 * v, panel_width);
      }
    } else {
      for (int n = 0; n < columns; ++n)
        for (int k = 0; k < count; ++k) block[k * panel_width + n] = b[n * ldb + k0 + k];
    }
    for (int k = 0; k < count; ++k, a += ROWS) {
      const V first = V::load(block + k * panel_width), second = V::load(block + k * panel_width + 16);
#pragma GCC unroll 16
      for (int r = 0; r < ROWS; ++r) {
        const V factor = V::broadcast(a[r]);
        sum[r][0] = V::fma(factor, first, sum[r][0]);
        sum[r][1] = V::fma(factor, second, sum[r][1]);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) sum[r][v].store(c + r * ldc + 16 * v, columns - 16 * v);
}

template <class V>
void direct_panel(int rows, std::int64_t k_count, const float* a, const float* b, std::int64_t ldb, float* c, std::int64_t ldc, int columns,
                  bool load) {
  with_rows<V::direct_rows>(rows, [&]<int ROWS>() { direct_tile<V, ROWS>(k_count, a, b, ldb, c, ldc, columns, load); });
}

}  // namespace expctr::cpu
