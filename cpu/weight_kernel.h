// Panels of 32 outputs of a packed frozen weight, and what turns them into float32 on the way to the multiply-add units.
// Plain types: [inputs][32]. Block formats hold the file's codes, outputs side by side (structs below): bits 4 i to 4 i + 3 of codes[g][n]
// are the low four bits of input 8 g + i of output n, bit i (q6_k: bits 2 i and 2 i + 1) of high[g][n] what stands above them. Packed
// blocks are as large as the file's, but for the 6-bit scales of q4_k and q5_k, which take a byte. Value = scale code, rounded, + minimum,
// rounded, as base/blocks.h. d has 11 significant bits, a group's scale at most 7 and a code at most 8 (6 beside a group's scale), so scale
// times code is exact and one fused multiply-add gives the same bits.
#pragma once

#include <cstdint>
#include <utility>

#include "base/dtype.h"
#include "cpu/gemm_kernel.h"

namespace expctr::cpu {

struct PackedQ4_0 {
  std::uint16_t d[32];
  std::uint32_t codes[4][32];
};
struct PackedQ4_1 {
  std::uint16_t d[32], m[32];
  std::uint32_t codes[4][32];
};
struct PackedQ5_0 {
  std::uint16_t d[32];
  std::uint8_t high[4][32];
  std::uint32_t codes[4][32];
};
struct PackedQ5_1 {
  std::uint16_t d[32], m[32];
  std::uint8_t high[4][32];
  std::uint32_t codes[4][32];
};
struct PackedQ8_0 {
  std::uint16_t d[32];
  std::int8_t codes[32][32];
};
struct PackedQ4_K {
  std::uint16_t d[32], minimum[32];
  std::uint8_t scales[8][32], minima[8][32];
  std::uint32_t codes[8][4][32];
};
struct PackedQ5_K {
  std::uint16_t d[32], minimum[32];
  std::uint8_t scales[8][32], minima[8][32];
  std::uint8_t high[8][4][32];
  std::uint32_t codes[8][4][32];
};
struct PackedQ6_K {
  std::uint16_t d[32];
  std::int8_t scales[16][32];
  std::uint16_t high[8][4][32];
  std::uint32_t codes[8][4][32];
};
static_assert(sizeof(PackedQ4_0) == 32 * 18 && sizeof(PackedQ4_1) == 32 * 20 && sizeof(PackedQ5_0) == 32 * 22);
static_assert(sizeof(PackedQ5_1) == 32 * 24 && sizeof(PackedQ8_0) == 32 * 34 && sizeof(PackedQ6_K) == 32 * 210);
static_assert(sizeof(PackedQ4_K) == 32 * 148 && sizeof(PackedQ5_K) == 32 * 180);

/// Groups of 32 inputs in a packed block.
template <class Packed>
constexpr int groups_of_block = sizeof(Packed) > 32 * 100 ? 8 : 1;

/// Calls body(static_cast<const Packed*>(nullptr)) for the block format `dtype`.
template <class Body>
inline void with_packed(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::q4_0:
      return body(static_cast<const PackedQ4_0*>(nullptr));
    case DType::q4_1:
      return body(static_cast<const PackedQ4_1*>(nullptr));
    case DType::q5_0:
      return body(static_cast<const PackedQ5_0*>(nullptr));
    case DType::q5_1:
      return body(static_cast<const PackedQ5_1*>(nullptr));
    case DType::q8_0:
      return body(static_cast<const PackedQ8_0*>(nullptr));
    case DType::q4_k:
      return body(static_cast<const PackedQ4_K*>(nullptr));
    case DType::q5_k:
      return body(static_cast<const PackedQ5_K*>(nullptr));
    default:
      return body(static_cast<const PackedQ6_K*>(nullptr));
  }
}

/// Reads outputs 16 v .. 16 v + 15 of the group b of 32 inputs of a panel, eight inputs at a time: open(), then for each group of inputs
/// 8 g .. 8 g + 7 group() and value<i>().
template <class V, class Block>
struct BlockReader;

template <class V>
struct BlockReader<V, PackedQ8_0> {
  V d;
  const std::int8_t* codes;

  void open(const PackedQ8_0* panel, std::int64_t b, int v) { d = V::load_f16(panel[b].d + 16 * v); }
  void group(const PackedQ8_0* panel, std::int64_t b, int g, int v) { codes = panel[b].codes[8 * g] + 16 * v; }
  template <int i>
  V value() const {
    return V::load_i8(codes + 32 * i) * d;
  }
};

/// q4_0 and q4_1: scale and minimum a block, codes of four bits.
template <class V, class Packed>
struct NibbleReader {
  V d, m;
  typename V::Integers codes;

  void open(const Packed* panel, std::int64_t b, int v) {
    d = V::load_f16(panel[b].d + 16 * v);
    if constexpr (requires { panel->m; })
      m = V::load_f16(panel[b].m + 16 * v);
    else
      m = d * V::broadcast(-8.0f);
  }
  void group(const Packed* panel, std::int64_t b, int g, int v) { codes = V::load_lanes(panel[b].codes[g] + 16 * v); }
  template <int i>
  V value() const {
    return V::fma(d, V::template nibble<i>(codes), m);
  }
};
template <class V>
struct BlockReader<V, PackedQ4_0> : NibbleReader<V, PackedQ4_0> {};
template <class V>
struct BlockReader<V, PackedQ4_1> : NibbleReader<V, PackedQ4_1> {};

/// q5_0 and q5_1: as above with a fifth bit.
template <class V, class Packed>
struct FiveBitReader {
  V d, m;
  typename V::Integers codes, high;

  void open(const Packed* panel, std::int64_t b, int v) {
    d = V::load_f16(panel[b].d + 16 * v);
    if constexpr (requires { panel->m; })
      m = V::load_f16(panel[b].m + 16 * v);
    else
      m = d * V::broadcast(-16.0f);
  }
  void group(const Packed* panel, std::int64_t b, int g, int v) {
    codes = V::load_lanes(panel[b].codes[g] + 16 * v);
    high = V::load_lanes(panel[b].high[g] + 16 * v);
  }
  template <int i>
  V value() const {
    return V::fma(d, V::template code<i, 1>(codes, high), m);
  }
};
template <class V>
struct BlockReader<V, PackedQ5_0> : FiveBitReader<V, PackedQ5_0> {};
template <class V>
struct BlockReader<V, PackedQ5_1> : FiveBitReader<V, PackedQ5_1> {};

/// q4_k and q5_k: scale and minimum a group of 32.
template <class V, class Packed>
struct GroupReader {
  V d, m;
  typename V::Integers codes, high;

  void open(const Packed* panel, std::int64_t b, int v) {
    const Packed& block = panel[b / 8];
    d = V::load_f16(block.d + 16 * v) * V::load_u8(block.scales[b % 8] + 16 * v);
    m = V::load_f16(block.minimum + 16 * v) * V::load_u8(block.minima[b % 8] + 16 * v) * V::broadcast(-1.0f);
  }
  void group(const Packed* panel, std::int64_t b, int g, int v) {
    codes = V::load_lanes(panel[b / 8].codes[b % 8][g] + 16 * v);
    if constexpr (requires { panel->high; }) high = V::load_lanes(panel[b / 8].high[b % 8][g] + 16 * v);
  }
  template <int i>
  V value() const {
    if constexpr (requires(Packed block) { block.high; })
      return V::fma(d, V::template code<i, 1>(codes, high), m);
    else
      return V::fma(d, V::template nibble<i>(codes), m);
  }
};
template <class V>
struct BlockReader<V, PackedQ4_K> : GroupReader<V, PackedQ4_K> {};
template <class V>
struct BlockReader<V, PackedQ5_K> : GroupReader<V, PackedQ5_K> {};

template <class V>
struct BlockReader<V, PackedQ6_K> {
  V d, scale, m;
  typename V::Integers codes, high;

  void open(const PackedQ6_K* panel, std::int64_t b, int v) { d = V::load_f16(panel[b / 8].d + 16 * v); }
  void group(const PackedQ6_K* panel, std::int64_t b, int g, int v) {
    const PackedQ6_K& block = panel[b / 8];
    scale = d * V::load_i8(block.scales[2 * (b % 8) + g / 2] + 16 * v);
    m = scale * V::broadcast(-32.0f);
    codes = V::load_lanes(block.codes[b % 8][g] + 16 * v);
    high = V::load_lanes(block.high[b % 8][g] + 16 * v);
  }
  template <int i>
  V value() const {
    return V::fma(scale, V::template code<i, 2>(codes, high), m);
  }
};

/// How a value of a block meets the rows: weight<i>() of a reader is the factor of word i (`inputs` inputs) of a group of eight inputs.
template <class V>
struct FloatProduct {
  static constexpr int inputs = 1, fused_rows = V::fused_rows;
  template <int i, class Reader>
  static V weight(const Reader& reader) {
    return reader.template value<i>();
  }
  static V fma(V a, V b, V sum) { return V::fma(a, b, sum); }
};
/// The same with values rounded to bf16.
template <class V>
struct RoundedProduct {
  static constexpr int inputs = 1, fused_rows = V::fused_rows < 4 ? V::fused_rows : 4;
  template <int i, class Reader>
  static V weight(const Reader& reader) {
    return reader.template value<i>().bf16();
  }
  static V fma(V a, V b, V sum) { return V::fma(a, b, sum); }
};

/// ROWS rows times NP neighbouring panels, NV vectors of 16 outputs from vector v0 of each; a: [words][ROWS]. The values also go to
/// `unpacked`, [inputs][32] (one panel), when STORE. sum[r][p * NV + v] leaves the sums to the caller.
template <class V, class Product, class Block, int ROWS, int NP, int NV, bool STORE>
[[gnu::always_inline]] inline void quantised_sums(std::int64_t blocks, const float* a, const Block* panel, int v0, float* unpacked,
                                                  V (&sum)[ROWS][NP * NV]) {
  constexpr int words = 8 / Product::inputs;
  BlockReader<V, Block> reader[NP * NV];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < NP * NV; ++j) sum[r][j] = V::zero();
  const std::int64_t stride = blocks / groups_of_block<Block>;  // packed blocks of a panel
  for (std::int64_t b = 0; b < blocks; ++b) {
#pragma GCC unroll 4
    for (int j = 0; j < NP * NV; ++j) reader[j].open(panel + j / NV * stride, b, v0 + j % NV);
      // A panel is too short for the hardware to follow: ask for the same block of the next one.
#pragma GCC unroll 2
    for (int p = 0; p < NP; ++p) {
      constexpr unsigned group_bytes = sizeof(Block) / groups_of_block<Block>;
      const char* next = reinterpret_cast<const char*>(panel + (p + NP) * stride) + b * group_bytes;
      for (unsigned i = 0; i < group_bytes; i += 64) __builtin_prefetch(next + i, 0, 2);
    }
    for (int g = 0; g < 4; ++g) {
#pragma GCC unroll 4
      for (int j = 0; j < NP * NV; ++j) reader[j].group(panel + j / NV * stride, b, g, v0 + j % NV);
      [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
        (
            [&]() __attribute__((always_inline)) {
              V weight[NP * NV];
#pragma GCC unroll 4
              for (int j = 0; j < NP * NV; ++j) {
                weight[j] = Product::template weight<i>(reader[j]);
                if constexpr (STORE) weight[j].store(unpacked + i * panel_width + 16 * (v0 + j));
              }
#pragma GCC unroll 16
              for (int r = 0; r < ROWS; ++r) {
                const V factor = V::broadcast(a[i * ROWS + r]);
#pragma GCC unroll 4
                for (int j = 0; j < NP * NV; ++j) sum[r][j] = Product::fma(factor, weight[j], sum[r][j]);
              }
            }(),
            ...);
      }
      (std::make_integer_sequence<int, words>{});
      a += words * ROWS;
      if constexpr (STORE) unpacked += words * panel_width;
    }
  }
}

/// c[rows, columns] = rows of a times one panel, or two neighbouring ones when rows is 1 (more sums in flight than the latency of an
/// addition). rows <= Product::fused_rows; columns counts both panels; bias may be null; unpacked (may be null, one panel only): the panel
/// as [words][32].
template <class V, class Product, class Block>
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
  with_rows<Product::fused_rows>(rows, [&]<int ROWS>() {
    for (int v0 = 0; v0 < 2; v0 += NV) {
      const auto run = [&]<int NP, bool STORE>() {
        V sum[ROWS][NP * NV];
        quantised_sums<V, Product, Block, ROWS, NP, NV, STORE>(blocks, a, panel, v0, unpacked, sum);
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

template <class V, class Product>
void quantised_rows(DType dtype, int rows, std::int64_t inputs, const float* a, const void* panel, float* c, std::int64_t ldc, int columns,
                    const float* bias, float* unpacked) {
  with_packed(dtype, [&]<class Packed>(const Packed*) {
    quantised_tile<V, Product>(rows, inputs, a, static_cast<const Packed*>(panel), c, ldc, columns, bias, unpacked);
  });
}

/// Inputs [k0, k1) of a panel as float [k1 - k0][32]; multiples of 32 for block formats.
template <class V>
void unpack_panel(DType dtype, const void* panel, std::int64_t k0, std::int64_t k1, float* out) {
  const auto halves = [&](auto load) {
    const std::uint16_t* source = static_cast<const std::uint16_t*>(panel) + k0 * panel_width;
    for (std::int64_t i = 0; i < (k1 - k0) * panel_width; i += 16) load(source + i).store(out + i);
  };
  if (dtype == DType::bf16) return halves([](const std::uint16_t* p) { return V::load_bf16(p); });
  if (dtype == DType::f16) return halves([](const std::uint16_t* p) { return V::load_f16(p); });
  if (dtype == DType::f32) {
    const float* source = static_cast<const float*>(panel) + k0 * panel_width;
    for (std::int64_t i = 0; i < (k1 - k0) * panel_width; i += 16) V::load(source + i).store(out + i);
    return;
  }
  with_packed(dtype, [&]<class Packed>(const Packed*) {
    for (std::int64_t k = k0; k < k1; k += 32) {
      for (int v = 0; v < 2; ++v) {
        BlockReader<V, Packed> reader;
        reader.open(static_cast<const Packed*>(panel), k / 32, v);
        float* values = out + (k - k0) * panel_width + 16 * v;
        for (int g = 0; g < 4; ++g, values += 8 * panel_width) {
          reader.group(static_cast<const Packed*>(panel), k / 32, g, v);
          [&]<int... i>(std::integer_sequence<int, i...>) { (reader.template value<i>().store(values + i * panel_width), ...); }
          (std::make_integer_sequence<int, 8>{});
        }
      }
    }
  });
}

}  // namespace expctr::cpu
