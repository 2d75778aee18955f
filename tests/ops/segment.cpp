#include "engine/ops/segment.h"

#include <cmath>

#include "tests/ops/op_cases.h"

using namespace expctr;
using namespace expctr::test;

namespace {

struct Case {
  std::int64_t rows, width;
  std::vector<std::int32_t> offsets;
};
const std::vector<Case> cases = {{1, 1, {0, 1}},
                                 {0, 3, {0, 0, 0}},
                                 {4, 3, {0}},
                                 {7, 5, {1, 1, 4, 6}},  // an empty segment, and rows outside all of them
                                 {50, 8, {0, 3, 3, 20, 50}},
                                 {131, 67, {0, 1, 90, 90, 131}},
                                 {131, 136, {0, 1, 90, 90, 131}}};

/// Largest value and its row, -1 for none.
std::pair<double, std::int32_t> plain_maximum(const Operand& x, std::int32_t begin, std::int32_t end, std::int64_t column) {
  std::pair<double, std::int32_t> best{0.0, -1};
  for (std::int32_t r = begin; r < end; ++r)
    if (const double value = x.values[r * x.shape[1] + column]; best.second < 0 || value > best.first) best = {value, r};
  return best;
}

std::string label(const Case& c) { return Shape{c.rows, c.width}.text() + " into " + std::to_string(c.offsets.size() - 1); }

}  // namespace

OP_CASES(segment_sum) {
  for (const Case& c : cases) {
    add_case(
        label(c), {uniform({c.rows, c.width}), integers({static_cast<std::int64_t>(c.offsets.size())}, c.offsets)},
        [](std::span<const Tensor> in) { return segment_sum(in[0], in[1]); },
        [](std::span<const Operand> in) {
          const std::int64_t width = in[0].shape[1];
          std::vector<double> y((in[1].ids.size() - 1) * static_cast<std::size_t>(width));
          for (std::size_t s = 0; s + 1 < in[1].ids.size(); ++s)
            for (std::int64_t r = in[1].ids[s]; r < in[1].ids[s + 1]; ++r)
              for (std::int64_t i = 0; i < width; ++i) y[s * static_cast<std::size_t>(width) + i] += in[0].values[r * width + i];
          return y;
        },
        std::max<std::int64_t>(c.rows, 1));
  }
  add_error([] { segment_sum(Tensor::zeros({6}), Tensor::zeros({2}, DType::i32)); }, "segment_sum: x is [6], expected 2 axes");
  add_error([] { segment_sum(Tensor::zeros({6, 2}), Tensor::zeros({0}, DType::i32)); }, "segment_sum: no offsets");
  add_error(
      [] {
        segment_sum(Tensor::zeros({6, 2}), Tensor::of(std::vector<std::int32_t>{0, 7}, {2}));
      },
      "segment_sum: offsets must ascend within [0, 6]");
}

OP_CASES(segment_max) {
  for (const Case& c : cases) {
    const std::vector<Operand> operands = {uniform({c.rows, c.width}), integers({static_cast<std::int64_t>(c.offsets.size())}, c.offsets)};
    add_case(
        label(c), operands, [](std::span<const Tensor> in) { return segment_max(in[0], in[1]).value; },
        [](std::span<const Operand> in) {
          std::vector<double> y;
          for (std::size_t s = 0; s + 1 < in[1].ids.size(); ++s)
            for (std::int64_t i = 0; i < in[0].shape[1]; ++i) y.push_back(plain_maximum(in[0], in[1].ids[s], in[1].ids[s + 1], i).first);
          return y;
        });
    add_case(
        label(c) + ", argument", {constant(operands[0]), operands[1]},
        [](std::span<const Tensor> in) {
          const Tensor argument = segment_max(in[0], in[1]).argument;
          const std::vector<std::int32_t> rows = argument.to_vector<std::int32_t>();
          return Tensor::of(std::vector<float>(rows.begin(), rows.end()), argument.shape());
        },
        [](std::span<const Operand> in) {
          std::vector<double> y;
          for (std::size_t s = 0; s + 1 < in[1].ids.size(); ++s)
            for (std::int64_t i = 0; i < in[0].shape[1]; ++i) y.push_back(plain_maximum(in[0], in[1].ids[s], in[1].ids[s + 1], i).second);
          return y;
        });
  }
  // Of equal rows the first; NaN above all.
  add_case(
      "ties and NaN", {integers({2}, {0, 4})},
      [](std::span<const Tensor> in) {
        const float nan = std::nanf("");
        const Tensor x = Tensor::of(std::vector<float>{1, 2, 0,  // first row
                                                       3, 2, nan, 3, 1, nan, 0, 2, 9},
                                    {4, 3}, in[0].device());
        const std::vector<std::int32_t> rows = segment_max(x, in[0]).argument.to_vector<std::int32_t>();
        return Tensor::of(std::vector<float>(rows.begin(), rows.end()), {3});
      },
      [](std::span<const Operand>) {
        return std::vector<double>{1, 0, 1};
      });
  add_error([] { segment_max(Tensor::zeros({6}), Tensor::zeros({2}, DType::i32)); }, "segment_max: x is [6], expected 2 axes");
}
