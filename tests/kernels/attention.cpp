#include "base/kernels/attention.h"

#include <doctest/doctest.h>

#include <memory>

#include "base/kernels/rotary.h"
#include "support.h"

using namespace expctr;
using namespace expctr::test;

namespace {

Array<std::int32_t> offsets_of(const std::vector<std::int64_t>& lengths) {
  Array<std::int32_t> offsets({static_cast<std::int64_t>(lengths.size()) + 1});
  for (std::size_t s = 0; s < lengths.size(); ++s) offsets[s + 1] = offsets[s] + static_cast<std::int32_t>(lengths[s]);
  return offsets;
}

/// Plain attention in double, [tokens, heads * head_dim].
template <class T>
void reference(const AttentionShape& shape, const std::vector<std::int64_t>& lengths, const Array<T>& q, const Array<T>& k,
               const Array<T>& v, std::vector<double>& y, std::vector<double>& log_sum_exp) {
  const std::int64_t d = shape.head_dim, q_width = shape.heads * d, k_width = shape.kv_heads * d;
  y.assign(q.size(), 0);
  log_sum_exp.assign(q.size() / d, 0);
  std::int64_t start = 0;
  for (const std::int64_t length : lengths) {
    for (std::int64_t t = 0; t < length; ++t)
      for (int h = 0; h < shape.heads; ++h) {
        const std::int64_t kv = h / (shape.heads / shape.kv_heads), visible = shape.causal ? t + 1 : length;
        std::vector<double> p(visible);
        double sum = 0;
        for (std::int64_t j = 0; j < visible; ++j) {
          double dot = 0;
          for (std::int64_t i = 0; i < d; ++i)
            dot += static_cast<double>(q[(start + t) * q_width + h * d + i]) * k[(start + j) * k_width + kv * d + i];
          sum += p[j] = std::exp(dot * shape.scale);
        }
        for (std::int64_t j = 0; j < visible; ++j)
          for (std::int64_t i = 0; i < d; ++i) y[(start + t) * q_width + h * d + i] += p[j] / sum * v[(start + j) * k_width + kv * d + i];
        log_sum_exp[(start + t) * shape.heads + h] = std::log(sum);
      }
    start += length;
  }
}

template <class T>
struct Attention {
  AttentionShape shape;
  std::vector<std::int64_t> lengths;
  std::int64_t tokens = 0;
  Array<T> q, k, v, y, log_sum_exp;
  Array<std::int32_t> offsets;

  Attention(AttentionShape attention, std::vector<std::int64_t> sequence_lengths)
      : shape(attention),
        lengths(std::move(sequence_lengths)),
        tokens(total(lengths)),
        q({tokens, shape.heads * shape.head_dim}),
        k({tokens, shape.kv_heads * shape.head_dim}),
        v({tokens, shape.kv_heads * shape.head_dim}),
        y({tokens, shape.heads * shape.head_dim}),
        log_sum_exp({tokens, shape.heads}),
        offsets(offsets_of(lengths)) {
    q.random(1, 2);
    k.random(2, 2);
    v.random(3);
  }
  static std::int64_t total(const std::vector<std::int64_t>& lengths) {
    std::int64_t sum = 0;
    for (const std::int64_t length : lengths) sum += length;
    return sum;
  }
  void forward() {
    cpu::run(AttentionForward{shape, q.view(), k.view(), v.view(), offsets.view(), y.view(), log_sum_exp.view()}, Stream{});
  }
};

const AttentionShape shapes[] = {{1, 1, 1, true, 1.0},  {3, 1, 64, true, 0.125}, {4, 2, 8, false, 0.35},
                                 {6, 3, 20, true, 0.3}, {2, 2, 48, true, 0.2},   {9, 3, 80, false, 0.1}};

template <class T>
void check_forward(double tolerance) {
  for (const AttentionShape& shape : shapes) {
    Attention<T> a(shape, {1, 37, 0, 32, 70, 5});
    a.forward();
    std::vector<double> y, log_sum_exp;
    reference(shape, a.lengths, a.q, a.k, a.v, y, log_sum_exp);
    double worst = 0;
    for (std::int64_t i = 0; i < a.y.size(); ++i) worst = std::max(worst, std::abs(static_cast<double>(a.y[i]) - y[i]));
    for (std::int64_t i = 0; i < a.log_sum_exp.size(); ++i)
      worst = std::max(worst, std::abs(static_cast<double>(a.log_sum_exp[i]) - log_sum_exp[i]));
    CAPTURE(shape.head_dim);
    CHECK(worst < tolerance);
    CHECK(a.y.intact());
    CHECK(a.log_sum_exp.intact());
  }
}

}  // namespace

TEST_CASE("packed attention agrees with the plain formula in double") {
  check_forward<float>(1e-5);
  check_forward<double>(1e-12);
}

TEST_CASE("packed attention has the same bits for every setting, and for a sequence alone") {
  for (const AttentionShape& shape : shapes) {
    Attention<float> a(shape, {33, 1, 64, 40});
    a.forward();
    for_each_setting([&] {
      Attention<float> b(shape, {33, 1, 64, 40});
      b.forward();
      CHECK(same_bits(a.y, b.y));
      CHECK(same_bits(a.log_sum_exp, b.log_sum_exp));
    });
    for (std::size_t s = 0; s < a.lengths.size(); ++s) {
      Attention<float> alone(shape, {a.lengths[s]});
      const std::int64_t start = a.offsets[s];
      std::copy_n(&a.q[start * shape.heads * shape.head_dim], alone.q.size(), alone.q.data());
      std::copy_n(&a.k[start * shape.kv_heads * shape.head_dim], alone.k.size(), alone.k.data());
      std::copy_n(&a.v[start * shape.kv_heads * shape.head_dim], alone.v.size(), alone.v.data());
      alone.forward();
      Array<float> no_statistics({alone.tokens, shape.heads * shape.head_dim});
      cpu::run(AttentionForward{shape, alone.q.view(), alone.k.view(), alone.v.view(), alone.offsets.view(), no_statistics.view(), View{}},
               Stream{});
      CHECK(same_bits(no_statistics, alone.y));
      CHECK(std::memcmp(alone.y.data(), &a.y[start * shape.heads * shape.head_dim], alone.y.size() * sizeof(float)) == 0);
    }
  }
}

TEST_CASE("a token has the same bits packed, prefilled into pages and decoded from them") {
  std::vector<AttentionShape> causal(std::begin(shapes), std::end(shapes));
  causal.push_back({2, 1, 24, true, 0.2, 40});
  for (AttentionShape shape : causal) {
    shape.causal = true;
    const std::vector<std::int64_t> lengths{70, 33, 1, 64};
    Attention<float> a(shape, lengths);
    a.forward();
    const std::int64_t q_width = shape.heads * shape.head_dim, k_width = shape.kv_heads * shape.head_dim, most_pages = 4;
    for (const std::int64_t chunk : {std::int64_t{1000}, std::int64_t{1}, std::int64_t{23}}) {
      // Pages in scattered order, filled with NaN: what no token has written must not matter.
      Array<float> key_pages({16, attention_block, k_width}, NAN), value_pages({16, attention_block, k_width}, NAN);
      Array<std::int32_t> page_table({4, most_pages}), context_lengths({4});
      for (std::int64_t i = 0; i < 16; ++i) page_table[i] = static_cast<std::int32_t>((i * 7 + 3) % 16);
      Array<float> y({a.tokens, q_width});
      for (std::int64_t begin = 0; begin < 70; begin += chunk) {
        // Tokens begin .. begin + chunk - 1 of every sequence that has them.
        std::vector<std::int64_t> now, rows;
        std::vector<std::int32_t> slots;
        for (std::int64_t s = 0; s < 4; ++s) {
          const std::int64_t end = std::min(lengths[s], begin + chunk);
          now.push_back(std::max<std::int64_t>(0, end - begin));
          context_lengths[s] = static_cast<std::int32_t>(end);
          for (std::int64_t t = begin; t < end; ++t) {
            rows.push_back(a.offsets[s] + t);
            slots.push_back(page_table[s * most_pages + t / attention_block] * attention_block +
                            static_cast<std::int32_t>(t % attention_block));
          }
        }
        const std::int64_t count = static_cast<std::int64_t>(rows.size());
        Array<float> q({count, q_width}), k({count, k_width}), v({count, k_width}), out({count, q_width});
        Array<std::int32_t> slot({count}), offsets = offsets_of(now);
        for (std::int64_t i = 0; i < count; ++i) {
          std::copy_n(&a.q[rows[i] * q_width], q_width, &q[i * q_width]);
          std::copy_n(&a.k[rows[i] * k_width], k_width, &k[i * k_width]);
          std::copy_n(&a.v[rows[i] * k_width], k_width, &v[i * k_width]);
          slot[i] = slots[i];
        }
        cpu::run(StoreKeysValues{k.view(), v.view(), slot.view(), key_pages.view(), value_pages.view()}, Stream{});
        cpu::run(PagedAttention{shape, q.view(), offsets.view(), context_lengths.view(), page_table.view(), key_pages.view(),
                                value_pages.view(), out.view()},
                 Stream{});
        CHECK(out.intact());
        CHECK(key_pages.intact());
        for (std::int64_t i = 0; i < count; ++i) std::copy_n(&out[i * q_width], q_width, &y[rows[i] * q_width]);
      }
      CAPTURE(chunk);
      CAPTURE(shape.head_dim);
      CHECK(same_bits(y, a.y));
    }
  }
}

TEST_CASE("masked attention has the same bits for every setting, and for a sequence alone") {
  struct Case {
    AttentionShape shape;
    std::vector<std::int64_t> lengths, keys;  // of the sequences' queries and keys
    std::vector<std::int32_t> counted, prefixes;
  };
  const Case cases[] = {{{2, 1, 20, false, 0.2}, {3, 40, 1}, {70, 0, 33}, {65, 0, 33}, {}},
                        {{3, 1, 16, true, 0.3}, {5, 40, 33}, {69, 44, 33}, {69, 40, 7}, {3, 0, 20}},
                        {{2, 2, 8, true, 0.3, 37}, {100, 3, 40}, {100, 70, 40}, {100, 70, 40}, {0, 0, 0}}};
  for (const Case& c : cases) {
    CAPTURE(c.shape.causal);
    const std::int64_t width = c.shape.heads * c.shape.head_dim, kv_width = c.shape.kv_heads * c.shape.head_dim;
    const Array<std::int32_t> offsets = offsets_of(c.lengths), key_offsets = offsets_of(c.keys);
    const std::int64_t tokens = offsets[3], key_tokens = key_offsets[3];
    Array<float> q({tokens, width}), k({key_tokens, kv_width}), v({key_tokens, kv_width}), dy({tokens, width});
    q.random(1);
    k.random(2);
    v.random(3);
    dy.random(4);
    // Sequences first .. first + n - 1 by themselves: y, then the gradients.
    const auto run = [&](std::int64_t first, std::int64_t n) {
      const std::int64_t from = offsets[first], key_from = key_offsets[first], count = offsets[first + n] - from,
                         keys = key_offsets[first + n] - key_from;
      const auto part = [](const Array<float>& whole, std::int64_t row, std::int64_t rows, std::int64_t row_width) {
        Array<float> copy({rows, row_width});
        std::copy_n(whole.data() + row * row_width, rows * row_width, copy.data());
        return copy;
      };
      const Array<float> sq = part(q, from, count, width), sk = part(k, key_from, keys, kv_width), sv = part(v, key_from, keys, kv_width),
                         sdy = part(dy, from, count, width);
      Array<std::int32_t> so({n + 1}), sko({n + 1}), lengths({n}), prefixes({n});
      for (std::int64_t s = 0; s <= n; ++s) {
        so[s] = offsets[first + s] - offsets[first];
        sko[s] = key_offsets[first + s] - key_offsets[first];
      }
      for (std::int64_t s = 0; s < n; ++s) {
        lengths[s] = c.counted[static_cast<std::size_t>(first + s)];
        prefixes[s] = c.prefixes.empty() ? 0 : c.prefixes[static_cast<std::size_t>(first + s)];
      }
      std::vector<Array<float>> results;
      for (const Array<float>* like : {&sq, &sq, &sk, &sv})
        results.emplace_back(std::vector<std::int64_t>{like->view().shape[0], like->view().shape[1]});
      Array<float> log_sum({count, c.shape.heads});
      AttentionKeys masks{sko.view(), lengths.view(), {}};
      if (!c.prefixes.empty()) masks.prefixes = prefixes.view();
      cpu::run(AttentionForward{c.shape, sq.view(), sk.view(), sv.view(), so.view(), results[0].view(), log_sum.view(), masks}, Stream{});
      cpu::run(AttentionBackward{c.shape, sq.view(), sk.view(), sv.view(), so.view(), results[0].view(), log_sum.view(), sdy.view(),
                                 results[1].view(), results[2].view(), results[3].view(), View{}, masks},
               Stream{});
      for (const Array<float>& result : results) CHECK(result.intact());
      return results;
    };
    const std::vector<Array<float>> whole = run(0, 3);
    for_each_setting([&] {
      const std::vector<Array<float>> again = run(0, 3);
      for (std::size_t i = 0; i < whole.size(); ++i) CHECK(same_bits(again[i], whole[i]));
    });
    for (std::int64_t s = 0; s < 3; ++s) {
      const std::vector<Array<float>> alone = run(s, 1);
      for (std::size_t i = 0; i < whole.size(); ++i) {
        const float* place = whole[i].data() + (i < 2 ? offsets[s] * width : key_offsets[s] * kv_width);
        CHECK(std::memcmp(alone[i].data(), place, static_cast<std::size_t>(alone[i].size()) * sizeof(float)) == 0);
      }
    }
  }
}

TEST_CASE(
    "the gradient of a long sequence, split by ranges of keys, agrees with double's and has the same bits for any number of threads") {
  for (const AttentionShape& shape :
       {AttentionShape{2, 1, 8, true, 0.3}, AttentionShape{1, 1, 16, false, 0.2}, AttentionShape{2, 2, 4, true, 0.4, 300}}) {
    const std::vector<std::int64_t> lengths{1500, 3, 2100};
    Attention<float> f(shape, lengths);
    Attention<double> d(shape, lengths);
    f.forward();
    for (std::int64_t i = 0; i < f.q.size(); ++i) d.q[i] = f.q[i];
    for (std::int64_t i = 0; i < f.k.size(); ++i) {
      d.k[i] = f.k[i];
      d.v[i] = f.v[i];
    }
    d.forward();
    const std::int64_t width = shape.heads * shape.head_dim, kv_width = shape.kv_heads * shape.head_dim;
    Array<float> fdy({f.tokens, width});
    fdy.random(9);
    Array<double> dy({f.tokens, width}), dq({f.tokens, width}), dk({f.tokens, kv_width}), dv({f.tokens, kv_width});
    for (std::int64_t i = 0; i < dy.size(); ++i) dy[i] = fdy[i];
    cpu::run(AttentionBackward{shape, d.q.view(), d.k.view(), d.v.view(), d.offsets.view(), d.y.view(), d.log_sum_exp.view(), dy.view(),
                               dq.view(), dk.view(), dv.view(), View{}},
             Stream{});
    const auto gradients = [&](int threads) {
      cpu::set_thread_count(threads);
      std::vector<Array<float>> results{Array<float>({f.tokens, width}), Array<float>({f.tokens, kv_width}),
                                        Array<float>({f.tokens, kv_width})};
      AttentionBackward single{shape,
                               f.q.view(),
                               f.k.view(),
                               f.v.view(),
                               f.offsets.view(),
                               f.y.view(),
                               f.log_sum_exp.view(),
                               fdy.view(),
                               results[0].view(),
                               results[1].view(),
                               results[2].view(),
                               View{}};
      Array<std::uint8_t> scratch({static_cast<std::int64_t>(cpu::scratch_bytes(single))});
      CHECK(scratch.size() == 3 * f.q.size() * 4);
      single.scratch = scratch.view();
      cpu::run(single, Stream{});
      CHECK(scratch.intact());
      return results;
    };
    const int before = cpu::thread_count();
    const std::vector<Array<float>> one = gradients(1), three = gradients(3);
    cpu::set_thread_count(before);
    // Sums of up to 2,100 terms below 1 in size, relative to a gradient of order 1.
    CHECK(largest_difference(one[0], dq) < 2e-5);
    CHECK(largest_difference(one[1], dk) < 2e-5);
    CHECK(largest_difference(one[2], dv) < 2e-5);
    for (std::size_t i = 0; i < one.size(); ++i) CHECK(same_bits(one[i], three[i]));
  }
}

TEST_CASE("paged attention refuses a page table that leaves the cache") {
  Array<float> q({1, 4}), y({1, 4}), pages({2, attention_block, 4});
  Array<std::int32_t> offsets({2}), lengths({1}, 1), table({1, 1}, 2);
  offsets[1] = 1;
  CHECK_THROWS_WITH(
      cpu::run(
          PagedAttention{
              {1, 1, 4, true, 1.0}, q.view(), offsets.view(), lengths.view(), table.view(), pages.view(), pages.view(), y.view()},
          Stream{}),
      doctest::Contains("the page table names existing pages"));
  Array<std::int32_t> slot({1}, 64);
  CHECK_THROWS(cpu::run(StoreKeysValues{q.view(), q.view(), slot.view(), pages.view(), pages.view()}, Stream{}));
}

TEST_CASE("attention's double gradients agree with finite differences, float's with double's") {
  for (const AttentionShape& shape : shapes) {
    const std::vector<std::int64_t> lengths{3, 34, 0, 6};
    Attention<double> a(shape, lengths);
    a.q.random(1, 1);
    a.k.random(2, 1);
    a.forward();
    Array<double> dy({a.tokens, shape.heads * shape.head_dim});
    dy.random(9);
    Array<double> dq({a.tokens, shape.heads * shape.head_dim}), dk({a.tokens, shape.kv_heads * shape.head_dim}),
        dv({a.tokens, shape.kv_heads * shape.head_dim});
    dk.random(13);
    const Array<double> dk_start = dk;
    AttentionBackward backward{shape,     a.q.view(), a.k.view(), a.v.view(), a.offsets.view(), a.y.view(), a.log_sum_exp.view(), dy.view(),
                               dq.view(), dk.view(),  dv.view(),  View{}};
    Array<std::uint8_t> scratch({static_cast<std::int64_t>(cpu::scratch_bytes(backward))});
    backward.scratch = scratch.view();
    cpu::run(backward, Stream{});
    for (std::int64_t i = 0; i < dk.size(); ++i) dk[i] -= dk_start[i];
    const auto loss = [&] {
      a.forward();
      double sum = 0;
      for (std::int64_t i = 0; i < dy.size(); ++i) sum += dy[i] * a.y[i];
      return sum;
    };
    const auto check = [&](Array<double>& input, const Array<double>& gradient) {
      for (std::int64_t i = 0; i < input.size(); i += 1 + input.size() / 37) {
        const double kept = input[i], step = 1e-6;
        input[i] = kept + step;
        const double above = loss();
        input[i] = kept - step;
        const double below = loss();
        input[i] = kept;
        CHECK(std::abs((above - below) / (2 * step) - gradient[i]) < 1e-7);
      }
    };
    check(a.q, dq);
    check(a.k, dk);
    check(a.v, dv);

    Attention<float> f(shape, lengths);
    f.q.random(1, 1);
    f.k.random(2, 1);
    f.forward();
    Array<float> fdy({a.tokens, shape.heads * shape.head_dim});
    fdy.random(9);
    std::unique_ptr<Array<float>> first_dq, first_dk, first_dv;
    for_each_setting([&] {
      Array<float> fdq({a.tokens, shape.heads * shape.head_dim}), fdk({a.tokens, shape.kv_heads * shape.head_dim}),
          fdv({a.tokens, shape.kv_heads * shape.head_dim});
      AttentionBackward single{
          shape,      f.q.view(), f.k.view(), f.v.view(), f.offsets.view(), f.y.view(), f.log_sum_exp.view(), fdy.view(),
          fdq.view(), fdk.view(), fdv.view(), View{}};
      Array<std::uint8_t> more({static_cast<std::int64_t>(cpu::scratch_bytes(single))});
      single.scratch = more.view();
      cpu::run(single, Stream{});
      CHECK(largest_difference(fdq, dq) < 1e-5);
      CHECK(largest_difference(fdk, dk) < 2e-5);
      CHECK(largest_difference(fdv, dv) < 1e-5);
      CHECK(fdq.intact());
      CHECK(fdk.intact());
      CHECK(fdv.intact());
      CHECK(more.intact());
      if (!first_dq) {
        first_dq = std::make_unique<Array<float>>(fdq);
        first_dk = std::make_unique<Array<float>>(fdk);
        first_dv = std::make_unique<Array<float>>(fdv);
      }
      CHECK(same_bits(*first_dq, fdq));
      CHECK(same_bits(*first_dk, fdk));
      CHECK(same_bits(*first_dv, fdv));
    });
  }
}

TEST_CASE("rotary turns pairs by the position's angle and its inverse turns them back") {
  const std::int64_t tokens = 5, heads = 3, width = 8, half = width / 2;
  Array<double> x({tokens, heads, width}), y({tokens, heads, width}), back({tokens, heads, width}), table({10, width});
  Array<std::int32_t> positions({tokens});
  x.random(1);
  for (std::int64_t p = 0; p < 10; ++p)
    for (std::int64_t i = 0; i < half; ++i) {
      table[p * width + i] = std::cos(p * std::pow(100.0, -2.0 * i / width));
      table[p * width + half + i] = std::sin(p * std::pow(100.0, -2.0 * i / width));
    }
  for (std::int64_t t = 0; t < tokens; ++t) positions[t] = static_cast<std::int32_t>((t * 3) % 10);
  cpu::run(Rotary{false, false, x.view(), positions.view(), table.view(), y.view()}, Stream{});
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t h = 0; h < heads; ++h)
      for (std::int64_t i = 0; i < half; ++i) {
        const std::int64_t at = (t * heads + h) * width + i;
        const double angle = positions[t] * std::pow(100.0, -2.0 * i / width);
        CHECK(y[at] == doctest::Approx(x[at] * std::cos(angle) - x[at + half] * std::sin(angle)));
        CHECK(y[at + half] == doctest::Approx(x[at + half] * std::cos(angle) + x[at] * std::sin(angle)));
      }
  back.random(4);
  Array<double> start = back;
  cpu::run(Rotary{true, true, y.view(), positions.view(), table.view(), back.view()}, Stream{});
  for (std::int64_t i = 0; i < back.size(); ++i) CHECK(back[i] == doctest::Approx(start[i] + x[i]));
  CHECK(back.intact());
  positions[2] = 10;
  CHECK_THROWS_WITH(cpu::run(Rotary{false, false, x.view(), positions.view(), table.view(), y.view()}, Stream{}),
                    doctest::Contains("every position has a row of the table"));
}
