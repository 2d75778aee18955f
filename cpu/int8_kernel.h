// Products of rows quantised to 8 bits with weights of 4 to 8 bits. Both are cut into blocks of 32 inputs with a scale each:
// y = sum over blocks of (weight scale x row scale) (sum of code products, exact in 32-bit integers), float32, blocks ascending; a block
// minimum m adds m (row scale x sum of row codes). Integer sums are exact and the float operations are written out, so every instruction
// set, row count and place gives the same bits. Codes of the weight are bytes from 0; an offset is taken off by starting the integer sum at
// -offset x sum of row codes. 2 rows outputs inputs operations; bound by the byte-product units for a tile of rows or more, by reading the
// weight below that.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"
#include "cpu/gemm_kernel.h"
#include "cpu/quantise.h"

namespace expctr::cpu {

template <class Scale, bool MINIMUM>
struct Int8Minimum {
  Scale m[32];
};
template <class Scale>
struct Int8Minimum<Scale, false> {};

/// 32 outputs x 32 inputs. Scale: f16 bits where the file's scale is one, else float. codes[q][n][j]: input 4 q + j of output n;
/// with NIBBLES the low half of codes[q][n][j] is input 8 q + j, the high half input 8 q + 4 + j. PARTS: scales along the inputs.
template <class Scale, bool NIBBLES, bool MINIMUM, int PARTS>
struct Int8Block : Int8Minimum<Scale, MINIMUM> {
  static constexpr bool nibbles = NIBBLES, minimum = MINIMUM;
  static constexpr int parts = PARTS;
  Scale d[PARTS][32];
  std::uint8_t codes[NIBBLES ? 4 : 8][32][4];
};

constexpr int plain_offset = 128;  ///< of weights that were plain numbers in the file, and of q8_0

/// What is taken off the codes; 0 where blocks have a minimum.
constexpr int int8_offset(DType dtype) {
  switch (dtype) {
    case DType::q4_0:
      return 8;
    case DType::q5_0:
      return 16;
    case DType::q6_k:
      return 32;
    case DType::q4_1:
    case DType::q5_1:
    case DType::q4_k:
    case DType::q5_k:
      return 0;
    default:
      return plain_offset;
  }
}

using Int8Q4_0 = Int8Block<std::uint16_t, true, false, 1>;
using Int8Q4_1 = Int8Block<std::uint16_t, true, true, 1>;
using Int8Q8_0 = Int8Block<std::uint16_t, false, false, 1>;  ///< and q5_0
using Int8Q5_1 = Int8Block<std::uint16_t, false, true, 1>;
using Int8Q4_K = Int8Block<float, true, true, 1>;
using Int8Q5_K = Int8Block<float, false, true, 1>;
using Int8Q6_K = Int8Block<float, false, false, 2>;
using Int8Plain = Int8Block<float, false, false, 1>;

/// Calls body.template operator()<Int8Block<...>>() for weights that the file holds as `dtype`.
template <class Body>
inline auto with_int8(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::q4_0:
      return body.template operator()<Int8Q4_0>();
    case DType::q4_1:
      return body.template operator()<Int8Q4_1>();
    case DType::q5_0:
    case DType::q8_0:
      return body.template operator()<Int8Q8_0>();
    case DType::q5_1:
      return body.template operator()<Int8Q5_1>();
    case DType::q4_k:
      return body.template operator()<Int8Q4_K>();
    case DType::q5_k:
      return body.template operator()<Int8Q5_K>();
    case DType::q6_k:
      return body.template operator()<Int8Q6_K>();
    default:
      return body.template operator()<Int8Plain>();
  }
}

/// A quantised row, 32-bit words: [8 blocks] four codes each, [blocks] scale (float), [PARTS][blocks] where the integer sum starts, or with
/// a minimum scale x sum of codes (float).
constexpr int int8_words(int parts) { return 9 + parts; }  ///< of a row and a block

/// Block b of a row; the last one is filled up with zeros.
template <class V>
inline void load_block(const float* x, std::int64_t inputs, std::int64_t b, V& first, V& second) {
  const std::int64_t left = inputs - 32 * b;
  x += 32 * b;
  first = left >= 32 ? V::load(x) : V::load(x, static_cast<int>(left));
  second = left >= 32 ? V::load(x + 16) : V::load(x + 16, static_cast<int>(left) - 16);
}

/// Scales of a row, and where the integer sums of the first part will start, 127 / maximum. Sixteen blocks are the lanes of a vector; lanes
/// beyond the last block are not stored.
template <class V>
inline void int8_scales(const float* x, std::int64_t inputs, std::int64_t blocks, float* words) {
  float* scales = words + 8 * blocks;
  for (std::int64_t b = 0; b < blocks; b += 16) {
    const int count = static_cast<int>(blocks - b < 16 ? blocks - b : 16);
    V largest[16], first, second;
    for (int i = 0; i < count; ++i) {
      load_block(x, inputs, b + i, first, second);
      largest[i] = V::larger_magnitude(first, second);
    }
    for (int i = count; i < 16; ++i) largest[i] = largest[0];
    const Int8Scales<V> scale(V::largest_of_each(largest));
    scale.scale.store(scales + b, count);
    scale.inverse.store(scales + blocks + b, count);
  }
}

/// Codes and starts, after int8_scales().
template <class V, class Block>
inline void int8_codes(const float* x, std::int64_t inputs, std::int64_t blocks, float offset, float* words) {
  auto* codes = reinterpret_cast<std::int8_t*>(words);
  const float* scales = words + 8 * blocks;
  float* starts = words + 9 * blocks;
  for (std::int64_t b = 0; b < blocks; b += 16) {
    const int count = static_cast<int>(blocks - b < 16 ? blocks - b : 16);
    V sums[Block::parts][16], first, second;
    for (int i = 0; i < count; ++i) {
      load_block(x, inputs, b + i, first, second);
      const V inverse = V::broadcast(starts[b + i]), low = V::round(first * inverse), high = V::round(second * inverse);
      low.store_i8(codes + 32 * (b + i));
      high.store_i8(codes + 32 * (b + i) + 16);
      sums[0][i] = Block::parts == 1 ? low + high : low;
      if constexpr (Block::parts == 2) sums[1][i] = high;
    }
    const V inverses = V::load(starts + b, count);
    for (int part = 0; part < Block::parts; ++part) {
      for (int i = count; i < 16; ++i) sums[part][i] = sums[part][0];
      const V sum = V::select_less(V::zero(), inverses, V::sum_of_each(sums[part]), V::zero());  // whole numbers, exact
      const V start = Block::minimum ? V::load(scales + b, count) * sum : (V::broadcast(offset) * sum).integer_bits();
      start.store(starts + part * blocks + b, count);
    }
  }
}

/// x [rows, inputs] -> rows of words as above. A few rows' maxima come first, so that their latency is hidden.
template <class V>
void int8_pack(DType dtype, const float* x, std::int64_t rows, std::int64_t inputs, float* words) {
  constexpr std::int64_t together = 4;
  const std::int64_t blocks = (inputs + 31) / 32;
  const float offset = static_cast<float>(-int8_offset(dtype));
  with_int8(dtype, [=]<class Block>() {
    constexpr std::int64_t block_words = int8_words(Block::parts);
    for (std::int64_t r0 = 0; r0 < rows; r0 += together) {
      const std::int64_t end = rows - r0 < together ? rows : r0 + together;
      for (std::int64_t r = r0; r < end; ++r) int8_scales<V>(x + r * inputs, inputs, blocks, words + r * blocks * block_words);
      for (std::int64_t r = r0; r < end; ++r)
        int8_codes<V, Block>(x + r * inputs, inputs, blocks, offset, words + r * blocks * block_words);
    }
  });
}

template <class V>
inline typename V::Float load_scale(const std::uint16_t* p) {
  return V::Float::load_f16(p);
}
template <class V>
inline typename V::Float load_scale(const float* p) {
  return V::Float::load(p);
}

/// Bytes of every block of the next panel that a tile fetches.
struct BytesAhead {
  unsigned from, to;
};

/// ROWS rows times outputs 16 v0 .. 16 (v0 + NV) - 1 of a panel. WIDE: codes above 127 with the offset 128.
template <class V, class Block, bool WIDE, int ROWS, int NV>
inline void int8_tile(std::int64_t blocks, const std::int32_t* a, const Block* panel, int v0, float* c, std::int64_t ldc, int columns,
                      const float* bias, BytesAhead ahead) {
  using Float = typename V::Float;
  constexpr int quads = 8 / Block::parts;
  Float sum[ROWS][NV];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) sum[r][v] = Float::zero();
  const std::int64_t words = blocks * int8_words(Block::parts);  // of a row
  if constexpr (NV == 2) v0 = 0;
  const std::int32_t* row[ROWS];  // codes of the block
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) {
    row[r] = a + r * words;
    asm("" : "+r"(row[r]));  // else the compiler keeps an address on the stack for every row and word
  }
  const auto number = [&](int r, std::int64_t at) __attribute__((always_inline)) { return reinterpret_cast<const float*>(row[r])[at]; };
  std::int64_t scale = 8 * blocks;  // from the block's codes
  for (std::int64_t b = 0; b < blocks; ++b, scale -= 7) {
    const Block& block = panel[b];
    const char* next = reinterpret_cast<const char*>(panel + blocks + b);  // the same block of the next panel
    if (ahead.from == 0 && ahead.to >= sizeof(Block)) {
#pragma GCC unroll 32
      for (unsigned i = 0; i < sizeof(Block); i += 64) __builtin_prefetch(next + i, 0, 2);
    } else {
      for (unsigned i = ahead.from; i < ahead.to; i += 64) __builtin_prefetch(next + i, 0, 2);
    }
#pragma GCC unroll 2
    for (int part = 0; part < Block::parts; ++part) {
      const std::int64_t start = scale + (1 + part) * blocks;
      V dot[ROWS][NV];
#pragma GCC unroll 16
      for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) dot[r][v] = Block::minimum || (WIDE && V::signed_codes) ? V::zero() : V::broadcast(row[r][start]);
#pragma GCC unroll 8
      for (int q = quads * part; q < quads * (part + 1); q += Block::nibbles ? 2 : 1) {
        const auto multiply = [&](const V(&codes)[NV], int word) __attribute__((always_inline)) {
#pragma GCC unroll 16
          for (int r = 0; r < ROWS; ++r) {
            const V four = V::broadcast(row[r][word]);
#pragma GCC unroll 4
            for (int v = 0; v < NV; ++v) dot[r][v] = V::template add_products<WIDE>(dot[r][v], codes[v], four);
          }
        };
        V codes[NV];
        if constexpr (Block::nibbles) {
          V both[NV];
#pragma GCC unroll 4
          for (int v = 0; v < NV; ++v) both[v] = V::load(block.codes[q / 2][16 * (v0 + v)]);
#pragma GCC unroll 4
          for (int v = 0; v < NV; ++v) codes[v] = both[v].low_nibbles();
          multiply(codes, q);
#pragma GCC unroll 4
          for (int v = 0; v < NV; ++v) codes[v] = both[v].high_nibbles();
          multiply(codes, q + 1);
        } else {
#pragma GCC unroll 4
          for (int v = 0; v < NV; ++v) codes[v] = V::load(block.codes[q][16 * (v0 + v)]);
          multiply(codes, q);
        }
      }
      Float d[NV];
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) d[v] = load_scale<V>(block.d[part] + 16 * (v0 + v));
#pragma GCC unroll 16
      for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) sum[r][v] = Float::fma(d[v] * Float::broadcast(number(r, scale)), dot[r][v].to_float(), sum[r][v]);
    }
    if constexpr (Block::minimum) {
      Float m[NV];
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) m[v] = load_scale<V>(block.m + 16 * (v0 + v));
#pragma GCC unroll 16
      for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) sum[r][v] = Float::fma(m[v], Float::broadcast(number(r, scale + blocks)), sum[r][v]);
    }
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) row[r] += 8;
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) {
      const int column = 16 * (v0 + v), left = columns - column;
      if (left <= 0) continue;
      float* out = c + r * ldc + column;
      if (left >= 16)
        (bias ? sum[r][v] + Float::load(bias + column) : sum[r][v]).store(out);
      else
        (bias ? sum[r][v] + Float::load(bias + column, left) : sum[r][v]).store(out, left);
    }
}

/// c[rows, columns] = quantised rows times a panel of a weight that the file holds as
/// `dtype`.
template <class V>
void int8_panel(DType dtype, std::int64_t rows, std::int64_t blocks, const float* a, const void* panel, float* c, std::int64_t ldc,
                int columns, const float* bias) {
  with_int8(dtype, [&]<class Block>() {
    const Block* data = static_cast<const Block*>(panel);
    const auto tiles = [&]<bool WIDE>() {
      const std::int64_t tile_count = (rows + V::int8_rows - 1) / V::int8_rows;
      for (std::int64_t r = 0; r < rows; r += V::int8_rows) {
        const int count = static_cast<int>(rows - r < V::int8_rows ? rows - r : V::int8_rows);
        const std::int32_t* tile = reinterpret_cast<const std::int32_t*>(a) + r * blocks * int8_words(Block::parts);
        const auto line = [&](std::int64_t tile) { return 64 * static_cast<unsigned>((sizeof(Block) + 63) / 64 * tile / tile_count); };
        const BytesAhead ahead{line(r / V::int8_rows), line(r / V::int8_rows + 1)};  // the tiles share the next panel
        with_rows<V::int8_rows>(count, [&]<int ROWS>() {
          for (int v0 = 0; v0 < 2; v0 += V::int8_vectors)
            int8_tile<V, Block, WIDE, ROWS, V::int8_vectors>(blocks, tile, data, v0, c + r * ldc, ldc, columns, bias, ahead);
        });
      }
    };
    if constexpr (!Block::nibbles && !Block::minimum && Block::parts == 1) {
      if (int8_offset(dtype) == plain_offset) return tiles.template operator()<true>();
    }
    tiles.template operator()<false>();
  });
}

/// Inputs [k0, k1) (whole blocks, or up to the last input) of a panel as float [k1 - k0][32]: scale (code - offset), or scale code +
/// minimum.
template <class V>
void unpack_int8(DType dtype, const void* panel, std::int64_t k0, std::int64_t k1, float* out) {
  using Float = typename V::Float;
  const Float offset = Float::broadcast(static_cast<float>(-int8_offset(dtype)));
  with_int8(dtype, [&]<class Block>() {
    for (std::int64_t k = k0; k < k1; k += 4) {
      const Block& block = static_cast<const Block*>(panel)[k / 32];
      const int q = static_cast<int>(k % 32) / 4;
      for (int v = 0; v < 2; ++v) {
        const Float d = load_scale<V>(block.d[q * Block::parts / 8] + 16 * v);
        Float m = d * offset;
        if constexpr (Block::minimum) m = load_scale<V>(block.m + 16 * v);
        const auto lanes = Float::load_lanes(reinterpret_cast<const std::uint32_t*>(block.codes[Block::nibbles ? q / 2 : q][16 * v]));
        const auto put = [&](int j, Float code) {
          if (k + j < k1) Float::fma(d, code, m).store(out + (k + j - k0) * panel_width + 16 * v);
        };
        if constexpr (!Block::nibbles) {
          put(0, Float::template byte<0>(lanes)), put(1, Float::template byte<1>(lanes));
          put(2, Float::template byte<2>(lanes)), put(3, Float::template byte<3>(lanes));
        } else if (q % 2 == 0) {
          put(0, Float::template nibble<0>(lanes)), put(1, Float::template nibble<2>(lanes));
          put(2, Float::template nibble<4>(lanes)), put(3, Float::template nibble<6>(lanes));
        } else {
          put(0, Float::template nibble<1>(lanes)), put(1, Float::template nibble<3>(lanes));
          put(2, Float::template nibble<5>(lanes)), put(3, Float::template nibble<7>(lanes));
        }
      }
    }
  });
}

}  // namespace expctr::cpu
