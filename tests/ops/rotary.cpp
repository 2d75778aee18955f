#include "engine/ops/rotary.h"

#include <cmath>

#include "tests/ops/op_cases.h"

using namespace expctr;
using namespace expctr::test;

namespace {

Operand angle_table(std::int64_t positions, std::int64_t head_dim) {
  Operand table;
  table.shape = {positions, head_dim};
  for (std::int64_t p = 0; p < positions; ++p) {
    for (std::int64_t i = 0; i < head_dim; ++i) {
      const std::int64_t pair = i % (head_dim / 2);
      const double angle = static_cast<double>(p) * std::pow(10000.0, -2.0 * static_cast<double>(pair) / static_cast<double>(head_dim));
      table.values.push_back(i < head_dim / 2 ? std::cos(angle) : std::sin(angle));
    }
  }
  return parameter(constant(table));
}

/// As a product of complex numbers: (x_i + i x_j) (cos + i sin).
std::vector<double> plain_rotary(const Operand& x, const std::vector<std::int32_t>& positions, const Operand& table) {
  const std::int64_t width = x.shape[1], head_dim = table.shape[1], half = head_dim / 2;
  std::vector<double> y(x.values.size());
  for (std::size_t t = 0; t < positions.size(); ++t) {
    const double* turn = table.values.data() + positions[t] * head_dim;
    for (std::int64_t head = 0; head < width / head_dim; ++head) {
      const std::int64_t at = static_cast<std::int64_t>(t) * width + head * head_dim;
      for (std::int64_t i = 0; i < half; ++i) {
        y[at + i] = x.values[at + i] * turn[i] - x.values[at + half + i] * turn[half + i];
        y[at + half + i] = x.values[at + half + i] * turn[i] + x.values[at + i] * turn[half + i];
      }
    }
  }
  return y;
}

}  // namespace

OP_CASES(rotary) {
  struct Case {
    std::int64_t tokens, heads, head_dim;
  };
  for (const Case& c : {Case{1, 1, 2}, Case{0, 2, 4}, Case{3, 2, 6}, Case{5, 3, 64}, Case{67, 1, 10}}) {
    std::vector<std::int32_t> positions;
    for (std::int64_t t = 0; t < c.tokens; ++t) positions.push_back(static_cast<std::int32_t>((t * 5 + 2) % 19));
    add_case(
        Shape{c.tokens, c.heads * c.head_dim}.text() + ", heads of " + std::to_string(c.head_dim),
        {uniform({c.tokens, c.heads * c.head_dim}), integers({c.tokens}, positions), angle_table(19, c.head_dim)},
        [](std::span<const Tensor> in) { return rotary(in[0], in[1], in[2]); },
        [](std::span<const Operand> in) { return plain_rotary(in[0], in[1].ids, in[2]); });
  }
  add_error(
      [] {
        rotary(Tensor::zeros({2, 6}), Tensor::zeros({3}, DType::i32), Tensor::zeros({4, 2}));
      },
      "rotary: positions is [3], expected [2]");
  add_error(
      [] {
        rotary(Tensor::zeros({2, 6}), Tensor::zeros({2}, DType::i32), Tensor::zeros({4, 4}));
      },
      "rotary: x is [2, 6], the table [4, 4]");
}
