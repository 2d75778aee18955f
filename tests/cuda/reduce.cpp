#include "base/kernels/reduce.h"

#include <doctest/doctest.h>

#include "tests/cuda/device_tensor.h"

using namespace expctr;
using namespace expctr::test;

TEST_CASE("sums of an axis and their gradient") {
  const std::vector<Shape> shapes = {{0, 3, 2},     {2, 0, 3},   {1, 1, 1},    {1, 7, 1},   {3, 5, 4},   {2, 33, 7},
                                     {1, 20000, 1}, {70, 40, 1}, {1, 900, 65}, {5, 600, 1}, {100, 3, 8}, {2, 1500, 3}};
  for (const Shape& shape : shapes) {
    const std::int64_t outer = shape[0], n = shape[1], inner = shape[2];
    const std::vector<float> x = random_floats(elements(shape), 1), dy = random_floats(outer * inner, 2),
                             old = random_floats(elements(shape), 3);
    const DeviceTensor xt(x, shape), y = DeviceTensor::output({outer, inner}), again = DeviceTensor::output({outer, inner}),
                                     g(dy, {outer, inner}), dx(old, shape);
    launch(SumForward{0.5, xt, y, {}});
    launch(SumForward{0.5, xt, again, {}});
    launch(SumBackward{0.5, g, dx});
    std::vector<double> sums(static_cast<std::size_t>(outer * inner)), gradient;
    for (std::int64_t o = 0; o < outer; ++o)
      for (std::int64_t r = 0; r < n; ++r)
        for (std::int64_t i = 0; i < inner; ++i) {
          sums[o * inner + i] += 0.5 * x[(o * n + r) * inner + i];
          gradient.push_back(old[(o * n + r) * inner + i] + 0.5 * dy[o * inner + i]);
        }
    check_close(y.read(), sums, static_cast<double>(n));
    CHECK(y.read() == again.read());
    check_close(dx.read(), gradient);
  }
}

TEST_CASE("means of segments, empty ones included, and their gradient") {
  struct Case {
    std::vector<std::int32_t> offsets;
    std::int64_t rows, width;
  };
  const std::vector<Case> cases = {
      {{0}, 0, 3}, {{0, 0}, 0, 3}, {{0, 1}, 1, 1}, {{0, 3, 3, 10, 11}, 11, 5}, {{0, 0, 40, 100}, 100, 64}, {{2, 5, 9}, 12, 8}};
  for (const Case& c : cases) {
    const std::int64_t segments = static_cast<std::int64_t>(c.offsets.size()) - 1;
    const std::vector<float> x = random_floats(c.rows * c.width, 1), dy = random_floats(segments * c.width, 2),
                             old = random_floats(c.rows * c.width, 3);
    const DeviceTensor xt(x, {c.rows, c.width}), offsets(c.offsets, {segments + 1}), y = DeviceTensor::output({segments, c.width}),
                                                                                     g(dy, {segments, c.width}), dx(old, {c.rows, c.width});
    launch(SegmentMeanForward{xt, offsets, y});
    launch(SegmentMeanBackward{g, offsets, dx});
    std::vector<double> mean(static_cast<std::size_t>(segments * c.width)), gradient(old.begin(), old.end());
    for (std::int64_t s = 0; s < segments; ++s)
      for (std::int64_t r = c.offsets[s]; r < c.offsets[s + 1]; ++r)
        for (std::int64_t i = 0; i < c.width; ++i) {
          mean[s * c.width + i] += static_cast<double>(x[r * c.width + i]) / (c.offsets[s + 1] - c.offsets[s]);
          gradient[r * c.width + i] += static_cast<double>(dy[s * c.width + i]) / (c.offsets[s + 1] - c.offsets[s]);
        }
    check_close(y.read(), mean, 100);
    check_close(dx.read(), gradient, 2);
  }
}

TEST_CASE("the squared norm of many tensors") {
  for (const int count : {0, 1, 3, 300}) {
    std::vector<DeviceTensor> tensors;
    std::vector<View> views;
    double expected = 0;
    for (int i = 0; i < count; ++i) {
      const std::int64_t n = i == 1 ? 40001 : i == 2 ? 0 : 5 + i % 7;
      const std::vector<float> values = random_floats(n, static_cast<std::uint32_t>(i));
      for (const float v : values) expected += static_cast<double>(v) * v;
      tensors.emplace_back(values, Shape{n}, i % 2 == 0 ? 0 : 4);
    }
    for (const DeviceTensor& tensor : tensors) views.push_back(tensor);
    if (count == 3) views.push_back(View{});  // an absent gradient
    const DeviceTensor total = DeviceTensor::output({1}, DType::f64);
    launch(SquaredNorm{views.data(), static_cast<int>(views.size()), total, {}});
    CHECK(total.read<double>()[0] == doctest::Approx(expected).epsilon(1e-12));
  }
}
