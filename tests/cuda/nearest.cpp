#include "base/kernels/nearest.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <numeric>

#include "base/blocks.h"
#include "tests/cuda/device_tensor.h"

using namespace expctr;
using namespace expctr::test;

namespace {

/// Multiples of 1/8 below 2: exact in bf16, and so are all sums in float, so the indices are known.
std::vector<float> eighths(std::int64_t n, std::uint32_t seed) {
  std::vector<float> values = random_floats(n, seed, -16, 16);
  for (float& value : values) value = std::floor(value) / 8;
  return values;
}

DeviceTensor stored(const std::vector<float>& values, const Shape& shape, DType dtype, std::size_t shift) {
  if (dtype == DType::f32) return DeviceTensor(values, shape, shift);
  std::vector<std::uint16_t> halves;
  for (const float value : values) halves.push_back(bf16_of_float(value));
  return DeviceTensor(DType::bf16, shape, halves.data(), shift);
}

}  // namespace

TEST_CASE("nearest codes in f32 and bf16, aligned and not, the same bits every time") {
  struct Case {
    std::int64_t rows, codes, width, k;
    std::size_t shift = 0;
  };
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const Case& c : {Case{1, 1, 1, 1}, Case{3, 70, 8, 64}, Case{65, 130, 64, 16}, Case{2, 200, 72, 33}, Case{67, 64, 40, 2, 4},
                          Case{0, 3, 8, 1}, Case{4, 5, 0, 3}, Case{3, 9, 200, 9}}) {
      CAPTURE(dtype_name(dtype));
      CAPTURE(c.codes);
      const std::vector<float> x = eighths(c.rows * c.width, 1), codebook = eighths(c.codes * c.width, 2);
      const DeviceTensor xt = stored(x, {c.rows, c.width}, dtype, c.shift), ct = stored(codebook, {c.codes, c.width}, dtype, c.shift);
      const DeviceTensor indices = DeviceTensor::output({c.rows, c.k}, DType::i32), distances = DeviceTensor::output({c.rows, c.k});
      launch(NearestCodes{xt, ct, indices, distances, {}});
      std::vector<std::int32_t> expected;
      std::vector<float> expected_distances;
      for (std::int64_t r = 0; r < c.rows; ++r) {
        std::vector<float> all;
        for (std::int64_t code = 0; code < c.codes; ++code) {
          float sum = 0;
          for (std::int64_t i = 0; i < c.width; ++i)
            sum += (x[r * c.width + i] - codebook[code * c.width + i]) * (x[r * c.width + i] - codebook[code * c.width + i]);
          all.push_back(sum);
        }
        std::vector<std::int32_t> order(static_cast<std::size_t>(c.codes));
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) { return all[a] < all[b]; });
        for (std::int64_t i = 0; i < c.k; ++i) {
          expected.push_back(order[i]);
          expected_distances.push_back(all[order[i]]);
        }
      }
      CHECK(indices.read<std::int32_t>() == expected);
      CHECK(distances.read() == expected_distances);
    }
  }
}

TEST_CASE("nearest distances of any numbers are within rounding of float64") {
  const std::int64_t rows = 70, codes = 150, width = 96, k = 5;
  const std::vector<float> x = random_floats(rows * width, 5), codebook = random_floats(codes * width, 6);
  const DeviceTensor xt(x, {rows, width}), ct(codebook, {codes, width}), indices = DeviceTensor::output({rows, k}, DType::i32),
                                                                         distances = DeviceTensor::output({rows, k}),
                                                                         again = DeviceTensor::output({rows, k});
  launch(NearestCodes{xt, ct, indices, distances, {}});
  launch(NearestCodes{xt, ct, indices, again, {}});
  CHECK(distances.read() == again.read());
  std::vector<double> expected;
  for (std::int64_t r = 0; r < rows; ++r) {
    std::vector<double> all;
    for (std::int64_t code = 0; code < codes; ++code) {
      double sum = 0;
      for (std::int64_t i = 0; i < width; ++i) sum += std::pow(static_cast<double>(x[r * width + i]) - codebook[code * width + i], 2);
      all.push_back(sum);
    }
    std::sort(all.begin(), all.end());
    expected.insert(expected.end(), all.begin(), all.begin() + k);
  }
  check_close(distances.read(), expected, static_cast<double>(width));
}
