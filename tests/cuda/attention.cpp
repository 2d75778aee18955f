#include "base/kernels/attention.h"

#include <doctest/doctest.h>

#include "base/error.h"
#include "tests/cuda/device_tensor.h"

using namespace expctr;
using namespace expctr::test;

namespace {

struct Problem {
  std::vector<std::int32_t> lengths;
  AttentionShape shape;
  std::size_t shift = 0;

  std::vector<std::int32_t> offsets() const {
    std::vector<std::int32_t> result = {0};
    for (const std::int32_t length : lengths) result.push_back(result.back() + length);
    return result;
  }
};

/// Attention in double, and its gradients for dy.
struct Reference {
  std::vector<double> y, log_sum, dq, dk, dv;

  Reference(const Problem& p, const std::vector<float>& q, const std::vector<float>& k, const std::vector<float>& v,
            const std::vector<float>& dy)
      : y(q.size()), dq(q.size()), dk(k.size()), dv(v.size()) {
    const auto [heads, kv_heads, dim, causal, scale] = p.shape;
    const std::vector<std::int32_t> offsets = p.offsets();
    log_sum.resize(static_cast<std::size_t>(offsets.back()) * heads);
    for (std::size_t s = 0; s < p.lengths.size(); ++s)
      for (int head = 0; head < heads; ++head)
        for (int i = 0; i < p.lengths[s]; ++i) {
          const std::int64_t at = (static_cast<std::int64_t>(offsets[s] + i) * heads + head) * dim;
          const int keys = causal ? i + 1 : p.lengths[s];
          const auto key = [&](int t) { return (static_cast<std::int64_t>(offsets[s] + t) * kv_heads + head / (heads / kv_heads)) * dim; };
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
};

void add(std::vector<double>& to, const std::vector<float>& from) {
  for (std::size_t i = 0; i < to.size(); ++i) to[i] += from[i];
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
  for (const Problem& p : problems) {
    const std::vector<std::int32_t> offsets = p.offsets();
    const std::int64_t tokens = offsets.back(), width = p.shape.heads * p.shape.head_dim, kv_width = p.shape.kv_heads * p.shape.head_dim;
    const std::vector<float> q = random_floats(tokens * width, 1), k = random_floats(tokens * kv_width, 2),
                             v = random_floats(tokens * kv_width, 3), dy = random_floats(tokens * width, 4),
                             oq = random_floats(tokens * width, 5), ok = random_floats(tokens * kv_width, 6),
                             ov = random_floats(tokens * kv_width, 7);
    const DeviceTensor qt(q, {tokens, width}, p.shift), kt(k, {tokens, kv_width}, p.shift), vt(v, {tokens, kv_width}),
        offsets_t(offsets, {static_cast<std::int64_t>(offsets.size())}),
        y = DeviceTensor::output({tokens, width}), log_sum = DeviceTensor::output({tokens, p.shape.heads}), g(dy, {tokens, width}),
        dq(oq, {tokens, width}), dk(ok, {tokens, kv_width}), dv(ov, {tokens, kv_width}), dk_again(ok, {tokens, kv_width});
    launch(AttentionForward{p.shape, qt, kt, vt, offsets_t, y, log_sum});
    launch(AttentionBackward{p.shape, qt, kt, vt, offsets_t, y, log_sum, g, dq, dk, dv, {}});
    launch(AttentionBackward{p.shape, qt, kt, vt, offsets_t, y, log_sum, g, {}, dk_again, {}, {}});
    Reference reference(p, q, k, v, dy);
    add(reference.dq, oq);
    add(reference.dk, ok);
    add(reference.dv, ov);
    const double terms = 100 + p.shape.head_dim;
    check_close(y.read(), reference.y, terms);
    check_close(log_sum.read(), reference.log_sum, terms);
    check_close(dq.read(), reference.dq, 4 * terms);
    check_close(dk.read(), reference.dk, 4 * terms);
    check_close(dv.read(), reference.dv, 4 * terms);
    CHECK(dk_again.read() == dk.read());  // and the same bits again
  }
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

TEST_CASE("paged attention equals attention over the same tokens, prefilled and decoded") {
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
                                   {{40}, {1}, {1, 1, 256, true, 0.06}}};
  for (const Case& c : cases) {
    const int page_width = c.shape.kv_heads * c.shape.head_dim;
    const std::int64_t width = c.shape.heads * c.shape.head_dim, sequences = static_cast<std::int64_t>(c.contexts.size());
    Problem whole{c.contexts, c.shape};
    const std::vector<std::int32_t> offsets = whole.offsets();
    const std::int64_t cached = offsets.back();
    const std::vector<float> q = random_floats(cached * width, 1), k = random_floats(cached * page_width, 2),
                             v = random_floats(cached * page_width, 3);
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
    const DeviceTensor kt(k, {cached, page_width}), vt(v, {cached, page_width}), st(slots, {cached}),
        keys(std::vector<float>(elements(page_shape), 1e30f), page_shape),
        values(std::vector<float>(elements(page_shape), 1e30f), page_shape), qt(queries, {tokens, width}),
        qo(query_offsets, {sequences + 1}), contexts(c.contexts, {sequences}), tt(table, {sequences, most_pages}),
        y = DeviceTensor::output({tokens, width});
    launch(StoreKeysValues{kt, vt, st, keys, values});
    const std::vector<float> stored = keys.read();
    bool right = true;
    for (std::int64_t t = 0; t < cached; ++t)
      for (int d = 0; d < page_width; ++d)
        right = right && stored[static_cast<std::int64_t>(slots[t]) * page_width + d] == k[t * page_width + d];
    CHECK(right);
    launch(PagedAttention{c.shape, qt, qo, contexts, tt, keys, values, y});
    check_close(y.read(), expected, 100 + c.shape.head_dim);
  }
}
