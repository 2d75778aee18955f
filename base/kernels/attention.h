// Arguments of attention and of the paged key-value cache.
#pragma once

#include <cstdint>

#include "base/host_device.h"
#include "base/view.h"

namespace expctr {

/// Keys are visited in blocks of this many tokens at fixed absolute positions, in order; a cache page holds one such block.
constexpr int attention_block = 32;

/// Query head h reads key-value head h / (heads / kv_heads).
struct AttentionShape {
  int heads, kv_heads, head_dim;
  bool causal;
  double scale;
  int window = 0;  ///< > 0 (causal only): a query sees no more than the last `window` positions, its own included
};

/// Which keys a query of one sequence sees: always one interval, whose two ends never fall from query to query.
/// The last query stands at the last key, so query i has position i + keys of the extent - queries; causal: it sees keys up to its position
/// and those of the prefix (not before position - window + 1). Keys behind `keys` are padding and seen by none.
struct KeyRange {
  int queries, keys;  ///< of the sequence; keys without padding
  int shift;          ///< position of query 0; negative where there are more queries than keys
  int prefix;         ///< keys that every query sees
  int window;         ///< 0: all
  bool causal;

  /// Keys first(i) .. end(i) - 1 are seen by query i; an empty interval when end <= first.
  EXPCTR_HOST_DEVICE int first(int query) const {
    const int low = window > 0 ? query + shift + 1 - window : 0;
    return low > 0 ? low : 0;
  }
  EXPCTR_HOST_DEVICE int end(int query) const {
    if (!causal) return keys;
    const int own = query + shift + 1, most = own > prefix ? own : prefix;
    return most < keys ? most : keys;
  }
  /// Queries first_query(j) .. end_query(j) - 1 see key j < keys.
  EXPCTR_HOST_DEVICE int first_query(int key) const { return !causal || key < prefix || key <= shift ? 0 : key - shift; }
  EXPCTR_HOST_DEVICE int end_query(int key) const {
    if (window <= 0 || key - shift >= queries - window) return queries;
    const int after = key - shift + window;
    return after < 0 ? 0 : after;
  }
};

/// Keys and values of other tokens than the queries', and what of them is seen; every view may be empty.
struct AttentionKeys {
  View offsets = {};   ///< [sequences + 1] i32: keys offsets[s] .. offsets[s + 1] - 1 belong to sequence s. Empty: sequence_offsets
  View lengths = {};   ///< [sequences] i32: the first `length` keys of the sequence count, what follows is padding. Empty: all count
  View prefixes = {};  ///< [sequences] i32: of a causal sequence the first `prefix` keys are seen by every query. Empty: 0
};

/// Of sequence s; the arrays may be null, offsets may not.
EXPCTR_HOST_DEVICE KeyRange key_range(const std::int32_t* query_offsets, const std::int32_t* key_offsets, const std::int32_t* lengths,
                                      const std::int32_t* prefixes, std::int64_t s, bool causal, int window) {
  const std::int32_t* offsets = key_offsets ? key_offsets : query_offsets;
  KeyRange range;
  range.queries = query_offsets[s + 1] - query_offsets[s];
  range.keys = offsets[s + 1] - offsets[s];
  range.shift = range.keys - range.queries;
  range.prefix = prefixes ? prefixes[s] : 0;
  range.window = window;
  range.causal = causal;
  if (lengths && lengths[s] < range.keys) range.keys = lengths[s];
  return range;
}

/// Sequences packed without padding: tokens sequence_offsets[s] .. sequence_offsets[s + 1] - 1 form sequence s, positions from 0.
/// q [tokens, heads * head_dim], k, v [key tokens, kv_heads * head_dim] (key tokens = tokens without keys.offsets), sequence_offsets
/// [sequences + 1] i32 -> y like q, log_sum_exp [tokens, heads] (may be empty on the CPU; f32 beside bf16). Online softmax, no
/// [tokens, tokens] buffer. A query that sees no key: y = 0, log_sum_exp = -inf, no gradient.
struct AttentionForward {
  AttentionShape shape;
  View q, k, v, sequence_offsets, y, log_sum_exp;
  AttentionKeys keys = {};
};
/// dq, dk, dv += ...
struct AttentionBackward {
  AttentionShape shape;
  View q, k, v, sequence_offsets, y, log_sum_exp, dy, dq, dk, dv;
  View scratch;
  AttentionKeys keys = {};
};

/// Attention of new tokens over cached keys and values (no gradient), causal. The new tokens' own keys and values are in the cache already.
/// q [tokens, heads * head_dim]; query_offsets [sequences + 1] i32; context_lengths [sequences] i32 = cached tokens of the sequence, new
/// ones included (so query i of n has position context - n + i, and sees the last `window` of them if there is one); page_table [sequences,
/// most pages] i32; key_pages, value_pages [pages, attention_block, kv_heads * head_dim]. CPU: the same bits as AttentionForward gives for
/// the same tokens.
struct PagedAttention {
  AttentionShape shape;
  View q, query_offsets, context_lengths, page_table, key_pages, value_pages, y;
  View scratch = {};
};
/// key_pages[slot / attention_block, slot % attention_block] = k[t], the same for values; slots [tokens] i32.
struct StoreKeysValues {
  View k, v, slots, key_pages, value_pages;
};

}  // namespace expctr
