// Attention over packed sequences and over the paged cache. One piece of work is a (sequence, key-value head, tile of query tokens); float
// rows go through cpu/attention_kernel.h, which both kernels share: the same token gets the same bits whether prefilled, packed with others
// or decoded. 4 tokens keys head_dim operations a head; decoding is bound by reading the cache.
#include "base/kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/attention_arguments.h"
#include "cpu/attention_kernel.h"
#include "cpu/kernel_table.h"
#include "cpu/run.h"
#include "cpu/thread_pool.h"

namespace expctr::cpu {
namespace {

constexpr std::int64_t query_tile = 32;  // tokens of one piece of work

/// Calls piece(sequence, key-value head, first token, tokens) on the pool; positions count from the sequence's first token.
template <class Piece>
void for_each_piece(const std::int32_t* offsets, std::int64_t sequences, int kv_heads, const Piece& piece) {
  std::int64_t most = 0;
  for (std::int64_t s = 0; s < sequences; ++s) most = std::max<std::int64_t>(most, offsets[s + 1] - offsets[s]);
  const std::int64_t tiles = (most + query_tile - 1) / query_tile;
  parallel_for(sequences * kv_heads * tiles, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t s = i / (kv_heads * tiles), head = i / tiles % kv_heads, first = i % tiles * query_tile;
      const std::int64_t tokens = std::min<std::int64_t>(query_tile, offsets[s + 1] - offsets[s] - first);
      if (tokens > 0) piece(s, head, first, tokens);
    }
  });
}

void run_rows(const AttentionShape& shape, AttentionRows rows) {
  rows.heads = shape.heads;
  rows.group = shape.heads / shape.kv_heads;
  rows.head_dim = shape.head_dim;
  rows.scale = static_cast<float>(shape.scale);
  rows.q_stride = static_cast<std::int64_t>(shape.heads) * shape.head_dim;
  rows.blocks.stride = static_cast<std::int64_t>(shape.kv_heads) * shape.head_dim;
  float* scratch = reinterpret_cast<float*>(thread_scratch(sizeof(float) * attention_scratch_floats(rows.rows, rows.head_dim)).data());
  kernels().attention_rows(rows, scratch);
}

void forward_double(const AttentionForward& args, const PackedSequences& sequences) {
  const AttentionShape& shape = args.shape;
  const std::int64_t d = shape.head_dim, q_stride = shape.heads * d, k_stride = shape.kv_heads * d;
  for_each_piece(sequences.query_offsets, sequences.count, shape.kv_heads,
                 [&](std::int64_t s, std::int64_t kv, std::int64_t first, std::int64_t tokens) {
                   const int group = shape.heads / shape.kv_heads;
                   const std::int64_t start = sequences.query_offsets[s];
                   const KeyRange range = sequences.range(s);
                   double* p = reinterpret_cast<double*>(thread_scratch(sizeof(double) * (range.keys + 1)).data());
                   const double* keys = args.k.as<double>() + sequences.key_offsets[s] * k_stride + kv * d;
                   const double* values = args.v.as<double>() + sequences.key_offsets[s] * k_stride + kv * d;
                   for (int t = static_cast<int>(first); t < first + tokens; ++t) {
                     for (std::int64_t head = kv * group; head < (kv + 1) * group; ++head) {
                       const double* q = args.q.as<double>() + (start + t) * q_stride + head * d;
                       double* y = args.y.as<double>() + (start + t) * q_stride + head * d;
                       double top = -INFINITY, sum = 0;
                       for (std::int64_t j = range.first(t); j < range.end(t); ++j) {
                         double dot = 0;
                         for (std::int64_t i = 0; i < d; ++i) dot += q[i] * keys[j * k_stride + i];
                         p[j] = shape.scale * dot;
                         top = std::max(top, p[j]);
                       }
                       std::fill_n(y, d, 0.0);
                       for (std::int64_t j = range.first(t); j < range.end(t); ++j) {
                         const double e = std::exp(p[j] - top);
                         sum += e;
                         for (std::int64_t i = 0; i < d; ++i) y[i] += e * values[j * k_stride + i];
                       }
                       for (std::int64_t i = 0; i < d && sum > 0; ++i) y[i] /= sum;
                       if (!args.log_sum_exp.empty()) args.log_sum_exp.as<double>()[(start + t) * shape.heads + head] = top + std::log(sum);
                     }
                   }
                 });
}

}  // namespace

template <>
void run(const AttentionForward& args, Stream) {
  const AttentionShape& shape = args.shape;
  const PackedSequences sequences("AttentionForward", args);
  const std::int64_t tokens = args.q.rows(), key_tokens = args.k.rows();
  const std::int64_t q_width = static_cast<std::int64_t>(shape.heads) * shape.head_dim,
                     k_width = static_cast<std::int64_t>(shape.kv_heads) * shape.head_dim;
  const DType dtype = args.q.dtype;
  require_arguments((dtype == DType::f32 || dtype == DType::f64) && is_matrix(args.q, dtype, tokens, q_width) &&
                        is_matrix(args.k, dtype, key_tokens, k_width) && is_matrix(args.v, dtype, key_tokens, k_width) &&
                        is_matrix(args.y, dtype, tokens, q_width) &&
                        (args.log_sum_exp.empty() || is_matrix(args.log_sum_exp, dtype, tokens, shape.heads)),
                    "AttentionForward",
                    "q and y are [tokens, heads head_dim], k and v [key tokens, kv_heads head_dim], log_sum_exp [tokens, heads], one dtype",
                    {{"q", args.q}, {"k", args.k}, {"v", args.v}, {"y", args.y}, {"log_sum_exp", args.log_sum_exp}});
  if (dtype == DType::f64) return forward_double(args, sequences);
  for_each_piece(sequences.query_offsets, sequences.count, shape.kv_heads,
                 [&](std::int64_t s, std::int64_t kv, std::int64_t first, std::int64_t count) {
                   const int group = shape.heads / shape.kv_heads;
                   const std::int64_t token = sequences.query_offsets[s] + first,
                                      kv_offset = sequences.key_offsets[s] * k_width + kv * shape.head_dim;
                   AttentionRows rows{};
                   rows.q = args.q.as<float>() + token * q_width + kv * group * shape.head_dim;
                   rows.y = args.y.as<float>() + token * q_width + kv * group * shape.head_dim;
                   if (!args.log_sum_exp.empty()) rows.log_sum_exp = args.log_sum_exp.as<float>() + token * shape.heads + kv * group;
                   rows.rows = static_cast<int>(count) * group;
                   rows.first_query = static_cast<int>(first);
                   rows.range = sequences.range(s);
                   rows.blocks = {args.k.as<float>() + kv_offset, args.v.as<float>() + kv_offset, 0, nullptr};
                   run_rows(shape, rows);
                 });
}

template <>
std::size_t scratch_bytes(const PagedAttention&) {
  return 0;
}

template <>
void run(const PagedAttention& args, Stream) {
  const AttentionShape& shape = args.shape;
  check_shape("PagedAttention", shape);
  const std::int64_t tokens = args.q.rows(), sequences = args.context_lengths.size();
  const std::int64_t q_width = static_cast<std::int64_t>(shape.heads) * shape.head_dim,
                     k_width = static_cast<std::int64_t>(shape.kv_heads) * shape.head_dim;
  const auto check = [&](bool holds, const char* rule) {
    require_arguments(holds, "PagedAttention", rule,
                      {{"q", args.q},
                       {"query_offsets", args.query_offsets},
                       {"context_lengths", args.context_lengths},
                       {"page_table", args.page_table},
                       {"key_pages", args.key_pages},
                       {"value_pages", args.value_pages},
                       {"y", args.y}});
  };
  check(is_matrix(args.q, DType::f32, tokens, q_width) && is_matrix(args.y, DType::f32, tokens, q_width),
        "q and y are f32 [tokens, heads head_dim]");
  for (const View* pages : {&args.key_pages, &args.value_pages})
    check(pages->dtype == DType::f32 && pages->rank == 3 && pages->shape[1] == attention_block && pages->shape[2] == k_width &&
              pages->shape[0] == args.key_pages.shape[0],
          "pages are f32 [pages, attention_block, kv_heads head_dim]");
  check(args.context_lengths.dtype == DType::i32 && args.page_table.dtype == DType::i32 && args.page_table.rank == 2 &&
            args.page_table.shape[0] == sequences && args.query_offsets.size() == sequences + 1,
        "context_lengths are i32 [sequences], page_table i32 [sequences, most pages], query_offsets [sequences + 1]");
  check_offsets("PagedAttention", args.query_offsets, tokens);
  const std::int32_t *offsets = args.query_offsets.as<std::int32_t>(), *lengths = args.context_lengths.as<std::int32_t>();
  const std::int64_t most_pages = args.page_table.shape[1];
  for (std::int64_t s = 0; s < sequences; ++s) {
    if (offsets[s + 1] == offsets[s]) continue;
    const std::int64_t pages = (lengths[s] + attention_block - 1) / attention_block;
    check(lengths[s] >= offsets[s + 1] - offsets[s] && pages <= most_pages, "a context holds its new tokens and fits the page table");
    for (std::int64_t p = 0; p < pages; ++p) {
      const std::int32_t page = args.page_table.as<std::int32_t>()[s * most_pages + p];
      check(page >= 0 && page < args.key_pages.shape[0], "the page table names existing pages");
    }
  }
  for_each_piece(offsets, sequences, shape.kv_heads, [&](std::int64_t s, std::int64_t kv, std::int64_t first, std::int64_t count) {
    const int group = shape.heads / shape.kv_heads;
    const std::int64_t q_offset = (offsets[s] + first) * q_width + kv * group * shape.head_dim;
    AttentionRows rows{};
    rows.q = args.q.as<float>() + q_offset;
    rows.y = args.y.as<float>() + q_offset;
    rows.rows = static_cast<int>(count) * group;
    rows.first_query = static_cast<int>(first);
    const int queries = offsets[s + 1] - offsets[s];
    rows.range = {
        .queries = queries, .keys = lengths[s], .shift = lengths[s] - queries, .prefix = 0, .window = shape.window, .causal = true};
    rows.blocks = {args.key_pages.as<float>() + kv * shape.head_dim, args.value_pages.as<float>() + kv * shape.head_dim, 0,
                   args.page_table.as<std::int32_t>() + s * most_pages};
    run_rows(shape, rows);
  });
}

template <>
void run(const StoreKeysValues& args, Stream) {
  const std::int64_t tokens = args.k.rows(), width = args.k.width(), slots = args.key_pages.rows();
  require_arguments(
      args.k.dtype == DType::f32 && is_matrix(args.v, DType::f32, tokens, width) && args.slots.dtype == DType::i32 &&
          args.slots.size() == tokens && is_matrix(args.key_pages, DType::f32, slots, width) &&
          is_matrix(args.value_pages, DType::f32, slots, width),
      "StoreKeysValues", "k and v are f32 [tokens, width], slots i32 [tokens], pages f32 [pages, attention_block, width]",
      {{"k", args.k}, {"v", args.v}, {"slots", args.slots}, {"key_pages", args.key_pages}, {"value_pages", args.value_pages}});
  for (std::int64_t t = 0; t < tokens; ++t) {
    const std::int64_t slot = args.slots.as<std::int32_t>()[t];
    require_arguments(slot >= 0 && slot < slots, "StoreKeysValues", "every slot lies in a page",
                      {{"slots", args.slots}, {"key_pages", args.key_pages}});
    std::memcpy(args.key_pages.as<float>() + slot * width, args.k.as<float>() + t * width, sizeof(float) * width);
    std::memcpy(args.value_pages.as<float>() + slot * width, args.v.as<float>() + t * width, sizeof(float) * width);
  }
}

}  // namespace expctr::cpu
