#include "engine/ops/matmul.h"

#include <cmath>

#include "tests/ops/op_cases.h"

using namespace expctr;
using namespace expctr::test;

namespace {

std::vector<double> plain_matmul(const Operand& a, const Operand& b, bool transpose_a, bool transpose_b, double alpha) {
  const std::int64_t batches_a = a.shape.rank() == 3 ? a.shape[0] : 1, batches_b = b.shape.rank() == 3 ? b.shape[0] : 1;
  const std::int64_t batch = batches_a == 1 ? batches_b : batches_a;
  const std::int64_t m = transpose_a ? a.shape[-1] : a.shape[-2], k = transpose_a ? a.shape[-2] : a.shape[-1],
                     n = transpose_b ? b.shape[-2] : b.shape[-1];
  std::vector<double> y;
  for (std::int64_t s = 0; s < batch; ++s)
    for (std::int64_t i = 0; i < m; ++i)
      for (std::int64_t j = 0; j < n; ++j) {
        double sum = 0.0;
        for (std::int64_t l = 0; l < k; ++l)
          sum += a.values[(batches_a == 1 ? 0 : s) * m * k + (transpose_a ? l * m + i : i * k + l)] * b.values[(batches_b == 1 ? 0 : s) * k * n + (transpose_b ? j * k + l : l * n + j)];
        y.push_back(alpha * sum);
      }
  return y;
}

double activated(Activation activation, double x) {
  switch (activation) {
    case Activation::none: return x;
    case Activation::relu: return x > 0.0 ? x : 0.0;
    case Activation::gelu_tanh: return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::gelu: return 0.5 * x * (1.0 + std::erf(x / std::sqrt(2.0)));
  }
  return x;
}

}  // namespace

OP_CASES(matmul) {
  struct Case {
    std::int64_t batch, m, k, n;  // batch 0: rank 2
  };
  const Case cases[] = {{0, 1, 1, 1},    {0, 0, 3, 2},    {0, 3, 0, 2}, {0, 3, 5, 0}, {0, 3, 5, 7},   {0, 1, 67, 33}, {0, 33, 17, 1},
                        {0, 37, 65, 41}, {0, 16, 16, 16}, {1, 2, 3, 4}, {3, 5, 7, 2}, {2, 33, 9, 18}, {3, 0, 4, 2}};
  for (const Case& c : cases) {
    for (const bool transpose_a : {false, true}) {
      for (const bool transpose_b : {false, true}) {
        const std::int64_t a0 = transpose_a ? c.k : c.m, a1 = transpose_a ? c.m : c.k, b0 = transpose_b ? c.n : c.k,
                           b1 = transpose_b ? c.k : c.n;
        const Shape a = c.batch == 0 ? Shape{a0, a1} : Shape{c.batch, a0, a1}, b = c.batch == 0 ? Shape{b0, b1} : Shape{c.batch, b0, b1};
        const double alpha = c.k == 7 ? -0.625 : 1.0;
        add_case(
            a.text() + (transpose_a ? "^T " : " ") + b.text() + (transpose_b ? "^T" : ""), {uniform(a), uniform(b, -1.0, 1.0, 2)},
            [=](std::span<const Tensor> in) { return matmul(in[0], in[1], transpose_a, transpose_b, alpha); },
            [=](std::span<const Operand> in) { return plain_matmul(in[0], in[1], transpose_a, transpose_b, alpha); },
            std::max({c.m, c.k, c.n}));
      }
    }
  }
  add_case(
      "frozen a", {constant(uniform({3, 5})), uniform({5, 4}, -1.0, 1.0, 2)},
      [](std::span<const Tensor> in) { return matmul(in[0], in[1]); },
      [](std::span<const Operand> in) { return plain_matmul(in[0], in[1], false, false, 1.0); }, 5);
  // A matrix that the batches share: rank 2, or a first extent of 1.
  for (const bool transpose_a : {false, true})
    for (const bool transpose_b : {false, true})
      for (const auto& [batches_a, batches_b] : {std::array<std::int64_t, 2>{0, 3}, {3, 0}, {1, 3}, {3, 1}}) {
        const std::int64_t m = 4, k = 5, n = 3, a0 = transpose_a ? k : m, a1 = transpose_a ? m : k, b0 = transpose_b ? n : k, b1 = transpose_b ? k : n;
        const Shape a = batches_a == 0 ? Shape{a0, a1} : Shape{batches_a, a0, a1}, b = batches_b == 0 ? Shape{b0, b1} : Shape{batches_b, b0, b1};
        add_case(
            "shared " + a.text() + (transpose_a ? "^T " : " ") + b.text() + (transpose_b ? "^T" : ""), {uniform(a), uniform(b, -1.0, 1.0, 2)},
            [=](std::span<const Tensor> in) { return matmul(in[0], in[1], transpose_a, transpose_b); },
            [=](std::span<const Operand> in) { return plain_matmul(in[0], in[1], transpose_a, transpose_b, 1.0); }, 3 * k);
      }
  for (const Activation activation : {Activation::none, Activation::relu, Activation::gelu_tanh, Activation::gelu})
    for (const auto& [m, k, n] : {std::array<std::int64_t, 3>{1, 1, 1}, {0, 3, 2}, {5, 7, 3}, {9, 6, 16}})
      for (const bool with_bias : {false, true}) {
        add_case(
            "activation " + std::to_string(static_cast<int>(activation)) + (with_bias ? " with bias " : " ") + Shape{m, k, n}.text(),
            {uniform({m, k}), uniform({n, k}, -1.0, 1.0, 2), parameter(uniform({n}, -1.0, 1.0, 3))},
            [=](std::span<const Tensor> in) { return matmul_bias(in[0], in[1], with_bias ? in[2] : Tensor(), activation, false, true); },
            [=](std::span<const Operand> in) {
              std::vector<double> y = plain_matmul(in[0], in[1], false, true, 1.0);
              for (std::size_t i = 0; i < y.size(); ++i)
                y[i] = activated(activation, y[i] + (with_bias ? in[2].values[i % static_cast<std::size_t>(n)] : 0.0));
              return y;
            },
            std::max({m, k, n}));
      }
  add_case(
      "bias, batches times one matrix", {uniform({2, 3, 4}), uniform({4, 5}, -1.0, 1.0, 2), parameter(uniform({5}, -1.0, 1.0, 3))},
      [](std::span<const Tensor> in) { return matmul_bias(in[0], in[1], in[2], Activation::gelu_tanh); },
      [](std::span<const Operand> in) {
        std::vector<double> y = plain_matmul(in[0], in[1], false, false, 1.0);
        for (std::size_t i = 0; i < y.size(); ++i) y[i] = activated(Activation::gelu_tanh, y[i] + in[2].values[i % 5]);
        return y;
      },
      6);
  add_error([] { matmul_bias(Tensor::zeros({2, 3}), Tensor::zeros({3, 4}), Tensor::zeros({3})); }, "matmul_bias: bias is [3], expected [4]");
  add_error([] { matmul(Tensor::zeros({2, 3}), Tensor::zeros({4, 2})); }, "matmul: [2, 3] times [4, 2]");
  add_error([] { matmul(Tensor::zeros({2, 3}), Tensor::zeros({4, 3}), true, true); }, "matmul: [2, 3]^T times [4, 3]^T");
  add_error([] { matmul(Tensor::zeros({2, 2, 3}), Tensor::zeros({3, 3, 2})); }, "matmul: [2, 2, 3] times [3, 3, 2]");
  add_error([] { matmul(Tensor::zeros({2, 3}), Tensor::zeros({3, 2}, DType::f64)); }, "matmul: f32 on cpu meets f64 on cpu");
}
