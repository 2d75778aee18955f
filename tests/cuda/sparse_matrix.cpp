#include "base/kernels/sparse_matrix.h"

#include <doctest/doctest.h>

#include "base/blocks.h"
#include "tests/cuda/device_tensor.h"

using namespace expctr;
using namespace expctr::test;

TEST_CASE("sparse times dense in f32 and bf16: short, empty and long rows, aligned and not") {
  struct Case {
    std::int64_t rows, columns, width;
    std::int32_t longest;
    bool values, accumulate;
    std::size_t shift = 0;
  };
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const Case& c : {Case{1, 1, 1, 1, true, false}, Case{19, 7, 64, 9, true, true}, Case{9, 30, 8, 40, false, false},
                          Case{10, 50, 24, 700, true, false}, Case{9, 50, 5, 300, true, true}, Case{6, 9, 264, 5, true, false},
                          Case{6, 9, 64, 5, true, true, 4}, Case{0, 3, 4, 1, true, false}}) {
      CAPTURE(dtype_name(dtype));
      CAPTURE(c.width);
      std::vector<std::int32_t> offsets = {0}, columns;
      for (std::int64_t r = 0; r < c.rows; ++r) offsets.push_back(offsets.back() + static_cast<std::int32_t>(r * 5 % (c.longest + 1)));
      if (c.rows > 3) offsets.back() = offsets[c.rows - 1] + c.longest;
      columns = random_ids(offsets.back(), 1, 0, static_cast<std::int32_t>(c.columns));
      const std::vector<float> values = random_floats(offsets.back(), 2);
      std::vector<float> x = random_floats(c.columns * c.width, 3), old = random_floats(c.rows * c.width, 4);
      std::vector<std::uint16_t> x_half, old_half;
      if (dtype == DType::bf16) {
        for (float& value : x) value = float_of_bf16(x_half.emplace_back(bf16_of_float(value)));
        for (float& value : old) value = float_of_bf16(old_half.emplace_back(bf16_of_float(value)));
      }
      const bool half = dtype == DType::bf16;
      const DeviceTensor offsets_t(offsets, {c.rows + 1}), columns_t(columns, {offsets.back()}), values_t(values, {offsets.back()});
      const DeviceTensor xt(dtype, {c.columns, c.width}, half ? static_cast<const void*>(x_half.data()) : x.data(), c.shift);
      std::vector<std::vector<float>> results;
      for (int round = 0; round < 2; ++round) {
        const DeviceTensor y(dtype, {c.rows, c.width},
                             !c.accumulate ? nullptr
                             : half        ? static_cast<const void*>(old_half.data())
                                           : old.data(),
                             c.shift);
        launch(SparseMatMul{c.accumulate, offsets_t, columns_t, c.values ? values_t.view() : View{}, xt, y});
        if (half) {
          std::vector<float> wide;
          for (const std::uint16_t value : y.read<std::uint16_t>()) wide.push_back(float_of_bf16(value));
          results.push_back(wide);
        } else {
          results.push_back(y.read());
        }
      }
      CHECK(results[0] == results[1]);
      std::vector<double> expected(static_cast<std::size_t>(c.rows * c.width));
      for (std::int64_t r = 0; r < c.rows; ++r)
        for (std::int64_t j = 0; j < c.width; ++j) {
          double sum = c.accumulate ? old[r * c.width + j] : 0.0;
          for (std::int32_t i = offsets[r]; i < offsets[r + 1]; ++i)
            sum += (c.values ? values[i] : 1.0f) * static_cast<double>(x[columns[i] * c.width + j]);
          expected[r * c.width + j] = sum;
        }
      // In bf16 the result is rounded once, by at most 2^-8 of it.
      check_close(results[0], expected, half ? 1 : c.longest, half ? 0x1p-10 : 0x1p-23);
    }
  }
}

TEST_CASE("sparse times dense: an entry outside the matrix gives NaN in its row only") {
  const std::vector<std::int32_t> offsets = {0, 1, 2}, columns = {5, 1};
  const DeviceTensor offsets_t(offsets, {3}), columns_t(columns, {2}), x(std::vector<float>{1, 2, 3, 4}, {2, 2}),
      y = DeviceTensor::output({2, 2});
  launch(SparseMatMul{false, offsets_t, columns_t, View{}, x, y});
  const std::vector<float> got = y.read();
  CHECK(std::isnan(got[0]));
  CHECK(got[2] == 3);
  CHECK(got[3] == 4);
}
