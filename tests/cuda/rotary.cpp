#include "base/kernels/rotary.h"

#include <doctest/doctest.h>

#include "tests/cuda/device_tensor.h"

using namespace expctr;
using namespace expctr::test;

TEST_CASE("rotary turns pairs, accumulates, and its inverse undoes it") {
  struct Size {
    std::int64_t tokens, heads, dim;
  };
  for (const Size& size : std::vector<Size>{{0, 1, 2}, {1, 1, 2}, {3, 2, 6}, {7, 3, 64}, {40, 2, 8}})
    for (const std::size_t shift : {0u, 4u}) {
      const auto [tokens, heads, dim] = size;
      const std::int64_t n = tokens * heads * dim, half = dim / 2, most = 50;
      const std::vector<float> x = random_floats(n, 1), old = random_floats(n, 2);
      const std::vector<std::int32_t> positions = random_ids(tokens, 3, 0, most);
      std::vector<float> table(most * dim);
      for (std::int64_t p = 0; p < most; ++p)
        for (std::int64_t i = 0; i < half; ++i) {
          table[p * dim + i] = static_cast<float>(std::cos(p * 0.1 * (i + 1)));
          table[p * dim + half + i] = static_cast<float>(std::sin(p * 0.1 * (i + 1)));
        }
      const Shape shape = {tokens, heads, dim};
      const DeviceTensor xt(x, shape, shift), pt(positions, {tokens}), tt(table, {most, dim}),
          y = DeviceTensor::output(shape), sum(old, shape), back = DeviceTensor::output(shape), in_place(x, shape);
      launch(Rotary{false, false, xt, pt, tt, y});
      launch(Rotary{false, true, xt, pt, tt, sum});
      launch(Rotary{true, false, y, pt, tt, back});
      launch(Rotary{false, false, in_place, pt, tt, in_place});
      std::vector<double> want(n), want_sum(old.begin(), old.end());
      for (std::int64_t t = 0; t < tokens; ++t)
        for (std::int64_t h = 0; h < heads; ++h)
          for (std::int64_t i = 0; i < half; ++i) {
            const std::int64_t at = (t * heads + h) * dim + i;
            const double c = table[positions[t] * dim + i], s = table[positions[t] * dim + half + i];
            want[at] = x[at] * c - x[at + half] * s;
            want[at + half] = x[at + half] * c + x[at] * s;
          }
      for (std::int64_t i = 0; i < n; ++i) want_sum[i] += want[i];
      check_close(y.read(), want, 2);
      check_close(sum.read(), want_sum, 3);
      check_close(back.read(), std::vector<double>(x.begin(), x.end()), 8);
      CHECK(in_place.read() == y.read());
    }
}
