// Gradient of attention for one (sequence, key-value head, range of keys), float32.
// Key blocks of 32 outside, chunks of query rows inside: scores and dy v^T again from packed rows, then five small matrix products a block:
// s = q k^T, dp = dy v^T, dv += p^T dy, dk += ds^T q, dq += ds k. 10 visible head_dim operations a query row, bound by the multiply-add
// units.
#pragma once

#include <cmath>
#include <cstdint>

#include "cpu/attention_kernel.h"

namespace expctr::cpu {

struct AttentionGradient {
  const float *q, *y, *dy;  ///< row r = (token r / group, head r % group), as in AttentionRows
  float* dq;                ///< likewise; may be null
  std::int64_t q_stride;
  const float* log_sum_exp;    ///< [token * heads + head]
  const float *keys, *values;  ///< at this head; tokens kv_stride floats apart
  float *dk, *dv;              ///< may be null
  std::int64_t kv_stride;
  std::int64_t first_key, end_key;  ///< of this piece of work; first_key is a multiple of attention_block
  float* partial_dq;                ///< [queries * group, head_dim]: receives the keys' part of dq in place of dq; may be null
  KeyRange range;
  int heads, group, head_dim;
  float scale;
};

constexpr int gradient_chunk = 96;  ///< query rows of one pass: a multiple of every tile_rows

/// Query rows begin .. end - 1 see keys of first_key .. end_key - 1; begin is a multiple of gradient_chunk.
struct GradientRows {
  std::int64_t begin, end;
};
static inline GradientRows gradient_rows(const KeyRange& range, int group, std::int64_t first_key, std::int64_t end_key) {
  const std::int64_t first_query = range.first_query(static_cast<int>(first_key)),
                     end_query = range.end_query(static_cast<int>(end_key) - 1);
  const std::int64_t begin = first_query * group / gradient_chunk * gradient_chunk, end = end_query * group;
  return {begin, end > begin ? end : begin};
}

/// Floats of scratch that attention_gradient needs.
static inline std::int64_t attention_gradient_floats(std::int64_t rows, int head_dim) {
  const std::int64_t wide = padded_head(head_dim);
  return rows * (5 * wide + 2) + 32 + attention_block * 5 * wide + 2 * gradient_chunk * attention_block;
}

template <class V>
void attention_gradient(const AttentionGradient& args, float* scratch) {
  constexpr int tile = V::tile_rows;
  const int d = args.head_dim, wide = padded_head(d), group = args.group;
  const KeyRange range = args.range;
  const auto [base, end_row] = gradient_rows(range, group, args.first_key, args.end_key);
  const std::int64_t rows = end_row - base;  // row r of the packed copies is row base + r of the sequence
  const auto take = [&](std::int64_t floats) {
    float* part = scratch;
    scratch += floats;
    return part;
  };
  float *q_rows = take(rows * wide), *dy_rows = take(rows * wide), *q_tiles = take(rows * wide), *dy_tiles = take(rows * wide),
        *dq = take(rows * wide);
  float *dy_y = take(rows), *log_sum_exp = take(rows);
  float *keys_across = take(attention_block * wide), *values_across = take(attention_block * wide), *keys = take(attention_block * wide);
  float *dk = take(attention_block * wide), *dv = take(attention_block * wide);
  float *p = take(gradient_chunk * attention_block), *ds = take(gradient_chunk * attention_block);

  for (std::int64_t r = 0; r < rows; ++r) {
    const std::int64_t offset = (base + r) / group * args.q_stride + (base + r) % group * d;
    V sum = V::zero();
    for (int k = 0; k < wide; k += 16) {
      const int n = d - k < 16 ? d - k : 16;
      const V dy = V::load(args.dy + offset + k, n);
      V::load(args.q + offset + k, n).store(q_rows + r * wide + k);
      dy.store(dy_rows + r * wide + k);
      V::zero().store(dq + r * wide + k);
      sum = V::fma(dy, V::load(args.y + offset + k, n), sum);
    }
    dy_y[r] = sum.sum();
    log_sum_exp[r] = args.log_sum_exp[(base + r) / group * args.heads + (base + r) % group];
  }
  for (std::int64_t r = 0; r < rows; r += tile) {
    const std::int64_t count = rows - r < tile ? rows - r : tile;
    transpose<V>(q_rows + r * wide, wide, count, d, q_tiles + r * d, count);
    transpose<V>(dy_rows + r * wide, wide, count, d, dy_tiles + r * d, count);
  }

  const V scale = V::broadcast(args.scale);
  for (std::int64_t first_key = args.first_key; first_key < args.end_key; first_key += attention_block) {
    const int here = block_place(args.end_key - first_key);
    const float *block_keys = args.keys + first_key * args.kv_stride, *block_values = args.values + first_key * args.kv_stride;
    transpose<V>(block_keys, args.kv_stride, here, d, keys_across, attention_block);
    transpose<V>(block_values, args.kv_stride, here, d, values_across, attention_block);
    for (int j = here; j < attention_block; ++j)
      for (int k = 0; k < d; ++k) keys_across[k * attention_block + j] = values_across[k * attention_block + j] = 0.0f;
    for (int j = 0; j < attention_block; ++j)
      for (int k = 0; k < wide; k += 16) {
        const int n = d - k < 16 ? d - k : 16;
        (j < here ? V::load(block_keys + j * args.kv_stride + k, n) : V::zero()).store(keys + j * wide + k);
        V::zero().store(dk + j * wide + k);
        V::zero().store(dv + j * wide + k);
      }
    const GradientRows seeing = gradient_rows(range, group, first_key, first_key + here);
    for (std::int64_t r0 = seeing.begin - base; r0 < seeing.end - base; r0 += gradient_chunk) {
      const int count = static_cast<int>(rows - r0 < gradient_chunk ? rows - r0 : gradient_chunk);
      gemm_panel<V>(count, d, q_tiles + r0 * d, keys_across, attention_block, p, attention_block, attention_block, nullptr, false);
      gemm_panel<V>(count, d, dy_tiles + r0 * d, values_across, attention_block, ds, attention_block, attention_block, nullptr, false);
      int query = static_cast<int>((base + r0) / group);
      for (int i = 0, head = static_cast<int>((base + r0) % group); i < count; ++i) {
        const int n = block_place(range.end(query) - first_key), skipped = block_place(range.first(query) - first_key);
        const V shift = V::broadcast(log_sum_exp[r0 + i]), delta = V::broadcast(dy_y[r0 + i]);
        for (int v = 0; v < attention_block; v += 16) {
          float *p_row = p + i * attention_block + v, *ds_row = ds + i * attention_block + v;
          V probability = V::first(n - v, exp(V::load(p_row) * scale - shift), V::zero());
          if (skipped > v) probability = V::first(skipped - v, V::zero(), probability);
          probability.store(p_row);
          (probability * (V::load(ds_row) - delta) * scale).store(ds_row);
        }
        if (++head == group) {
          head = 0;
          ++query;
        }
      }
      for (int i = 0; args.dq && i < count; i += tile)
        gemm_strip<V, attention_block, 1>(count - i < tile ? count - i : tile, attention_block, ds + i * attention_block, keys, wide,
                                          dq + (r0 + i) * wide, wide, wide, true);
      for (int j = 0; j < here; j += tile) {
        const int some = here - j < tile ? here - j : tile;
        if (args.dk) gemm_strip<V, 1, attention_block>(some, count, ds + j, q_rows + r0 * wide, wide, dk + j * wide, wide, wide, true);
        if (args.dv) gemm_strip<V, 1, attention_block>(some, count, p + j, dy_rows + r0 * wide, wide, dv + j * wide, wide, wide, true);
      }
    }
    const auto add = [&](float* out, const float* block) {
      for (int j = 0; out && j < here; ++j)
        for (int k = 0; k < d; ++k) out[(first_key + j) * args.kv_stride + k] += block[j * wide + k];
    };
    add(args.dk, dk);
    add(args.dv, dv);
  }
  for (std::int64_t r = 0; args.dq && r < rows; ++r) {
    const std::int64_t row = base + r;
    float* out = args.partial_dq ? args.partial_dq + row * d : args.dq + row / group * args.q_stride + row % group * d;
    for (int k = 0; k < d; ++k) out[k] = args.partial_dq ? dq[r * wide + k] : out[k] + dq[r * wide + k];
  }
}

}  // namespace expctr::cpu
