#include "engine/ops/matmul.h"

#include "tests/ops/op_cases.h"

using namespace expctr;
using namespace expctr::test;

namespace {

std::vector<double> plain_matmul(const Operand& a, const Operand& b, bool transpose_a, bool transpose_b, double alpha) {
  const std::int64_t batch = a.shape.rank() == 3 ? a.shape[0] : 1;
  const std::int64_t m = transpose_a ? a.shape[-1] : a.shape[-2], k = transpose_a ? a.shape[-2] : a.shape[-1],
                     n = transpose_b ? b.shape[-2] : b.shape[-1];
  std::vector<double> y;
  for (std::int64_t s = 0; s < batch; ++s)
    for (std::int64_t i = 0; i < m; ++i)
      for (std::int64_t j = 0; j < n; ++j) {
        double sum = 0.0;
        for (std::int64_t l = 0; l < k; ++l)
          sum += a.values[s * m * k + (transpose_a ? l * m + i : i * k + l)] * b.values[s * k * n + (transpose_b ? j * k + l : l * n + j)];
        y.push_back(alpha * sum);
      }
  return y;
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
  add_error([] { matmul(Tensor::zeros({2, 3}), Tensor::zeros({4, 2})); }, "matmul: [2, 3] times [4, 2]");
  add_error([] { matmul(Tensor::zeros({2, 3}), Tensor::zeros({4, 3}), true, true); }, "matmul: [2, 3]^T times [4, 3]^T");
  add_error([] { matmul(Tensor::zeros({2, 2, 3}), Tensor::zeros({3, 3, 2})); }, "matmul: [2, 2, 3] times [3, 3, 2]");
  add_error([] { matmul(Tensor::zeros({2, 3}), Tensor::zeros({3, 2}, DType::f64)); }, "matmul: f32 on cpu meets f64 on cpu");
}
