// Attention of one group of query rows that share a key-value head, float32.
// Key blocks of 32 at absolute positions are visited in order. Scores have their keys in lanes and add along head_dim in ascending order;
// values have head_dim in lanes and add along the keys in ascending order. No value of a key that a row may not see is ever multiplied, so
// nothing of its result depends on how many rows are computed with it or on what lies behind its last key.
#pragma once

#include <cmath>
#include <cstdint>

#include "base/kernels/attention.h"
#include "cpu/gemm_kernel.h"
#include "cpu/vector_math.h"

namespace expctr::cpu {

// This header is compiled once an instruction set: what is not a template over it must have no symbol of its own.

/// Where one key-value head of a sequence lies: block b of 32 keys starts at base + start(b), its keys `stride` floats apart.
struct KeyBlocks {
  const float *keys, *values;  ///< at the first token (or page 0), at this head
  std::int64_t stride;         ///< floats between tokens
  const std::int32_t* pages;   ///< null: tokens follow each other
  [[gnu::always_inline]] std::int64_t offset(std::int64_t block) const { return (pages ? pages[block] : block) * attention_block * stride; }
};

struct AttentionRows {
  const float* q;  ///< row r = (token r / group, head r % group) at q + (r / group) * q_stride + (r % group) * head_dim
  float* y;        ///< likewise
  std::int64_t q_stride;
  float* log_sum_exp;  ///< [token * heads + head], may be null
  int heads, group, head_dim;
  int rows;         ///< tokens * group
  int first_query;  ///< the first token's place among the queries of its sequence
  KeyRange range;
  float scale;
  KeyBlocks blocks;
};

/// A key counted from the block's first one, as a place in the block: 0 .. attention_block.
static inline int block_place(std::int64_t key) { return static_cast<int>(key < 0 ? 0 : key < attention_block ? key : attention_block); }

static inline int padded_head(int head_dim) { return (head_dim + 15) / 16 * 16; }

/// Floats of scratch that attention_rows needs.
static inline std::int64_t attention_scratch_floats(int rows, int head_dim) {
  const std::int64_t wide = padded_head(head_dim);
  return rows * wide                    // q, packed
         + rows * wide                  // sums
         + 2 * ((rows + 15) / 16 * 16)  // maximum and denominator
         + 2 * attention_block * wide   // keys transposed, values
         + 12 * attention_block;        // scores of a tile
}

template <class V>
void attention_rows(const AttentionRows& args, float* scratch) {
  constexpr int tile = V::tile_rows;
  const int rows = args.rows, d = args.head_dim, wide = padded_head(d), padded_rows = (rows + 15) / 16 * 16;
  float* q = scratch;
  float* sums = q + static_cast<std::int64_t>(rows) * wide;
  float* top = sums + static_cast<std::int64_t>(rows) * wide;
  float* denominator = top + padded_rows;
  float* keys = denominator + padded_rows;
  float* padded_values = keys + attention_block * wide;
  float* scores = padded_values + attention_block * wide;

  for (int r = 0; r < rows; r += tile) {
    const int count = rows - r < tile ? rows - r : tile;
    float* lines = sums + static_cast<std::int64_t>(r) * wide;
    for (int i = 0; i < count; ++i) {
      const float* source = args.q + (r + i) / args.group * args.q_stride + (r + i) % args.group * d;
      for (int k = 0; k < d; k += 16) V::load(source + k, d - k).store(lines + i * wide + k);
    }
    transpose<V>(lines, wide, count, d, q + static_cast<std::int64_t>(r) * d, count);
  }
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(rows) * wide; i += 16) V::zero().store(sums + i);
  for (int r = 0; r < rows; ++r) {
    top[r] = -INFINITY;
    denominator[r] = 0.0f;
  }
  const KeyRange range = args.range;
  const auto hidden = [&](int r) { return range.first(args.first_query + r / args.group); };  // keys before those that row r sees
  const auto visible = [&](int r) { return range.end(args.first_query + r / args.group); };
  const std::int64_t most = visible(rows - 1);

  for (std::int64_t block = hidden(0) / attention_block; block * attention_block < most; ++block) {
    const std::int64_t first_key = block * attention_block;
    const int here = static_cast<int>(most - first_key < attention_block ? most - first_key : attention_block);
    const float* block_keys = args.blocks.keys + args.blocks.offset(block);
    const float* values = args.blocks.values + args.blocks.offset(block);
    std::int64_t value_stride = args.blocks.stride;
    transpose<V>(block_keys, args.blocks.stride, here, d, keys, attention_block);
    if (here < attention_block)
      for (int k = 0; k < d; ++k)
        for (int j = here; j < attention_block; ++j) keys[k * attention_block + j] = 0.0f;
    if (d % 16 != 0) {
      for (int j = 0; j < here; ++j)
        for (int k = 0; k < wide; ++k) padded_values[j * wide + k] = k < d ? values[j * args.blocks.stride + k] : 0.0f;
      values = padded_values;
      value_stride = wide;
    }
    for (int r = 0; r < rows; r += tile) {
      const int count = rows - r < tile ? rows - r : tile;
      const std::int64_t last_seen = visible(r + count - 1) - first_key;
      if (last_seen <= 0 || hidden(r) >= first_key + attention_block) continue;
      gemm_panel<V>(count, d, q + static_cast<std::int64_t>(r) * d, keys, attention_block, scores, attention_block, attention_block,
                    nullptr, false);
      int from[tile], to[tile];  // row i of the tile sees keys from[i] .. to[i] - 1 of this block
      int query = args.first_query + r / args.group;
      for (int i = 0, head = r % args.group; i < count; ++i) {
        from[i] = block_place(range.first(query) - first_key);
        to[i] = block_place(range.end(query) - first_key);
        if (++head == args.group) {
          head = 0;
          ++query;
        }
      }
      int common = from[count - 1] > 0 ? 0 : attention_block;  // the first ones, those that every row sees
      for (int i = 0; i < count; ++i) {
        const int n = to[i], skipped = from[i];
        common = n < common ? n : common;
        if (n <= skipped) continue;
        float* row = scores + i * attention_block;
        const V scale = V::broadcast(args.scale), none = V::broadcast(-INFINITY);
        V s0 = V::first(n, V::load(row) * scale, none), s1 = V::first(n - 16, V::load(row + 16) * scale, none);
        if (skipped > 0) {
          s0 = V::first(skipped, none, s0);
          s1 = V::first(skipped - 16, none, s1);
        }
        const float block_top = V::max(s0, s1).largest();
        const float new_top = block_top > top[r + i] ? block_top : top[r + i];
        const V shift = V::broadcast(new_top);
        const V p0 = exp(s0 - shift), p1 = exp(s1 - shift);
        p0.store(row);
        p1.store(row + 16);
        const V correction = exp(V::broadcast(top[r + i] - new_top));
        float lanes[16];
        correction.store(lanes);
        denominator[r + i] = denominator[r + i] * lanes[0] + (p0 + p1).sum();
        float* sum = sums + static_cast<std::int64_t>(r + i) * wide;
        if (lanes[0] != 1.0f)
          for (int k = 0; k < wide; k += 16) (V::load(sum + k) * correction).store(sum + k);
        top[r + i] = new_top;
      }
      float* tile_sums = sums + static_cast<std::int64_t>(r) * wide;
      const auto add_values = [&](int first_row, int row_count, int begin, int end) {
        if (end > begin)
          gemm_strip<V, attention_block, 1>(row_count, end - begin, scores + first_row * attention_block + begin,
                                            values + begin * value_stride, value_stride,
                                            tile_sums + static_cast<std::int64_t>(first_row) * wide, wide, wide, true);
      };
      add_values(0, count, 0, common);
      for (int i = 0, next = 0; i < count && common < attention_block; i = next) {
        for (next = i + 1; next < count && to[next] == to[i] && from[next] == from[i];) ++next;
        add_values(i, next - i, from[i] < common ? common : from[i], to[i]);
      }
    }
  }
  for (int r = 0; r < rows; ++r) {
    const float* sum = sums + static_cast<std::int64_t>(r) * wide;
    float* out = args.y + r / args.group * args.q_stride + r % args.group * d;
    const V divisor = V::broadcast(denominator[r] > 0.0f ? denominator[r] : 1.0f);  // no key seen: sums are 0
    for (int k = 0; k < d; k += 16) (V::load(sum + k) / divisor).store(out + k, d - k);
    if (args.log_sum_exp)
      args.log_sum_exp[static_cast<std::int64_t>(r / args.group) * args.heads + r % args.group] = top[r] + std::log(denominator[r]);
  }
}

}  // namespace expctr::cpu
