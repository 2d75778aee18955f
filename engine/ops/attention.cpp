#include "engine/ops/attention.h"

#include <fmt/format.h>

#include "base/error.h"
#include "engine/autograd/tape.h"
#include "engine/core/op_scope.h"
#include "engine/core/run.h"
#include "engine/ops/attention_library.h"
#include "engine/ops/layout.h"

namespace expctr {

namespace {

void require_mask(const AttentionShape& shape, const AttentionKeyTensors& keys, std::int64_t sequences) {
  if (shape.window < 0 || (shape.window > 0 && !shape.causal))
    throw ShapeError(fmt::format("attention: a window of {} keys over {} sequences", shape.window, shape.causal ? "causal" : "bidirectional"),
                     "a window is at least 1 (0: none) and needs causal");
  if (keys.prefixes.defined() && !shape.causal)
    throw ShapeError("attention: prefix lengths of bidirectional sequences", "every query sees all keys there; leave the prefixes out");
  if (keys.offsets.defined()) require_shape("attention", "key offsets", keys.offsets, {sequences + 1});
  if (keys.lengths.defined()) require_shape("attention", "key lengths", keys.lengths, {sequences});
  if (keys.prefixes.defined()) require_shape("attention", "prefix lengths", keys.prefixes, {sequences});
}

}  // namespace

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& sequence_offsets, const AttentionShape& shape,
                 const AttentionKeyTensors& keys) {
  const OpScope scope("attention", q, k, v, sequence_offsets, keys.offsets, keys.lengths, keys.prefixes);
  if (!scope.dense()) {
    return attention(dense(q), dense(k), dense(v), dense(sequence_offsets), shape, {dense(keys.offsets), dense(keys.lengths), dense(keys.prefixes)});
  }
  require_rank("attention", "q", q, 2);
  require_rank("attention", "k", k, 2);
  require_same_place("attention", q, k);
  require_same_place("attention", q, v);
  if (shape.kv_heads <= 0 || shape.heads % shape.kv_heads != 0) {
    throw ShapeError(fmt::format("attention: {} query heads, {} key-value heads", shape.heads, shape.kv_heads), "query heads are a multiple of key-value heads");
  }
  require_shape("attention", "q", q, {q.dim(0), std::int64_t{shape.heads} * shape.head_dim});
  require_shape("attention", "k", k, {keys.offsets.defined() ? k.dim(0) : q.dim(0), std::int64_t{shape.kv_heads} * shape.head_dim});
  require_shape("attention", "v", v, k.shape());
  require_rank("attention", "sequence_offsets", sequence_offsets, 1);
  require_mask(shape, keys, sequence_offsets.dim(0) - 1);
  if (const Tensor computed = library_attention(q, k, v, sequence_offsets, shape, keys); computed.defined()) return computed;
  Tensor y = q.empty_like(), log_sum_exp = Tensor::empty({q.dim(0), shape.heads}, q.dtype() == DType::f64 ? DType::f64 : DType::f32, q.device());
  run(q.device(), AttentionForward{shape, q, k, v, sequence_offsets, y, log_sum_exp, keys});
  return record("attention", y, {q, k, v}, [=](const Tensor& dy, const GradientSlots& d) {
    run(q.device(), AttentionBackward{shape, q, k, v, sequence_offsets, y.detached(), log_sum_exp, dy, d[0], d[1], d[2], {}, keys});
  });
}

Tensor paged_attention(const Tensor& q, const Tensor& query_offsets, const Tensor& context_lengths, const Tensor& page_table, const Tensor& key_pages,
                       const Tensor& value_pages, const AttentionShape& shape) {
  const OpScope scope("paged_attention", q, query_offsets, context_lengths, page_table, key_pages, value_pages);
  if (!scope.dense()) {
    return paged_attention(dense(q), dense(query_offsets), dense(context_lengths), dense(page_table), dense(key_pages), dense(value_pages), shape);
  }
  require_rank("paged_attention", "page_table", page_table, 2);
  const Shape pages{key_pages.dim(0), attention_block, std::int64_t{shape.kv_heads} * shape.head_dim};
  require_shape("paged_attention", "q", q, {q.dim(0), std::int64_t{shape.heads} * shape.head_dim});
  require_shape("paged_attention", "query_offsets", query_offsets, {page_table.dim(0) + 1});
  require_shape("paged_attention", "context_lengths", context_lengths, {page_table.dim(0)});
  require_shape("paged_attention", "key_pages", key_pages, pages);
  require_shape("paged_attention", "value_pages", value_pages, pages);
  Tensor y = q.empty_like();
  run(q.device(), PagedAttention{shape, q, query_offsets, context_lengths, page_table, key_pages, value_pages, y});
  return y;
}

void store_keys_values(const Tensor& k, const Tensor& v, const Tensor& slots, const Tensor& key_pages, const Tensor& value_pages) {
  const OpScope scope("store_keys_values", k, v, slots, key_pages, value_pages);
  if (!scope.dense()) {
    WrittenInPlace written;
    store_keys_values(dense(k), dense(v), dense(slots), written(key_pages), written(value_pages));
    return written.copy_back();
  }
  require_shape("store_keys_values", "v", v, k.shape());
  require_shape("store_keys_values", "slots", slots, {k.dim(0)}, "one slot per token");
  require_shape("store_keys_values", "key_pages", key_pages, {key_pages.dim(0), attention_block, k.dim(1)});
  require_shape("store_keys_values", "value_pages", value_pages, key_pages.shape());
  run(k.device(), StoreKeysValues{k, v, slots, key_pages, value_pages});
}

}  // namespace expctr
