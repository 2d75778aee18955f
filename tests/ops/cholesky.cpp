#include "engine/ops/cholesky.h"

#include <doctest/doctest.h>

#include <cmath>

#include "base/error.h"
#include "engine/core/build_info.h"
#include "engine/ops/elementwise.h"
#include "engine/ops/matmul.h"
#include "tests/ops/op_cases.h"
#include "tests/support/oracle.h"
#include "tests/support/paths.h"

using namespace expctr;
using namespace expctr::test;

namespace {

/// G G^T / n + I / 2 with G uniform: condition number below about 10.
Operand positive_definite(std::int64_t batch, std::int64_t n, std::uint64_t seed) {
  const std::vector<double> g = uniform({batch, n, n}, -1, 1, seed).values;
  Operand a = constant(uniform({batch, n, n}));
  for (std::int64_t b = 0; b < batch; ++b)
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t j = 0; j < n; ++j) {
        double sum = i == j ? 0.5 : 0.0;
        for (std::int64_t k = 0; k < n; ++k) sum += g[(b * n + i) * n + k] * g[(b * n + j) * n + k] / static_cast<double>(n);
        a.values[(b * n + i) * n + j] = sum;
      }
  return a;
}

/// Column by column, in double.
std::vector<double> plain_factor(const Operand& a) {
  const std::int64_t batch = a.shape[0], n = a.shape[1];
  std::vector<double> l(a.values.size());
  for (std::int64_t b = 0; b < batch; ++b) {
    double* m = l.data() + b * n * n;
    for (std::int64_t j = 0; j < n; ++j)
      for (std::int64_t i = j; i < n; ++i) {
        double sum = a.values[(b * n + i) * n + j];
        for (std::int64_t k = 0; k < j; ++k) sum -= m[i * n + k] * m[j * n + k];
        m[i * n + j] = i == j ? std::sqrt(sum) : sum / m[j * n + j];
      }
  }
  return l;
}

/// Gaussian elimination with row exchange on factor factor^T, in double: no substitution that the kernel does.
std::vector<double> plain_solve(const Operand& factor, const Operand& right) {
  const std::int64_t batch = factor.shape[0], n = factor.shape[1], columns = right.shape[2];
  std::vector<double> x = right.values;
  for (std::int64_t b = 0; b < batch; ++b) {
    const double* l = factor.values.data() + b * n * n;
    std::vector<double> a(static_cast<std::size_t>(n * n));
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t j = 0; j < n; ++j)
        for (std::int64_t k = 0; k <= std::min(i, j); ++k) a[i * n + j] += l[i * n + k] * l[j * n + k];
    double* y = x.data() + b * n * columns;
    for (std::int64_t j = 0; j < n; ++j) {
      std::int64_t pivot = j;
      for (std::int64_t i = j; i < n; ++i)
        if (std::abs(a[i * n + j]) > std::abs(a[pivot * n + j])) pivot = i;
      for (std::int64_t k = 0; k < n; ++k) std::swap(a[j * n + k], a[pivot * n + k]);
      for (std::int64_t c = 0; c < columns; ++c) std::swap(y[j * columns + c], y[pivot * columns + c]);
      for (std::int64_t i = 0; i < n; ++i) {
        if (i == j) continue;
        const double share = a[i * n + j] / a[j * n + j];
        for (std::int64_t k = j; k < n; ++k) a[i * n + k] -= share * a[j * n + k];
        for (std::int64_t c = 0; c < columns; ++c) y[i * columns + c] -= share * y[j * columns + c];
      }
    }
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t c = 0; c < columns; ++c) y[i * columns + c] /= a[i * n + i];
  }
  return x;
}

std::vector<Device> devices() {
  std::vector<Device> all = {cpu_device};
  if constexpr (has_cuda) all.push_back({DeviceType::cuda, 0});
  return all;
}

}  // namespace

OP_CASES(cholesky) {
  meaningless(DType::bf16, "8 bits are too few to factorise with: matrices and solutions are f32");
  for (const auto& [batch, n] : {std::pair<std::int64_t, std::int64_t>{1, 1}, {0, 3}, {2, 0}, {3, 2}, {2, 33}, {1, 150}}) {
    add_case(
        Shape{batch, n, n}.text(), {positive_definite(batch, n, 1)}, [](std::span<const Tensor> in) { return cholesky(in[0]).factor; },
        [](std::span<const Operand> in) { return plain_factor(in[0]); }, n);
  }
  add_error([] { cholesky(Tensor::zeros({2, 3, 4})); }, "cholesky: a is [2, 3, 4], expected [2, 3, 3]");
}

OP_CASES(cholesky_solve) {
  meaningless(DType::bf16, "8 bits are too few to factorise with: matrices and solutions are f32");
  for (const auto& [shape, columns] : {std::pair<Shape, std::int64_t>{{1, 1, 1}, 1},
                                       {{0, 3, 3}, 2},
                                       {{2, 3, 3}, 0},
                                       {{3, 2, 2}, 3},
                                       {{2, 33, 33}, 5},
                                       {{1, 70, 70}, 68}}) {
    Operand factor = positive_definite(shape[0], shape[1], 2);
    factor.values = plain_factor(factor);
    add_case(
        shape.text() + ", " + std::to_string(columns) + " columns", {factor, uniform({shape[0], shape[1], columns})},
        [](std::span<const Tensor> in) { return cholesky_solve(in[0], in[1]); },
        [](std::span<const Operand> in) { return plain_solve(in[0], in[1]); },
        // The errors of n steps, times a condition number of about 10.
        100 * std::max<std::int64_t>(1, shape[1]));
  }
  add_error(
      [] {
        cholesky_solve(Tensor::zeros({2, 3, 3}), Tensor::zeros({2, 4, 1}));
      },
      "cholesky_solve: b is [2, 4, 1], expected [2, 3, 1]");
}

TEST_CASE("cholesky: a matrix that is not positive definite has a status, and NaN for a factor") {
  for (const Device device : devices()) {
    const Tensor a =
        Tensor::of(std::vector<float>{4, 0, 0, 9, /**/ 1, 2, 2, 1, /**/ -1, 0, 0, 1, /**/ std::nanf(""), 0, 0, 1}, {4, 2, 2}, device);
    const CholeskyFactor result = cholesky(a);
    CHECK(result.status.to_vector<std::int32_t>() == std::vector<std::int32_t>{0, 2, 1, 1});
    const std::vector<float> factor = result.factor.to_vector<float>();
    CHECK(std::vector<float>(factor.begin(), factor.begin() + 4) == std::vector<float>{2, 0, 0, 3});
    for (int i = 4; i < 16; ++i) CHECK(std::isnan(factor[static_cast<std::size_t>(i)]));
    CHECK_THROWS_WITH_AS(require_positive_definite(result), doctest::Contains("matrix 1 of 4 is not positive definite: the pivot of row 1"),
                         Error);
    CHECK_NOTHROW(require_positive_definite(cholesky(a.slice_rows(0, 1))));
  }
}

TEST_CASE("the reference case of the pseudo-inverse, by a Cholesky solve") {
  const std::filesystem::path folder = oracle_root() / "vq" / "pinv_round_trip";
  const SafetensorsFile file = SafetensorsFile::open(folder / "tensors.safetensors");
  for (const Device device : devices()) {
    for (const DType dtype : {DType::f64, DType::f32}) {
      if (device.is_cuda() && dtype == DType::f64) continue;
      OracleReport report(folder, device_name(device) + " " + dtype_name(dtype));
      for (const std::string kind : {"wide", "tall"}) {
        const Tensor w = tensor_of(doubles(file, "in." + kind), shape_of(file, "in." + kind), dtype, device);
        // wide: pinv = W^T (W W^T)^-1, its transposed solves (W W^T) X = W; tall: (W^T W) X = W^T.
        const bool wide = kind == "wide";
        const Tensor gram = wide ? matmul(w, w, false, true) : matmul(w, w, true, false);
        const std::int64_t n = gram.dim(0);
        const Tensor identity = tensor_of(
            [&] {
              std::vector<double> values(static_cast<std::size_t>(n * n));
              for (std::int64_t i = 0; i < n; ++i) values[static_cast<std::size_t>(i * n + i)] = 1.0;
              return values;
            }(),
            {n, n}, dtype, device);
        const CholeskyFactor factor = cholesky(gram.reshape({1, n, n}));
        require_positive_definite(factor);
        const Tensor inverse = cholesky_solve(factor.factor, identity.reshape({1, n, n})).reshape({n, n});
        const Tensor pinv = wide ? matmul(w, inverse, true, false) : matmul(inverse, w, false, true);
        report.compare(kind, doubles(pinv), doubles(file, "out." + kind + "_pinv"), dtype == DType::f64 ? 1e-12 : 1e-5);
      }
      CHECK(report.finish());
    }
  }
}
