// Attention over packed sequences and over a paged key-value cache.
#pragma once

#include "base/kernels/attention.h"
#include "engine/core/tensor.h"

namespace expctr {

/// AttentionKeys as tensors, each may be undefined: offsets [sequences + 1] i32 of k and v (then [offsets' last, kv_heads * head_dim]), lengths
/// [sequences] i32 of keys that are no padding, prefixes [sequences] i32 of keys that every query of a causal sequence sees.
struct AttentionKeyTensors {
  Tensor offsets = {}, lengths = {}, prefixes = {};
  operator AttentionKeys() const { return {offsets, lengths, prefixes}; }
};

/// y[t, h] = sum_j softmax_j(scale <q[t, h], k[j, g]>) v[j, g], g = h / (heads / kv_heads), j over t's own sequence (up to t if causal).
/// q [tokens, heads * head_dim], k, v [tokens, kv_heads * head_dim], sequence_offsets [sequences + 1] i32.   Source: Vaswani et al. 2017; online softmax: Dao et al. 2022.
/// `keys`: attention to other tokens than the queries' own (cross attention), padding, prefixes; shape.window: the last keys only (KeyRange says
/// which). A query that sees no key gives zeros.
Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& sequence_offsets, const AttentionShape& shape,
                 const AttentionKeyTensors& keys = {});

/// Attention of new tokens over a cache that holds their keys and values already; operands as in PagedAttention. no_gradient. CPU: the same bits as `attention`.
Tensor paged_attention(const Tensor& q, const Tensor& query_offsets, const Tensor& context_lengths, const Tensor& page_table, const Tensor& key_pages,
                       const Tensor& value_pages, const AttentionShape& shape);

/// Writes keys and values [tokens, kv_heads * head_dim] into slots [tokens] i32 (page * attention_block + place). no_gradient.
void store_keys_values(const Tensor& k, const Tensor& v, const Tensor& slots, const Tensor& key_pages, const Tensor& value_pages);

}  // namespace expctr
