#include "base/kernels/cholesky.h"

#include <doctest/doctest.h>

#include "base/error.h"
#include "tests/cuda/device_tensor.h"

using namespace expctr;
using namespace expctr::test;

TEST_CASE("Cholesky factors and solutions of the largest matrices, and accumulation") {
  // n = 256 needs all of the shared memory that an sm_80 has; 3 and 68 columns take the path element by element and the one by four.
  struct Case {
    std::int64_t n, columns;
  };
  for (const Case& c : {Case{5, 3}, Case{256, 68}}) {
    std::vector<float> a(static_cast<std::size_t>(c.n * c.n));
    const std::vector<float> g = random_floats(c.n * c.n, 1), b = random_floats(c.n * c.columns, 2),
                             old = random_floats(c.n * c.columns, 3);
    std::vector<double> factor(a.size()), solution(b.begin(), b.end());
    for (std::int64_t i = 0; i < c.n; ++i)
      for (std::int64_t j = 0; j <= i; ++j) {
        double sum = i == j ? 1.0 : 0.0;
        for (std::int64_t k = 0; k < c.n; ++k) sum += static_cast<double>(g[i * c.n + k]) * g[j * c.n + k] / static_cast<double>(c.n);
        a[i * c.n + j] = static_cast<float>(sum);
        a[j * c.n + i] = std::nanf("");  // the upper triangle is not read
        a[i * c.n + i] = i == j ? static_cast<float>(sum) : a[i * c.n + i];
      }
    for (std::int64_t j = 0; j < c.n; ++j)
      for (std::int64_t i = j; i < c.n; ++i) {
        double sum = a[i * c.n + j];
        for (std::int64_t k = 0; k < j; ++k) sum -= factor[i * c.n + k] * factor[j * c.n + k];
        factor[i * c.n + j] = i == j ? std::sqrt(sum) : sum / factor[j * c.n + j];
      }
    for (std::int64_t column = 0; column < c.columns; ++column) {
      for (std::int64_t i = 0; i < c.n; ++i) {
        for (std::int64_t k = 0; k < i; ++k) solution[i * c.columns + column] -= factor[i * c.n + k] * solution[k * c.columns + column];
        solution[i * c.columns + column] /= factor[i * c.n + i];
      }
      for (std::int64_t i = c.n - 1; i >= 0; --i) {
        for (std::int64_t k = i + 1; k < c.n; ++k)
          solution[i * c.columns + column] -= factor[k * c.n + i] * solution[k * c.columns + column];
        solution[i * c.columns + column] /= factor[i * c.n + i];
      }
    }
    const DeviceTensor at(a, {1, c.n, c.n}), l = DeviceTensor::output({1, c.n, c.n}), status = DeviceTensor::output({1}, DType::i32);
    launch(Cholesky{at, l, status});
    CHECK(status.read<std::int32_t>() == std::vector<std::int32_t>{0});
    check_close(l.read(), factor, static_cast<double>(c.n));
    const DeviceTensor bt(b, {1, c.n, c.columns}), x = DeviceTensor::output({1, c.n, c.columns}), sum(old, {1, c.n, c.columns});
    launch(CholeskySolve{false, l, bt, x});
    launch(CholeskySolve{true, l, bt, sum});
    // A condition number of a few; sums of n terms.
    check_close(x.read(), solution, 25.0 * static_cast<double>(c.n));
    for (std::size_t i = 0; i < solution.size(); ++i) solution[i] += old[i];
    check_close(sum.read(), solution, 25.0 * static_cast<double>(c.n));
  }
}

TEST_CASE("Cholesky: more rows than a block holds are refused") {
  const DeviceTensor a = DeviceTensor::output({1, 257, 257}), status = DeviceTensor::output({1}, DType::i32);
  CHECK_THROWS_WITH_AS(launch(Cholesky{a, a, status}), doctest::Contains("matrices of 257 rows"), ShapeError);
}
