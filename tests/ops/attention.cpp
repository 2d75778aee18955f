#include "engine/ops/attention.h"

#include <cmath>

#include "tests/ops/op_cases.h"

using namespace expctr;
using namespace expctr::test;

namespace {

/// One query over n keys and values, `stride` apart: softmax written out.
void plain_query(const double* q, const double* k, const double* v, std::int64_t n, std::int64_t stride, int head_dim, double scale,
                 double* y) {
  std::vector<double> weight;
  double sum = 0.0;
  for (std::int64_t j = 0; j < n; ++j) {
    double dot = 0.0;
    for (int i = 0; i < head_dim; ++i) dot += q[i] * k[j * stride + i];
    weight.push_back(std::exp(scale * dot));
    sum += weight.back();
  }
  for (int i = 0; i < head_dim; ++i) {
    y[i] = 0.0;
    for (std::int64_t j = 0; j < n; ++j) y[i] += weight[static_cast<std::size_t>(j)] / sum * v[j * stride + i];
  }
}

/// Operands q, k, v, offsets.
std::vector<double> plain_attention(std::span<const Operand> in, const AttentionShape& shape) {
  const std::int64_t q_stride = in[0].shape[1], stride = in[1].shape[1];
  std::vector<double> y(in[0].values.size());
  for (std::size_t s = 0; s + 1 < in[3].ids.size(); ++s) {
    const std::int64_t begin = in[3].ids[s], end = in[3].ids[s + 1];
    for (std::int64_t t = begin; t < end; ++t) {
      for (int h = 0; h < shape.heads; ++h) {
        const std::int64_t at = t * q_stride + h * shape.head_dim,
                           from = begin * stride + h / (shape.heads / shape.kv_heads) * shape.head_dim;
        plain_query(&in[0].values[at], &in[1].values[from], &in[2].values[from], (shape.causal ? t + 1 : end) - begin, stride,
                    shape.head_dim, shape.scale, &y[at]);
      }
    }
  }
  return y;
}

/// Attention to other tokens than the queries' own, with masks. Empty vectors: keys are the queries' own tokens, all of them, without
/// prefix.
struct MaskedCase {
  const char* what;
  AttentionShape shape;
  std::vector<std::int32_t> offsets, key_offsets, lengths, prefixes;

  bool sees(std::size_t s, int i, int j) const {
    const std::vector<std::int32_t>& keys = key_offsets.empty() ? offsets : key_offsets;
    const int position = keys[s + 1] - keys[s] - (offsets[s + 1] - offsets[s]) + i;
    if (!lengths.empty() && j >= lengths[s]) return false;
    if (!shape.causal) return true;
    if (shape.window > 0 && position - j >= shape.window) return false;
    return j <= position || (!prefixes.empty() && j < prefixes[s]);
  }

  std::vector<double> plain(std::span<const Operand> in) const {
    const std::vector<std::int32_t>& keys = key_offsets.empty() ? offsets : key_offsets;
    const std::int64_t q_stride = in[0].shape[1], stride = in[1].shape[1];
    std::vector<double> y(in[0].values.size());
    for (std::size_t s = 0; s + 1 < offsets.size(); ++s) {
      for (int i = 0; i < offsets[s + 1] - offsets[s]; ++i) {
        std::vector<double> k, v;  // of the keys that are seen, together
        std::int64_t count = 0;
        for (int j = 0; j < keys[s + 1] - keys[s]; ++j) {
          if (!sees(s, i, j)) continue;
          const std::int64_t row = (keys[s] + j) * stride;
          k.insert(k.end(), in[1].values.begin() + row, in[1].values.begin() + row + stride);
          v.insert(v.end(), in[2].values.begin() + row, in[2].values.begin() + row + stride);
          ++count;
        }
        for (int h = 0; h < shape.heads && count > 0; ++h) {
          const std::int64_t at = (offsets[s] + i) * q_stride + h * shape.head_dim,
                             from = h / (shape.heads / shape.kv_heads) * shape.head_dim;
          plain_query(&in[0].values[at], k.data() + from, v.data() + from, count, stride, shape.head_dim, shape.scale, &y[at]);
        }
      }
    }
    return y;
  }
};

/// Operands q, query offsets, context lengths, page table, key pages, value pages.
std::vector<double> plain_paged_attention(std::span<const Operand> in, const AttentionShape& shape) {
  const std::int64_t q_stride = in[0].shape[1], stride = in[4].shape[2], most_pages = in[3].shape[1];
  std::vector<double> y(in[0].values.size());
  for (std::size_t s = 0; s + 1 < in[1].ids.size(); ++s) {
    const std::int64_t first = in[1].ids[s], n = in[1].ids[s + 1] - first, context = in[2].ids[s];
    std::vector<double> keys, values;  // the sequence's pages put in order
    for (std::int64_t t = 0; t < context; ++t) {
      const std::int64_t page = in[3].ids[s * static_cast<std::size_t>(most_pages) + static_cast<std::size_t>(t / attention_block)];
      const std::int64_t row = (page * attention_block + t % attention_block) * stride;
      keys.insert(keys.end(), in[4].values.begin() + row, in[4].values.begin() + row + stride);
      values.insert(values.end(), in[5].values.begin() + row, in[5].values.begin() + row + stride);
    }
    for (std::int64_t i = 0; i < n; ++i) {
      for (int h = 0; h < shape.heads; ++h) {
        const std::int64_t at = (first + i) * q_stride + h * shape.head_dim, from = h / (shape.heads / shape.kv_heads) * shape.head_dim;
        plain_query(&in[0].values[at], keys.data() + from, values.data() + from, context - n + i + 1, stride, shape.head_dim, shape.scale,
                    &y[at]);
      }
    }
  }
  return y;
}

}  // namespace

OP_CASES(attention) {
  struct Case {
    AttentionShape shape;
    std::vector<std::int32_t> offsets;
  };
  const Case cases[] = {{{1, 1, 1, true, 1.0}, {0, 1}},           {{2, 1, 4, true, 0.5}, {0, 0}},
                        {{2, 2, 3, true, 0.5}, {0, 3, 3, 5}},     {{4, 2, 8, true, 0.35}, {0, 5, 6}},
                        {{4, 2, 8, false, 0.35}, {0, 5, 6}},      {{3, 1, 64, true, 0.125}, {0, 35, 37}},
                        {{2, 2, 32, false, 0.177}, {0, 33, 100}}, {{1, 1, 5, true, 0.4}, {0, 67}}};
  for (const Case& c : cases) {
    const std::int64_t tokens = c.offsets.back(), q_width = c.shape.heads * c.shape.head_dim,
                       kv_width = c.shape.kv_heads * c.shape.head_dim;
    add_case(
        Shape{tokens, q_width}.text() + " over " + Shape{tokens, kv_width}.text() + (c.shape.causal ? " causal, " : ", ") +
            std::to_string(c.offsets.size() - 1) + " sequences",
        {uniform({tokens, q_width}), uniform({tokens, kv_width}, -1.0, 1.0, 2), uniform({tokens, kv_width}, -1.0, 1.0, 3),
         integers({static_cast<std::int64_t>(c.offsets.size())}, c.offsets)},
        [shape = c.shape](std::span<const Tensor> in) { return attention(in[0], in[1], in[2], in[3], shape); },
        [shape = c.shape](std::span<const Operand> in) { return plain_attention(in, shape); }, tokens + c.shape.head_dim)
        .magnitude = 0.5;
  }
  const MaskedCase masked[] = {
      {"cross", {2, 1, 4, false, 0.5}, {0, 3, 5}, {0, 2, 9}, {}, {}},
      {"cross, a sequence without keys and one without queries", {1, 1, 3, false, 0.5}, {0, 2, 4, 4}, {0, 0, 3, 5}, {}, {}},
      {"no keys at all", {1, 1, 3, false, 0.5}, {0, 3}, {0, 0}, {}, {}},
      {"no queries at all", {1, 1, 3, true, 0.5}, {0, 0}, {0, 5}, {}, {}},
      {"cross over blocks of keys", {2, 2, 16, false, 0.25}, {0, 2, 40}, {0, 70, 103}, {}, {}},
      {"causal behind other tokens", {2, 1, 4, true, 0.5}, {0, 2, 3}, {0, 5, 38}, {}, {}},
      {"causal with more queries than keys", {1, 1, 4, true, 0.5}, {0, 4}, {0, 2}, {}, {}},
      {"padded", {2, 1, 4, false, 0.5}, {0, 4, 6, 9}, {}, {2, 0, 3}, {}},
      {"padded causal over blocks of keys", {1, 1, 8, true, 0.3}, {0, 67, 70}, {}, {40, 3}, {}},
      {"padded cross", {2, 2, 4, false, 0.5}, {0, 1, 4}, {0, 6, 9}, {5, 1}, {}},
      {"prefix", {2, 1, 4, true, 0.5}, {0, 5, 8, 10}, {}, {}, {3, 0, 9}},
      {"prefix over blocks of keys", {1, 1, 8, true, 0.3}, {0, 70}, {}, {}, {45}},
      {"window", {2, 1, 4, true, 0.5, 2}, {0, 5, 6}, {}, {}, {}},
      {"window of one", {1, 1, 2, true, 0.5, 1}, {0, 3}, {}, {}, {}},
      {"window over blocks of keys", {2, 1, 8, true, 0.3, 33}, {0, 100}, {}, {}, {}},
      {"all masks together", {2, 1, 4, true, 0.5, 3}, {0, 4, 6}, {0, 7, 9}, {6, 2}, {4, 1}}};
  for (const MaskedCase& c : masked) {
    const std::int64_t tokens = c.offsets.back(), keys = c.key_offsets.empty() ? tokens : c.key_offsets.back(),
                       q_width = c.shape.heads * c.shape.head_dim, kv_width = c.shape.kv_heads * c.shape.head_dim;
    const auto ids = [](const std::vector<std::int32_t>& values) { return integers({static_cast<std::int64_t>(values.size())}, values); };
    add_case(
        Shape{tokens, q_width}.text() + " over " + Shape{keys, kv_width}.text() + ", " + c.what,
        {uniform({tokens, q_width}), uniform({keys, kv_width}, -1.0, 1.0, 2), uniform({keys, kv_width}, -1.0, 1.0, 3), ids(c.offsets),
         ids(c.key_offsets), ids(c.lengths), ids(c.prefixes)},
        [shape = c.shape](std::span<const Tensor> in) {
          const auto present = [&](std::size_t i) { return in[i].size() > 0 ? in[i] : Tensor(); };
          return attention(in[0], in[1], in[2], in[3], shape, {present(4), present(5), present(6)});
        },
        [c](std::span<const Operand> in) { return c.plain(in); }, keys + c.shape.head_dim)
        .magnitude = 0.5;
  }
  const auto masked_error = [](const AttentionShape& shape, const AttentionKeyTensors& keys, std::int64_t key_tokens, const char* message) {
    add_error(
        [=] {
          attention(Tensor::zeros({3, 8}), Tensor::zeros({key_tokens, 4}), Tensor::zeros({key_tokens, 4}),
                    Tensor::of(std::vector<std::int32_t>{0, 3}, {2}), shape, keys);
        },
        message);
  };
  const auto one = [](std::int32_t value) { return Tensor::of(std::vector<std::int32_t>{value}, {1}); };
  masked_error({2, 1, 4, false, 0.5, 7}, {}, 3, "attention: a window of 7 keys over bidirectional sequences");
  masked_error({2, 1, 4, false, 0.5}, {{}, {}, one(1)}, 3, "attention: prefix lengths of bidirectional sequences");
  masked_error({2, 1, 4, true, 0.5}, {one(3), {}, {}}, 3, "attention: key offsets is [1], expected [2]");
  masked_error({2, 1, 4, true, 0.5}, {}, 5, "attention: k is [5, 4], expected [3, 4]");
  masked_error({2, 1, 4, true, 0.5}, {Tensor::of(std::vector<std::int32_t>{0, 4}, {2}), {}, {}}, 5,
               "offsets rise from 0 to the number of tokens");
  masked_error({2, 1, 4, true, 0.5}, {{}, one(4), {}}, 3, "a key length lies between 0 and the sequence's keys");
  masked_error({2, 1, 4, true, 0.5}, {{}, {}, one(-1)}, 3, "a prefix length is not negative");
  const AttentionShape shape{2, 1, 4, true, 0.5};
  add_error(
      [=] {
        attention(Tensor::zeros({3, 7}), Tensor::zeros({3, 4}), Tensor::zeros({3, 4}), Tensor::zeros({2}, DType::i32), shape);
      },
      "attention: q is [3, 7], expected [3, 8]");
  add_error(
      [=] {
        attention(Tensor::zeros({3, 8}), Tensor::zeros({3, 4}), Tensor::zeros({2, 4}), Tensor::zeros({2}, DType::i32), shape);
      },
      "attention: v is [2, 4], expected [3, 4]");
  add_error(
      [] {
        attention(Tensor::zeros({3, 8}), Tensor::zeros({3, 4}), Tensor::zeros({3, 4}), Tensor::zeros({2}, DType::i32),
                  {3, 2, 4, true, 1.0});
      },
      "attention: 3 query heads, 2 key-value heads");
  add_error(
      [=] {
        attention(Tensor::zeros({3, 8}), Tensor::zeros({3, 4}), Tensor::zeros({3, 4}), Tensor::of(std::vector<std::int32_t>{0, 2}, {2}),
                  shape);
      },
      "offsets rise from 0 to the number of tokens");
}

OP_CASES(paged_attention) {
  meaningless(DType::f64, "a cache holds what a model computed, f32 or bf16");
  struct Case {
    AttentionShape shape;
    std::vector<std::int32_t> query_offsets, context_lengths, page_table;
    std::int64_t most_pages, pages;
  };
  const Case cases[] = {{{1, 1, 2, true, 1.0}, {0, 1}, {1}, {0}, 1, 1},
                        {{2, 1, 4, true, 0.5}, {0, 0}, {3}, {0}, 1, 1},
                        {{4, 2, 8, true, 0.35}, {0, 1, 2, 3}, {33, 1, 64}, {4, 1, 0, 3, 2, 0}, 2, 5},
                        {{3, 1, 64, true, 0.125}, {0, 35, 38}, {40, 70}, {1, 5, 2, 0, 3, 4}, 3, 6}};
  for (const Case& c : cases) {
    const std::int64_t tokens = c.query_offsets.back(), sequences = static_cast<std::int64_t>(c.context_lengths.size());
    const std::int64_t q_width = c.shape.heads * c.shape.head_dim, kv_width = c.shape.kv_heads * c.shape.head_dim;
    add_case(
        Shape{tokens, q_width}.text() + " over " + std::to_string(c.pages) + " pages",
        {constant(uniform({tokens, q_width})), integers({sequences + 1}, c.query_offsets), integers({sequences}, c.context_lengths),
         integers({sequences, c.most_pages}, c.page_table), constant(uniform({c.pages, attention_block, kv_width}, -1.0, 1.0, 2)),
         constant(uniform({c.pages, attention_block, kv_width}, -1.0, 1.0, 3))},
        [shape = c.shape](std::span<const Tensor> in) { return paged_attention(in[0], in[1], in[2], in[3], in[4], in[5], shape); },
        [shape = c.shape](std::span<const Operand> in) { return plain_paged_attention(in, shape); }, 70 + c.shape.head_dim)
        .float64 = false;
  }
  const AttentionShape shape{2, 1, 4, true, 0.5};
  add_error(
      [=] {
        paged_attention(Tensor::zeros({1, 8}), Tensor::of(std::vector<std::int32_t>{0, 1}, {2}),
                        Tensor::of(std::vector<std::int32_t>{33}, {1}), Tensor::zeros({1, 1}, DType::i32), Tensor::zeros({2, 32, 4}),
                        Tensor::zeros({2, 32, 4}), shape);
      },
      "a context holds its new tokens and fits the page table");
  add_error(
      [=] {
        paged_attention(Tensor::zeros({1, 8}), Tensor::zeros({2}, DType::i32), Tensor::zeros({1}, DType::i32),
                        Tensor::zeros({1, 1}, DType::i32), Tensor::zeros({2, 32, 4}), Tensor::zeros({3, 32, 4}), shape);
      },
      "paged_attention: value_pages is [3, 32, 4], expected [2, 32, 4]");
}

OP_CASES(store_keys_values) {
  meaningless(DType::f64, "a cache holds what a model computed, f32 or bf16");
  for (const bool values : {false, true}) {
    for (const auto& [tokens, width, pages] : {std::array<std::int64_t, 3>{1, 1, 1}, {0, 4, 1}, {5, 6, 3}, {33, 64, 2}}) {
      std::vector<std::int32_t> slots;
      for (std::int64_t t = 0; t < tokens; ++t) slots.push_back(static_cast<std::int32_t>((t * 17 + 5) % (pages * attention_block)));
      const Shape kv{tokens, width}, page_shape{pages, attention_block, width};
      add_case(
          std::string(values ? "values " : "keys ") + kv.text(),
          {constant(uniform(kv)), constant(uniform(kv, -1.0, 1.0, 2)), integers({tokens}, slots),
           constant(uniform(page_shape, -1.0, 1.0, 3)), constant(uniform(page_shape, -1.0, 1.0, 4))},
          [values](std::span<const Tensor> in) {
            const Tensor key_pages = in[3].clone(), value_pages = in[4].clone();
            store_keys_values(in[0], in[1], in[2], key_pages, value_pages);
            return values ? value_pages : key_pages;
          },
          [values, width = width](std::span<const Operand> in) {
            std::vector<double> result = in[values ? 4 : 3].values;
            for (std::size_t t = 0; t < in[2].ids.size(); ++t)
              for (std::int64_t i = 0; i < width; ++i)
                result[in[2].ids[t] * width + i] = in[values ? 1 : 0].values[static_cast<std::int64_t>(t) * width + i];
            return result;
          })
          .float64 = false;
    }
  }
  add_error(
      [] {
        store_keys_values(Tensor::zeros({2, 4}), Tensor::zeros({2, 4}), Tensor::zeros({3}, DType::i32), Tensor::zeros({1, 32, 4}),
                          Tensor::zeros({1, 32, 4}));
      },
      "store_keys_values: slots is [3], expected [2]");
  add_error(
      [] {
        store_keys_values(Tensor::zeros({1, 4}), Tensor::zeros({1, 4}), Tensor::of(std::vector<std::int32_t>{32}, {1}),
                          Tensor::zeros({1, 32, 4}), Tensor::zeros({1, 32, 4}));
      },
      "every slot lies in a page");
}
