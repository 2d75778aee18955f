#include "base/kernels/matmul.h"

#include <doctest/doctest.h>

#include "base/error.h"
#include "tests/cuda/device_tensor.h"

using namespace expctr;
using namespace expctr::test;

TEST_CASE("products of all transposes, batched, accumulating, empty") {
  struct Size {
    std::int64_t batches, m, n, k;  // batches 0: rank 2
  };
  for (const Size& size : std::vector<Size>{
           {0, 1, 1, 1}, {0, 3, 5, 7}, {0, 0, 5, 3}, {0, 4, 3, 0}, {0, 33, 65, 100}, {3, 4, 6, 5}, {2, 17, 1, 9}, {1, 8, 8, 8}})
    for (const bool transpose_a : {false, true})
      for (const bool transpose_b : {false, true})
        for (const bool accumulate : {false, true}) {
          const auto [batches, m, n, k] = size;
          const std::int64_t count = std::max<std::int64_t>(batches, 1);
          const auto shape = [&](std::int64_t rows, std::int64_t columns) {
            return batches == 0 ? Shape{rows, columns} : Shape{batches, rows, columns};
          };
          const std::vector<float> a = random_floats(count * m * k, 1), b = random_floats(count * k * n, 2),
                                   old = random_floats(count * m * n, 3);
          const DeviceTensor at(a, transpose_a ? shape(k, m) : shape(m, k), 4), bt(b, transpose_b ? shape(n, k) : shape(k, n)),
              c(old, shape(m, n));
          launch(MatMul{0.5, transpose_a, transpose_b, accumulate, at, bt, c});
          std::vector<double> expected(old.size());
          for (std::int64_t batch = 0; batch < count; ++batch)
            for (std::int64_t i = 0; i < m; ++i)
              for (std::int64_t j = 0; j < n; ++j) {
                double sum = 0;
                for (std::int64_t l = 0; l < k; ++l)
                  sum += static_cast<double>(a[batch * m * k + (transpose_a ? l * m + i : i * k + l)]) *
                         b[batch * k * n + (transpose_b ? j * k + l : l * n + j)];
                const std::int64_t to = (batch * m + i) * n + j;
                expected[to] = 0.5 * sum + (accumulate ? old[to] : 0.0f);
              }
          check_close(c.read(), expected, static_cast<double>(k));
        }
}

TEST_CASE("matmul refuses mixed ranks and f64") {
  const DeviceTensor a(std::vector<float>(8), {2, 2, 2}), b(std::vector<float>(4), {2, 2}), d(std::vector<double>(4), {2, 2});
  CHECK_THROWS_AS(cuda::run(MatMul{1, false, false, false, a, b, b}, stream()), ShapeError);
  CHECK_THROWS_AS(cuda::run(MatMul{1, false, false, false, d, d, d}, stream()), Error);
}
