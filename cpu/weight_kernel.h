// Panels of 32 outputs of a packed frozen weight, and what turns them into float32 on the way to the multiply-add units.
// Plain types: [inputs][32]. Blocks of 32 inputs: q8_0 {f16 d[32]; i8 code[32 inputs][32]}; q4_1 {f16 d[32], m[32]; u32 codes[4][32]},
// where bits 4 i to 4 i + 3 of codes[g][n] are the code of input 8 g + i of output n. A packed block is exactly as large as the 32 file
// blocks it came from. Value = d code, rounded, + m, rounded, as base/blocks.h. d has 11 significant bits and a code at most 8, so d code
// is exact and one fused multiply-add gives the same bits.
#pragma once

#include <cstdint>
#include <utility>

#include "base/dtype.h"
#include "cpu/gemm_kernel.h"

namespace expctr::cpu {

struct PackedQ8_0 {
  std::uint16_t d[32];
  std::int8_t codes[32][32];
};
struct PackedQ4_1 {
  std::uint16_t d[32], m[32];
  std::uint32_t codes[4][32];
};
static_assert(sizeof(PackedQ8_0) == 32 * 34 && sizeof(PackedQ4_1) == 32 * 20);

/// Reads outputs 16 v .. 16 v + 15 of a block, eight inputs at a time: open(), then for each group of inputs 8 g .. 8 g + 7 group() and
/// value<i>().
template <class V, class Block>
struct BlockReader;

template <class V>
struct BlockReader<V, PackedQ8_0> {
  V d;
  const std::int8_t* codes;

  void open(const PackedQ8_0& block, int v) { d = V::load_f16(block.d + 16 * v); }
  void group(const PackedQ8_0& block, int g, int v) { codes = block.codes[8 * g] + 16 * v; }
  template <int i>
  V value() const {
    return V::load_i8(codes + 32 * i) * d;
  }
};

template <class V>
struct BlockReader<V, PackedQ4_1> {
  V d, m;
  decltype(V::load_lanes(nullptr)) codes;

  void open(const PackedQ4_1& block, int v) {
    d = V::load_f16(block.d + 16 * v);
    m = V::load_f16(block.m + 16 * v);
  }
  void group(const PackedQ4_1& block, int g, int v) { codes = V::load_lanes(block.codes[g] + 16 * v); }
  template <int i>
  V value() const {
    return V::fma(d, V::template nibble<i>(codes), m);
  }
};

/// ROWS rows times NP neighbouring panels, NV vectors of 16 outputs from vector v0 of each; a: [inputs][ROWS]. The values also go to
/// `unpacked`, [inputs][32] (one panel), when STORE. sum[r][p * NV + v] leaves the sums to the caller.
template <class V, class Block, int ROWS, int NP, int NV, bool STORE>
[[gnu::always_inline]] inline void quantised_sums(std::int64_t blocks, const float* a, const Block* panel, int v0, float* unpacked, V (&sum)[ROWS][NP * NV]) {
  BlockReader<V, Block> reader[NP * NV];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < NP * NV; ++j) sum[r][j] = V::zero();
  for (std::int64_t b = 0; b < blocks; ++b) {
#pragma GCC unroll 4
    for (int j = 0; j < NP * NV; ++j) reader[j].open(panel[j / NV * blocks + b], v0 + j % NV);
    // A panel is too short for the hardware to follow: ask for the same block of the next one.
#pragma GCC unroll 2
    for (int p = 0; p < NP; ++p) {
      const char* next = reinterpret_cast<const char*>(panel + (p + NP) * blocks + b);
      for (unsigned i = 0; i < sizeof(Block); i += 64) __builtin_prefetch(next + i, 0, 2);
    }
    for (int g = 0; g < 4; ++g) {
#pragma GCC unroll 4
      for (int j = 0; j < NP * NV; ++j) reader[j].group(panel[j / NV * blocks + b], g, v0 + j % NV);
      [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
        (
            [&]() __attribute__((always_inline)) {
              V weight[NP * NV];
#pragma GCC unroll 4
              for (int j = 0; j < NP * NV; ++j) {
                weight[j] = reader[j].template value<i>();
                if constexpr (STORE) weight[j].store(unpacked + i * panel_width + 16 * (v0 + j));
              }
#pragma GCC unroll 16
              for (int r = 0; r < ROWS; ++r) {
                const V factor = V::broadcast(a[i * ROWS + r]);
#pragma GCC unroll 4
                for (int j = 0; j < NP * NV; ++j) sum[r][j] = V::fma(factor, weight[j], sum[r][j]);
              }
            }(),
            ...);
      }
      (std::make_integer_sequence<int, 8>{});
      a += 8 * ROWS;
      if constexpr (STORE) unpacked += 8 * panel_width;
    }
  }
}

/// c[rows, columns] = rows of a times one panel, or two neighbouring ones when rows is 1 (more sums in flight than the latency of an
/// addition). rows <= V::fused_rows; columns counts both panels; bias may be null; unpacked (may be null, one panel only): the panel as
/// [inputs][32].
template <class V, class Block>
inline void quantised_tile(int rows, std::int64_t inputs, const float* a, const Block* panel, float* c, std::int64_t ldc, int columns,
                           const float* bias, float* unpacked) {
  const std::int64_t blocks = inputs / 32;
  const auto finish = [&](const V& value, int r, int column) {
    const int left = columns - column;
    if (left <= 0) return;
    if (left >= 16)
      (bias ? value + V::load(bias + column) : value).store(c + r * ldc + column);
    else
      (bias ? value + V::load(bias + column, left) : value).store(c + r * ldc + column, left);
  };
  constexpr int NV = V::tile_vectors;
  with_rows<V::fused_rows>(rows, [&]<int ROWS>() {
    for (int v0 = 0; v0 < 2; v0 += NV) {
      const auto run = [&]<int NP, bool STORE>() {
        V sum[ROWS][NP * NV];
        quantised_sums<V, Block, ROWS, NP, NV, STORE>(blocks, a, panel, v0, unpacked, sum);
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
          for (int j = 0; j < NP * NV; ++j) finish(sum[r][j], r, j / NV * panel_width + 16 * (v0 + j % NV));
      };
      if (ROWS == 1 && columns > panel_width)
        run.template operator()<ROWS == 1 ? 2 : 1, false>();
      else if (unpacked)
        run.template operator()<1, true>();
      else
        run.template operator()<1, false>();
    }
  });
}

template <class V>
void quantised_rows(DType dtype, int rows, std::int64_t inputs, const float* a, const void* panel, float* c, std::int64_t ldc, int columns,
                    const float* bias, float* unpacked) {
  if (dtype == DType::q4_1)
    quantised_tile<V>(rows, inputs, a, static_cast<const PackedQ4_1*>(panel), c, ldc, columns, bias, unpacked);
  else
    quantised_tile<V>(rows, inputs, a, static_cast<const PackedQ8_0*>(panel), c, ldc, columns, bias, unpacked);
}

/// Inputs [k0, k1) of a panel as float [k1 - k0][32]; multiples of 32 for block formats.
template <class V>
void unpack_panel(DType dtype, const void* panel, std::int64_t k0, std::int64_t k1, float* out) {
  const auto blocks = [&]<class Block>(const Block* block) {
    for (std::int64_t k = k0; k < k1; k += 32) {
      for (int v = 0; v < 2; ++v) {
        BlockReader<V, Block> reader;
        reader.open(block[k / 32], v);
        float* values = out + (k - k0) * panel_width + 16 * v;
        for (int g = 0; g < 4; ++g, values += 8 * panel_width) {
          reader.group(block[k / 32], g, v);
          [&]<int... i>(std::integer_sequence<int, i...>) { (reader.template value<i>().store(values + i * panel_width), ...); }
          (std::make_integer_sequence<int, 8>{});
        }
      }
    }
  };
  const auto halves = [&](auto load) {
    const std::uint16_t* source = static_cast<const std::uint16_t*>(panel) + k0 * panel_width;
    for (std::int64_t i = 0; i < (k1 - k0) * panel_width; i += 16) load(source + i).store(out + i);
  };
  switch (dtype) {
    case DType::q4_1:
      return blocks(static_cast<const PackedQ4_1*>(panel));
    case DType::q8_0:
      return blocks(static_cast<const PackedQ8_0*>(panel));
    case DType::bf16:
      return halves([](const std::uint16_t* p) { return V::load_bf16(p); });
    case DType::f16:
      return halves([](const std::uint16_t* p) { return V::load_f16(p); });
    default: {
      const float* source = static_cast<const float*>(panel) + k0 * panel_width;
      for (std::int64_t i = 0; i < (k1 - k0) * panel_width; i += 16) V::load(source + i).store(out + i);
    }
  }
}

}  // namespace expctr::cpu
