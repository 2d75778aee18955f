#include "base/kernels/matmul.h"

#include <doctest/doctest.h>

#include <utility>

#include "base/blocks.h"
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

namespace {

DeviceTensor stored(const std::vector<float>& values, Shape shape, DType dtype) {
  if (dtype == DType::f32) return DeviceTensor(values, std::move(shape));
  std::vector<std::uint16_t> half;
  for (const float value : values) half.push_back(bf16_of_float(value));
  return DeviceTensor(dtype, std::move(shape), half.data());
}

std::vector<float> read_as_float(const DeviceTensor& tensor) {
  const View view = tensor;
  if (view.dtype == DType::f32) return tensor.read();
  std::vector<float> values;
  for (const std::uint16_t half : tensor.read<std::uint16_t>()) values.push_back(float_of_bf16(half));
  return values;
}

std::vector<float> rounded(std::vector<float> values) {
  for (float& value : values) value = float_of_bf16(bf16_of_float(value));
  return values;
}

double activated(Activation activation, double x) {
  switch (activation) {
    case Activation::none:
      return x;
    case Activation::relu:
      return std::max(x, 0.0);
    case Activation::gelu_tanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::gelu:
      return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
  }
  return x;
}

}  // namespace

TEST_CASE("bf16 storage, shared matrices, bias and activations in the product") {
  struct Storage {
    DType a, b, c;
  };
  for (const Storage& storage : std::vector<Storage>{{DType::f32, DType::f32, DType::f32},
                                                     {DType::bf16, DType::bf16, DType::bf16},
                                                     {DType::bf16, DType::bf16, DType::f32},
                                                     {DType::bf16, DType::f32, DType::bf16},
                                                     {DType::f32, DType::bf16, DType::f32}})
    for (const std::int64_t n : {5, 16})
      for (const auto& [batches_a, batches_b] : std::vector<std::pair<std::int64_t, std::int64_t>>{{1, 1}, {3, 3}, {1, 3}, {3, 1}})
        for (const Activation activation : {Activation::none, Activation::relu, Activation::gelu_tanh, Activation::gelu})
          for (const bool kept : {false, true}) {
            const std::int64_t m = 7, k = 24, batches = std::max(batches_a, batches_b);
            const bool narrow = storage.a == DType::bf16 || storage.b == DType::bf16, narrow_result = storage.c == DType::bf16,
                       with_bias = n == 5 || kept, accumulate = activation == Activation::none && !kept && n == 16;
            std::vector<float> a = random_floats(batches_a * m * k, 1), b = random_floats(batches_b * k * n, 2),
                               old = random_floats(batches * m * n, 3), bias = rounded(random_floats(n, 4));
            if (narrow) a = rounded(a), b = rounded(b);
            if (narrow_result) old = rounded(old);
            const DeviceTensor at = stored(a, {batches_a, m, k}, storage.a), bt = stored(b, {batches_b, k, n}, storage.b),
                               c = stored(old, {batches, m, n}, storage.c), z = DeviceTensor::output({batches, m, n}, storage.c),
                               biases(bias, {n});
            MatMul args{1, false, false, accumulate, at, bt, c};
            if (with_bias) args.bias = biases;
            args.activation = activation;
            if (kept) args.before_activation = z;
            launch(args);
            std::vector<double> argument(old.size()), expected(old.size());
            for (std::int64_t batch = 0; batch < batches; ++batch)
              for (std::int64_t i = 0; i < m; ++i)
                for (std::int64_t j = 0; j < n; ++j) {
                  const std::int64_t to = (batch * m + i) * n + j;
                  double sum = (with_bias ? bias[j] : 0.0) + (accumulate ? old[to] : 0.0);
                  for (std::int64_t l = 0; l < k; ++l)
                    sum += static_cast<double>(a[(batch % batches_a * m + i) * k + l]) * b[(batch % batches_b * k + l) * n + j];
                  argument[to] = sum;
                  expected[to] = activated(activation, sum);
                }
            // A kept argument is rounded before the activation where that is a pass of its own.
            check_close(read_as_float(c), expected, static_cast<double>(k), narrow_result ? 0x1p-9 : 0x1p-23);
            if (kept) check_close(read_as_float(z), argument, static_cast<double>(k), narrow_result ? 0x1p-10 : 0x1p-23);
          }
}

TEST_CASE("no products to add: bias and activation alone") {
  const DeviceTensor a(std::vector<float>{}, {2, 0}), b(std::vector<float>{}, {0, 8}), bias(random_floats(8, 1), {8}),
      c = DeviceTensor::output({2, 8});
  MatMul args{1, false, false, false, a, b, c};
  args.bias = bias;
  args.activation = Activation::gelu_tanh;
  launch(args);
  std::vector<double> expected;
  for (int row = 0; row < 2; ++row)
    for (const float value : bias.read()) expected.push_back(activated(Activation::gelu_tanh, value));
  check_close(c.read(), expected);
}

TEST_CASE("matmul refuses mixed ranks and f64") {
  const DeviceTensor a(std::vector<float>(8), {2, 2, 2}), b(std::vector<float>(4), {2, 2}), d(std::vector<double>(4), {2, 2});
  CHECK_THROWS_AS(cuda::run(MatMul{1, false, false, false, a, b, b}, stream()), ShapeError);
  CHECK_THROWS_AS(cuda::run(MatMul{1, false, false, false, d, d, d}, stream()), Error);
}
