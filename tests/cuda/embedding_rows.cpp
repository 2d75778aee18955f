#include "base/kernels/embedding_rows.h"

#include <doctest/doctest.h>

#include "base/blocks.h"
#include "base/error.h"
#include "base/kernels/embedding.h"
#include "tests/cuda/device_tensor.h"

using namespace expctr;
using namespace expctr::test;

namespace {

// table[id] += the vectors of its entries in ascending order; more than 512 of them in runs of 512, whose sums are added in order.
void scatter(const std::vector<std::int32_t>& ids, const std::vector<float>& dy, std::int64_t width, std::int64_t frozen,
             std::vector<float>& table) {
  for (std::int32_t id = 0; id * width < std::ssize(table); ++id) {
    if (id == frozen) continue;
    std::vector<std::size_t> entries;
    for (std::size_t i = 0; i < ids.size(); ++i)
      if (ids[i] == id) entries.push_back(i);
    for (std::int64_t c = 0; c < width; ++c) {
      float& to = table[static_cast<std::size_t>(id * width + c)];
      float run = 0;
      for (std::size_t k = 0; k < entries.size(); ++k) {
        const float value = dy[entries[k] * static_cast<std::size_t>(width) + static_cast<std::size_t>(c)];
        if (entries.size() <= 512) {
          to += value;
        } else {
          run += value;
          if (k % 512 == 511 || k + 1 == entries.size()) {
            to += run;
            run = 0;
          }
        }
      }
    }
  }
}

}  // namespace

TEST_CASE("the gradient of gather has the bits of a loop in ascending order, in runs of 512 for frequent rows") {
  struct Case {
    std::int64_t rows, width, n, frozen;
    std::size_t shift;
  };
  for (const Case& c : std::vector<Case>{{1, 1, 1, -1, 0},
                                         {5, 3, 0, -1, 0},
                                         {5, 3, 40, 2, 0},
                                         {255, 8, 3000, 0, 0},
                                         {256, 8, 2500, -1, 4},
                                         {70000, 4, 5000, 17, 0},
                                         {3, 40, 2500, -1, 0},
                                         {2, 3, 4096, -1, 0},
                                         {1, 132, 1025, -1, 0},
                                         {300, 33, 2049, 299, 0}}) {
    std::vector<std::int32_t> ids = random_ids(c.n, 2, -1, static_cast<std::int32_t>(c.rows));
    if (c.n > 100) ids[7] = static_cast<std::int32_t>(c.rows) - 1;
    const std::vector<float> dy = random_floats(c.n * c.width, 3), old = random_floats(c.rows * c.width, 4);
    const DeviceTensor g(dy, {c.n, c.width}, c.shift), it(ids, {c.n}), d(old, {c.rows, c.width});
    launch(GatherBackward{c.frozen, g, it, d, {}});
    std::vector<float> expected = old;
    scatter(ids, dy, c.width, c.frozen, expected);
    CHECK(d.read() == expected);
  }
}

TEST_CASE("look-ups and gradients of several tables, f32 and bf16 vectors side by side") {
  for (const bool half : {false, true}) {
    for (const std::int64_t n : {1, 70, 1300}) {
      const std::int64_t rows = 37, width = 8, rows_b = 3, width_b = 5, stride = 2 * width + width_b + 3;
      const std::vector<float> ta = random_floats(rows * width, 1), tb = random_floats(rows_b * width_b, 2);
      const std::vector<std::int32_t> ids[3] = {random_ids(n, 3, -1, 37), random_ids(n, 4, -1, 3), random_ids(n, 5, -1, 37)};
      const DeviceTensor a(ta, {rows, width}), b(tb, {rows_b, width_b}), i0(ids[0], {n}), i1(ids[1], {n}), i2(ids[2], {n});
      const View tables[] = {a, b};
      const IdList lists[] = {{0, i0, 0, stride}, {1, i1, 2 * width, stride}, {0, i2, width, stride}};
      const std::int64_t column[] = {0, 2 * width, width};
      const auto rounded = [&](float v) { return half ? float_of_bf16(bf16_of_float(v)) : v; };
      const auto bits = [&](const std::vector<float>& values) {
        std::vector<std::uint16_t> result;
        for (const float v : values) result.push_back(bf16_of_float(v));
        return result;
      };

      const std::vector<float> old(static_cast<std::size_t>(n * stride), 7.0f);
      const std::vector<std::uint16_t> old_bits = bits(old);
      const DeviceTensor y(half ? DType::bf16 : DType::f32, {n * stride}, half ? static_cast<const void*>(old_bits.data()) : old.data());
      launch(GatherMany{tables, 2, lists, 3, y});
      std::vector<float> expected = old;
      for (int l = 0; l < 3; ++l) {
        const std::int64_t w = l == 1 ? width_b : width;
        for (std::int64_t i = 0; i < n; ++i)
          for (std::int64_t c = 0; c < w; ++c)
            expected[i * stride + column[l] + c] = ids[l][i] < 0 ? 0.0f : rounded((l == 1 ? tb : ta)[ids[l][i] * w + c]);
      }
      std::vector<float> got;
      if (half)
        for (const std::uint16_t v : y.read<std::uint16_t>()) got.push_back(float_of_bf16(v));
      else
        got = y.read();
      CHECK(got == expected);

      // Gradient: rows of table a, table b added to.
      std::vector<float> dy = random_floats(n * stride, 6);
      const std::vector<std::uint16_t> dy_bits = bits(dy);
      for (float& v : dy) v = rounded(v);
      const DeviceTensor g(half ? DType::bf16 : DType::f32, {n * stride}, half ? static_cast<const void*>(dy_bits.data()) : dy.data());
      const IdSpace spaces[] = {{rows, 0}, {rows_b, -1}};
      const DeviceTensor unique = DeviceTensor::output({3 * n}, DType::i32), counts = DeviceTensor::output({2}, DType::i32),
                         places = DeviceTensor::output({3 * n}, DType::i32), starts = DeviceTensor::output({3 * n + 2}, DType::i32),
                         segments = DeviceTensor::output({3 * n}, DType::i32), sums = DeviceTensor::output({2 * n, width}),
                         db(tb, {rows_b, width_b});
      launch(SortIds{spaces, 2, lists, 3, unique, counts, places, starts, segments, {}});
      const RowTarget targets[] = {{sums, {}}, {{}, db}};
      launch(ReduceRows{spaces, targets, 2, lists, 3, g, unique, counts, places, starts, segments, {}});
      std::vector<std::int32_t> both = ids[0];
      both.insert(both.end(), ids[2].begin(), ids[2].end());
      std::vector<float> vectors(static_cast<std::size_t>(2 * n * width)), vectors_b(static_cast<std::size_t>(n * width_b)),
          expected_a(ta.size()), expected_b = tb;
      for (std::int64_t i = 0; i < n; ++i) {
        for (std::int64_t c = 0; c < width; ++c) {
          vectors[i * width + c] = dy[i * stride + c];
          vectors[(n + i) * width + c] = dy[i * stride + width + c];
        }
        for (std::int64_t c = 0; c < width_b; ++c) vectors_b[i * width_b + c] = dy[i * stride + 2 * width + c];
      }
      scatter(both, vectors, width, 0, expected_a);
      scatter(ids[1], vectors_b, width_b, -1, expected_b);
      CHECK(db.read() == expected_b);
      const auto id = unique.read<std::int32_t>();
      const auto count = counts.read<std::int32_t>();
      const std::vector<float> rows_of_a = sums.read();
      std::vector<float> dense(ta.size());
      for (std::int64_t k = 0; k < 2 * n; ++k) {
        CHECK((id[k] == no_row) == (k >= count[0]));
        for (std::int64_t c = 0; c < width; ++c) {
          if (k < count[0])
            dense[id[k] * width + c] = rows_of_a[k * width + c];
          else
            CHECK(rows_of_a[k * width + c] == 0.0f);
        }
      }
      CHECK(dense == expected_a);
    }
  }
}

TEST_CASE("more lists than one call takes") {
  const DeviceTensor table(std::vector<float>(4, 1.0f), {2, 2}), ids(std::vector<std::int32_t>{1}, {1}), y = DeviceTensor::output({300, 2});
  const View view = table;
  std::vector<IdList> lists(129, IdList{0, ids, 0, 2});
  CHECK_THROWS_AS(cuda::run(GatherMany{&view, 1, lists.data(), 129, y}, stream()), Error);
}
