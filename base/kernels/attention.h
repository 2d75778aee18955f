// Arguments of attention and of the paged key-value cache.
#pragma once

#include "base/view.h"

namespace expctr {

/// Keys are visited in blocks of this many tokens at fixed absolute positions, in order; a cache page holds one such block.
constexpr int attention_block = 32;

/// Query head h reads key-value head h / (heads / kv_heads).
struct AttentionShape {
  int heads, kv_heads, head_dim;
  bool causal;
  double scale;
};

/// Sequences packed without padding: tokens sequence_offsets[s] .. sequence_offsets[s + 1] - 1 form sequence s, positions from 0.
/// q [tokens, heads * head_dim], k, v [tokens, kv_heads * head_dim], sequence_offsets [sequences + 1] i32
/// -> y like q, log_sum_exp [tokens, heads] (may be empty on the CPU). Online softmax, no [tokens, tokens] buffer.
struct AttentionForward {
  AttentionShape shape;
  View q, k, v, sequence_offsets, y, log_sum_exp;
};
/// dq, dk, dv += ...
struct AttentionBackward {
  AttentionShape shape;
  View q, k, v, sequence_offsets, y, log_sum_exp, dy, dq, dk, dv;
  View scratch;
};

/// Attention of new tokens over cached keys and values (no gradient), causal. The new tokens' own keys and values are in the cache already.
/// q [tokens, heads * head_dim]; query_offsets [sequences + 1] i32; context_lengths [sequences] i32 = cached tokens of the sequence, new ones included
/// (so query i of n has position context - n + i); page_table [sequences, most pages] i32; key_pages, value_pages [pages, attention_block, kv_heads * head_dim].
/// CPU: the same bits as AttentionForward gives for the same tokens.
struct PagedAttention {
  AttentionShape shape;
  View q, query_offsets, context_lengths, page_table, key_pages, value_pages, y;
};
/// key_pages[slot / attention_block, slot % attention_block] = k[t], the same for values; slots [tokens] i32.
struct StoreKeysValues {
  View k, v, slots, key_pages, value_pages;
};

}  // namespace expctr
