#include "base/kernels/attention.h"

#include <doctest/doctest.h>

#include "base/blocks.h"
#include "base/error.h"
#include "tests/cuda/device_tensor.h"

using namespace expctr;
using namespace expctr::test;

namespace {

/// Lengths of the packed sequences; of their keys, of the keys that are no padding, of the prefixes (each empty: as the queries, all,
/// none).
struct Problem {
  std::vector<std::int32_t> lengths;
  AttentionShape shape;
  std::size_t shift = 0;
  std::vector<std::int32_t> key_extents = {}, key_lengths = {}, prefixes = {};

  static std::vector<std::int32_t> offsets_of(const std::vector<std::int32_t>& lengths) {
    std::vector<std::int32_t> result = {0};
    for (const std::int32_t length : lengths) result.push_back(result.back() + length);
    return result;
  }
  std::vector<std::int32_t> offsets() const { return offsets_of(lengths); }
  std::vector<std::int32_t> key_offsets() const { return offsets_of(key_extents.empty() ? lengths : key_extents); }
  int keys(std::size_t s) const { return key_lengths.empty() ? key_offsets()[s + 1] - key_offsets()[s] : key_lengths[s]; }

  /// Does query i of sequence s see key j?
  bool sees(std::size_t s, int i, int j) const {
    const int position = i + (key_offsets()[s + 1] - key_offsets()[s]) - lengths[s];
    if (j >= keys(s)) return false;
    if (!shape.causal) return true;
    if (shape.window > 0 && j <= position - shape.window) return false;
    return j <= position || (!prefixes.empty() && j < prefixes[s]);
  }
};

/// Attention in double, and its gradients for dy.
struct Reference {
  std::vector<double> y, log_sum, dq, dk, dv;

  Reference(const Problem& p, const std::vector<float>& q, const std::vector<float>& k, const std::vector<float>& v,
            const std::vector<float>& dy)
      : y(q.size()), dq(q.size()), dk(k.size()), dv(v.size()) {
    const int heads = p.shape.heads, kv_heads = p.shape.kv_heads, dim = p.shape.head_dim;
    const double scale = p.shape.scale;
    const std::vector<std::int32_t> offsets = p.offsets(), key_offsets = p.key_offsets();
    log_sum.resize(static_cast<std::size_t>(offsets.back()) * heads, -INFINITY);
    for (std::size_t s = 0; s < p.lengths.size(); ++s)
      for (int i = 0; i < p.lengths[s]; ++i) {
        std::vector<int> seen;
        for (int j = 0; j < p.keys(s); ++j)
          if (p.sees(s, i, j)) seen.push_back(j);
        if (seen.empty()) continue;
        for (int head = 0; head < heads; ++head) {
          const std::int64_t at = (static_cast<std::int64_t>(offsets[s] + i) * heads + head) * dim;
          const auto key = [&](int t) {
            return (static_cast<std::int64_t>(key_offsets[s] + seen[t]) * kv_heads + head / (heads / kv_heads)) * dim;
          };
          const int keys = static_cast<int>(seen.size());
          std::vector<double> weight(keys), dweight(keys);
          double most = -INFINITY, sum = 0, delta = 0;
          for (int t = 0; t < keys; ++t) {
            for (int d = 0; d < dim; ++d) weight[t] += scale * q[at + d] * k[key(t) + d];
            most = std::max(most, weight[t]);
          }
          for (double& w : weight) sum += w = std::exp(w - most);
          log_sum[static_cast<std::int64_t>(offsets[s] + i) * heads + head] = most + std::log(sum);
          for (int t = 0; t < keys; ++t) {
            weight[t] /= sum;
            for (int d = 0; d < dim; ++d) {
              y[at + d] += weight[t] * v[key(t) + d];
              dweight[t] += static_cast<double>(dy[at + d]) * v[key(t) + d];
              dv[key(t) + d] += weight[t] * dy[at + d];
            }
            delta += weight[t] * dweight[t];
          }
          for (int t = 0; t < keys; ++t) {
            const double ds = weight[t] * (dweight[t] - delta) * scale;
            for (int d = 0; d < dim; ++d) {
              dq[at + d] += ds * k[key(t) + d];
              dk[key(t) + d] += ds * q[at + d];
            }
          }
        }
      }
  }
};

void add(std::vector<double>& to, const std::vector<float>& from) {
  for (std::size_t i = 0; i < to.size(); ++i) to[i] += from[i];
}

/// Activations of one storage type; of bf16 the values are rounded first, so that references see what the kernels see.
struct Activations {
  DType dtype;

  std::vector<float> random(std::int64_t n, std::uint32_t seed) const {
    std::vector<float> values = random_floats(n, seed);
    if (dtype == DType::bf16)
      for (float& value : values) value = float_of_bf16(bf16_of_float(value));
    return values;
  }
  DeviceTensor upload(const std::vector<float>& values, const Shape& shape, std::size_t shift = 0) const {
    if (dtype == DType::f32) return DeviceTensor(values, shape, shift);
    std::vector<std::uint16_t> halves;
    for (const float value : values) halves.push_back(bf16_of_float(value));
    return DeviceTensor(dtype, shape, halves.data(), shift);
  }
  std::vector<float> read(const DeviceTensor& tensor) const {
    if (dtype == DType::f32) return tensor.read();
    std::vector<float> values;
    for (const std::uint16_t half : tensor.read<std::uint16_t>()) values.push_back(float_of_bf16(half));
    return values;
  }
  /// f32: rounding of sums. bf16: the result, the probabilities and the gradients of the scores are rounded to 2^-9; what a sum of them
  /// adds to the first two stays below what its largest element has.
  void check(const DeviceTensor& actual, const std::vector<double>& expected, double terms) const {
    if (dtype == DType::f32)
      check_close(read(actual), expected, terms);
    else
      check_close(read(actual), expected, 1, 0x1p-9);
  }
};

std::vector<float> poisoned_padding(const Problem& p, std::vector<float> rows, int width) {
  const std::vector<std::int32_t> offsets = p.key_offsets();
  for (std::size_t s = 0; s < p.lengths.size(); ++s)
    for (std::int64_t at = static_cast<std::int64_t>(offsets[s] + p.keys(s)) * width;
         at < static_cast<std::int64_t>(offsets[s + 1]) * width; ++at)
      rows[static_cast<std::size_t>(at)] = std::numeric_limits<float>::quiet_NaN();
  return rows;
}

void check_problem(const Problem& p, DType dtype) {
  CAPTURE(std::string(dtype_name(dtype)));
  CAPTURE(p.shape.head_dim);
  const Activations storage{dtype};
  const std::vector<std::int32_t> offsets = p.offsets(), key_offsets = p.key_offsets();
  const std::int64_t tokens = offsets.back(), key_tokens = key_offsets.back(), width = p.shape.heads * p.shape.head_dim,
                     kv_width = p.shape.kv_heads * p.shape.head_dim, sequences = static_cast<std::int64_t>(p.lengths.size());
  const std::vector<float> q = storage.random(tokens * width, 1), k = storage.random(key_tokens * kv_width, 2),
                           v = storage.random(key_tokens * kv_width, 3), dy = storage.random(tokens * width, 4),
                           oq = storage.random(tokens * width, 5), ok = storage.random(key_tokens * kv_width, 6),
                           ov = storage.random(key_tokens * kv_width, 7);
  const DeviceTensor qt = storage.upload(q, {tokens, width}, p.shift),
                     kt = storage.upload(poisoned_padding(p, k, static_cast<int>(kv_width)), {key_tokens, kv_width}, p.shift),
                     vt = storage.upload(poisoned_padding(p, v, static_cast<int>(kv_width)), {key_tokens, kv_width}),
                     offsets_t(offsets, {sequences + 1}), key_offsets_t(key_offsets, {sequences + 1}),
                     lengths_t(p.key_lengths, {sequences}), prefixes_t(p.prefixes, {sequences}),
                     y = DeviceTensor::output({tokens, width}, dtype), log_sum = DeviceTensor::output({tokens, p.shape.heads}),
                     g = storage.upload(dy, {tokens, width}), dq = storage.upload(oq, {tokens, width}),
                     dk = storage.upload(ok, {key_tokens, kv_width}), dv = storage.upload(ov, {key_tokens, kv_width}),
                     dk_again = storage.upload(ok, {key_tokens, kv_width});
  AttentionKeys keys;
  if (!p.key_extents.empty()) keys.offsets = key_offsets_t;
  if (!p.key_lengths.empty()) keys.lengths = lengths_t;
  if (!p.prefixes.empty()) keys.prefixes = prefixes_t;
  launch(AttentionForward{p.shape, qt, kt, vt, offsets_t, y, log_sum, keys});
  launch(AttentionBackward{p.shape, qt, kt, vt, offsets_t, y, log_sum, g, dq, dk, dv, {}, keys});
  launch(AttentionBackward{p.shape, qt, kt, vt, offsets_t, y, log_sum, g, {}, dk_again, {}, {}, keys});
  Reference reference(p, q, k, v, dy);
  add(reference.dq, oq);
  add(reference.dk, ok);
  add(reference.dv, ov);
  const double terms = 100 + p.shape.head_dim;
  storage.check(y, reference.y, terms);
  check_close(log_sum.read(), reference.log_sum, terms, dtype == DType::f32 ? 0x1p-23 : 0x1p-20);
  storage.check(dq, reference.dq, 4 * terms);
  storage.check(dk, reference.dk, 4 * terms);
  storage.check(dv, reference.dv, 4 * terms);
  CHECK(dk_again.read<std::uint16_t>() == dk.read<std::uint16_t>());  // and the same bits again
}

}  // namespace

TEST_CASE("attention and its gradients over packed sequences") {
  const std::vector<Problem> problems = {{{1}, {1, 1, 1, true, 1.0}},
                                         {{3, 0, 5}, {2, 1, 4, true, 0.5}},
                                         {{33, 1, 64, 32, 2}, {3, 3, 8, true, 0.4}},
                                         {{33, 31, 7}, {4, 2, 10, false, 0.3}},
                                         {{70, 40}, {3, 1, 64, true, 0.125}},
                                         {{45}, {2, 2, 32, false, 0.2}, 4},
                                         {{0, 0, 35, 0}, {2, 1, 96, true, 0.1}},
                                         {{40}, {1, 1, 200, true, 0.07}},
                                         {{20, 34}, {2, 1, 128, false, 0.09}}};
  for (const Problem& p : problems) check_problem(p, DType::f32);
  for (const Problem& p : problems) check_problem(p, DType::bf16);
  for (const Problem& p : {Problem{{130, 1, 64}, {2, 1, 48, true, 0.15}}, Problem{{65, 70}, {2, 2, 80, false, 0.1}},
                           Problem{{129}, {1, 1, 128, true, 0.1}}, Problem{{63, 66}, {4, 2, 16, true, 0.25}},
                           Problem{{330}, {3, 1, 64, true, 0.125}}, Problem{{200, 90}, {2, 1, 32, true, 0.2, 150}, 0, {420, 90}}})
    check_problem(p, DType::bf16);
}

TEST_CASE("attention to other tokens, with padding, prefixes and windows") {
  const std::vector<Problem> problems = {{{5, 3}, {2, 1, 8, false, 0.4}, 0, {70, 0}},          // cross; one sequence without keys
                                         {{5, 0, 40}, {2, 2, 16, true, 0.3}, 0, {67, 3, 40}},  // causal after a prefix of other tokens
                                         {{9, 4}, {1, 1, 32, true, 0.2}, 0, {5, 4}},  // more queries than keys: the first see nothing
                                         {{70, 33}, {2, 1, 16, false, 0.3}, 0, {}, {41, 0}},           // padding; all keys masked
                                         {{20, 9}, {2, 1, 24, true, 0.2}, 0, {90, 9}, {75, 4}, {}},    // padding, causal
                                         {{70, 40, 5}, {2, 1, 32, true, 0.2}, 0, {}, {}, {37, 0, 9}},  // prefixes
                                         {{100, 7}, {2, 1, 64, true, 0.125, 20}},                      // window
                                         {{12, 40}, {3, 1, 16, true, 0.25, 33}, 0, {101, 40}, {101, 38}, {50, 3}}};  // all of it
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const Problem& p : problems) check_problem(p, dtype);
}

TEST_CASE("attention of no tokens, and heads that are too wide") {
  const std::vector<std::int32_t> none = {0};
  const DeviceTensor empty(std::vector<float>{}, {0, 4}), offsets(none, {1}), log_sum = DeviceTensor::output({0, 1});
  launch(AttentionForward{{1, 1, 4, true, 1.0}, empty, empty, empty, offsets, empty, log_sum});
  const DeviceTensor wide(std::vector<float>(300), {1, 300}), one(std::vector<std::int32_t>{0, 1}, {2}), y = DeviceTensor::output({1, 300}),
                                                                                                         sum = DeviceTensor::output({1, 1});
  CHECK_THROWS_AS(cuda::run(AttentionForward{{1, 1, 300, true, 1.0}, wide, wide, wide, one, y, sum}, stream()), ShapeError);
}

TEST_CASE("logits far from zero neither overflow nor lose the sum") {
  const std::vector<float> q = {100, 0, 0, 100}, k = {100, 0, -100, 0}, v = {1, 2, 3, 4};
  const DeviceTensor qt(q, {2, 2}), kt(k, {2, 2}), vt(v, {2, 2}), offsets(std::vector<std::int32_t>{0, 2}, {2}),
      y = DeviceTensor::output({2, 2}), log_sum = DeviceTensor::output({2, 1});
  launch(AttentionForward{{1, 1, 2, false, 1.0}, qt, kt, vt, offsets, y, log_sum});
  check_close(y.read(), {1, 2, 2, 3});
  check_close(log_sum.read(), {10000, std::log(2.0)});
}

void check_paged(DType dtype) {
  CAPTURE(std::string(dtype_name(dtype)));
  const Activations storage{dtype};
  struct Case {
    std::vector<std::int32_t> contexts, fresh;  // cached tokens of each sequence, and how many of them are queries
    AttentionShape shape;
  };
  const std::vector<Case> cases = {{{1}, {1}, {1, 1, 4, true, 0.5}},
                                   {{5, 70, 33}, {1, 1, 1}, {4, 2, 16, true, 0.25}},
                                   {{300, 32}, {1, 1}, {3, 1, 64, true, 0.125}},
                                   {{5, 40, 64}, {5, 33, 3}, {3, 1, 64, true, 0.125}},
                                   {{100, 7}, {40, 0}, {2, 2, 10, true, 0.3}},
                                   {{150}, {2}, {2, 1, 96, true, 0.1}},
                                   {{40}, {1}, {1, 1, 256, true, 0.06}},
                                   {{600, 257, 0, 1}, {1, 1, 0, 1}, {6, 1, 64, true, 0.125}},
                                   {{600, 300}, {1, 1}, {2, 2, 32, true, 0.2, 70}},
                                   {{130, 70}, {90, 3}, {2, 1, 48, true, 0.2, 40}},
                                   {{70}, {1}, {2, 1, 128, true, 0.1}}};
  for (const Case& c : cases) {
    const int page_width = c.shape.kv_heads * c.shape.head_dim;
    const std::int64_t width = c.shape.heads * c.shape.head_dim, sequences = static_cast<std::int64_t>(c.contexts.size());
    Problem whole{c.contexts, c.shape};
    const std::vector<std::int32_t> offsets = whole.offsets();
    const std::int64_t cached = offsets.back();
    const std::vector<float> q = storage.random(cached * width, 1), k = storage.random(cached * page_width, 2),
                             v = storage.random(cached * page_width, 3);
    const Reference reference(whole, q, k, v, std::vector<float>(q.size()));
    // Pages in an order of their own; the rest of the last page of a sequence stays unwritten.
    std::int64_t most_pages = 0, pages = 1;
    for (const std::int32_t context : c.contexts) {
      most_pages = std::max<std::int64_t>(most_pages, (context + attention_block - 1) / attention_block);
      pages += (context + attention_block - 1) / attention_block;
    }
    std::vector<std::int32_t> table(sequences * most_pages, -1), slots, query_offsets = {0};
    std::int32_t next = static_cast<std::int32_t>(pages) - 1;
    std::vector<float> queries;
    std::vector<double> expected;
    for (std::int64_t s = 0; s < sequences; ++s) {
      for (std::int32_t i = 0; i < c.contexts[s]; ++i) {
        std::int32_t& page = table[s * most_pages + i / attention_block];
        if (page < 0) page = next--;
        slots.push_back(page * attention_block + i % attention_block);
      }
      query_offsets.push_back(query_offsets.back() + c.fresh[s]);
      const std::int64_t from = (offsets[s + 1] - c.fresh[s]) * width, to = offsets[s + 1] * width;
      queries.insert(queries.end(), q.begin() + from, q.begin() + to);
      expected.insert(expected.end(), reference.y.begin() + from, reference.y.begin() + to);
    }
    const Shape page_shape = {pages, attention_block, page_width};
    const std::int64_t tokens = query_offsets.back();
    const std::vector<float> unwritten(static_cast<std::size_t>(elements(page_shape)), std::numeric_limits<float>::quiet_NaN());
    const DeviceTensor kt = storage.upload(k, {cached, page_width}), vt = storage.upload(v, {cached, page_width}), st(slots, {cached}),
                       keys = storage.upload(unwritten, page_shape), values = storage.upload(unwritten, page_shape),
                       qt = storage.upload(queries, {tokens, width}), qo(query_offsets, {sequences + 1}), contexts(c.contexts, {sequences}),
                       tt(table, {sequences, most_pages}), y = DeviceTensor::output({tokens, width}, dtype);
    launch(StoreKeysValues{kt, vt, st, keys, values});
    const std::vector<float> stored = storage.read(keys);
    bool right = true;
    for (std::int64_t t = 0; t < cached; ++t)
      for (int d = 0; d < page_width; ++d)
        right = right && stored[static_cast<std::int64_t>(slots[t]) * page_width + d] == k[t * page_width + d];
    CHECK(right);
    launch(PagedAttention{c.shape, qt, qo, contexts, tt, keys, values, y});
    storage.check(y, expected, 100 + c.shape.head_dim);
  }
}

TEST_CASE("paged attention equals attention over the same tokens, prefilled and decoded") {
  check_paged(DType::f32);
  check_paged(DType::bf16);
}
