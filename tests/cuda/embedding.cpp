#include "base/kernels/embedding.h"

#include <doctest/doctest.h>

#include "base/blocks.h"
#include "tests/cuda/device_tensor.h"

using namespace expctr;
using namespace expctr::test;

TEST_CASE("gather takes rows, negative ids give zeros") {
  struct Case {
    std::int64_t rows, width, n;
    std::size_t shift;
  };
  for (const Case& c : std::vector<Case>{{1, 1, 1, 0}, {5, 3, 0, 0}, {5, 3, 11, 0}, {50, 16, 700, 0}, {50, 16, 70, 4}, {9, 130, 33, 0}}) {
    const std::vector<float> table = random_floats(c.rows * c.width, 1);
    const std::vector<std::int32_t> ids = random_ids(c.n, 2, -1, static_cast<std::int32_t>(c.rows));
    const DeviceTensor tt(table, {c.rows, c.width}, c.shift), it(ids, {c.n}), y = DeviceTensor::output({c.n, c.width});
    launch(Gather{tt, it, y});
    std::vector<float> expected;
    for (const std::int32_t id : ids)
      for (std::int64_t i = 0; i < c.width; ++i) expected.push_back(id < 0 ? 0.0f : table[id * c.width + i]);
    CHECK(y.read() == expected);
  }
}

TEST_CASE("gather reads half precision and quantised tables with the bits of base/blocks.h") {
  const std::int64_t rows = 7, width = 64, n = 20;
  const std::vector<std::int32_t> ids = random_ids(n, 2, -1, static_cast<std::int32_t>(rows));
  const DeviceTensor it(ids, {n});
  const auto check = [&](DType dtype, const void* data, auto element) {
    const DeviceTensor table(dtype, {rows, width}, data), y = DeviceTensor::output({n, width});
    launch(Gather{table, it, y});
    std::vector<float> expected;
    for (const std::int32_t id : ids)
      for (std::int64_t i = 0; i < width; ++i) expected.push_back(id < 0 ? 0.0f : element(id * width + i));
    CHECK_MESSAGE(y.read() == expected, dtype_name(dtype));
  };
  const std::vector<float> values = random_floats(rows * width, 3);
  std::vector<std::uint16_t> bf16;
  for (const float v : values) bf16.push_back(bf16_of_float(v));
  check(DType::bf16, bf16.data(), [&](std::int64_t i) { return float_of_bf16(bf16[i]); });
  check(DType::f16, bf16.data(), [&](std::int64_t i) { return float_of_f16(bf16[i]); });
  std::vector<BlockQ4_1> q4(rows * width / 32);
  std::vector<BlockQ8_0> q8(rows * width / 32);
  for (std::size_t b = 0; b < q4.size(); ++b) {
    q4[b].d = q8[b].d = static_cast<std::uint16_t>(0x2C00 + b);
    q4[b].m = static_cast<std::uint16_t>(0xB800 + b);
    for (int i = 0; i < 16; ++i) q4[b].codes[i] = static_cast<std::uint8_t>(17 * b + 31 * i);
    for (int i = 0; i < 32; ++i) q8[b].codes[i] = static_cast<std::int8_t>(11 * b + 7 * i);
  }
  check(DType::q4_1, q4.data(), [&](std::int64_t i) { return dequantise(q4[i / 32], static_cast<int>(i % 32)); });
  check(DType::q8_0, q8.data(), [&](std::int64_t i) { return dequantise(q8[i / 32], static_cast<int>(i % 32)); });
}

TEST_CASE("an id past the table reads and writes nothing, and shows as NaN") {
  for (const std::int64_t width : {3, 4}) {
    const DeviceTensor table(std::vector<float>(2 * width, 1), {2, width}), ids(std::vector<std::int32_t>{2, 1, 1000000}, {3}),
        y = DeviceTensor::output({3, width}), dy(std::vector<float>(3 * width, 1), {3, width}),
        d(std::vector<float>(2 * width), {2, width});
    launch(Gather{table, ids, y});
    const std::vector<float> values = y.read();
    for (std::int64_t i = 0; i < 3 * width; ++i) CHECK(std::isnan(values[i]) == (i / width != 1));
    launch(GatherBackward{-1, dy, ids, d, {}});
    const std::vector<float> gradient = d.read();
    for (std::int64_t i = 0; i < 2 * width; ++i) CHECK(gradient[i] == (i < width ? 0.0f : 1.0f));
  }
}

TEST_CASE("copies of columns leave the others alone") {
  struct Case {
    std::int64_t rows, x_width, y_width, columns, x_column, y_column;
  };
  for (const Case& c : std::vector<Case>{
           {0, 3, 3, 3, 0, 0}, {1, 1, 1, 1, 0, 0}, {5, 12, 20, 8, 4, 12}, {5, 7, 9, 3, 2, 5}, {300, 8, 16, 8, 0, 4}, {4, 4, 4, 0, 2, 2}})
    for (const bool accumulate : {false, true}) {
      const std::vector<float> x = random_floats(c.rows * c.x_width, 1), old = random_floats(c.rows * c.y_width, 2);
      const DeviceTensor xt(x, {c.rows, c.x_width}), y(old, {c.rows, c.y_width});
      launch(CopyColumns{c.columns, c.x_column, c.y_column, accumulate, xt, y});
      std::vector<float> expected = old;
      for (std::int64_t r = 0; r < c.rows; ++r)
        for (std::int64_t i = 0; i < c.columns; ++i) {
          float& e = expected[r * c.y_width + c.y_column + i];
          e = x[r * c.x_width + c.x_column + i] + (accumulate ? e : 0.0f);
        }
      CHECK(y.read() == expected);
    }
}
