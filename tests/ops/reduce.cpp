#include "engine/ops/reduce.h"

#include <cmath>

#include "tests/ops/op_cases.h"

using namespace expctr;
using namespace expctr::test;

namespace {

std::vector<double> plain_sum(const Operand& x, int axis, double scale) {
  std::int64_t outer = 1, inner = 1;
  for (int i = 0; i < axis; ++i) outer *= x.shape[i];
  for (int i = axis + 1; i < x.shape.rank(); ++i) inner *= x.shape[i];
  const std::int64_t n = x.shape[axis];
  std::vector<double> y(static_cast<std::size_t>(outer * inner));
  for (std::int64_t o = 0; o < outer; ++o)
    for (std::int64_t k = 0; k < n; ++k)
      for (std::int64_t i = 0; i < inner; ++i) y[o * inner + i] += scale * x.values[(o * n + k) * inner + i];
  return y;
}

}  // namespace

OP_CASES(sum) {
  const std::pair<Shape, int> cases[] = {{Shape{1}, 0},       {Shape{7}, 0},          {Shape{0, 3}, 0},         {Shape{0, 3}, 1},
                                         {Shape{3, 0, 2}, 1}, {Shape{5, 3}, 0},       {Shape{5, 3}, 1},         {Shape{3, 5, 7}, 0},
                                         {Shape{3, 5, 7}, 1}, {Shape{3, 5, 7}, 2},    {Shape{131, 67}, 0},      {Shape{131, 67}, 1},
                                         {Shape{5001}, 0},    {Shape{2, 4099, 3}, 1}, {Shape{2, 3, 2, 3, 2}, 3}};
  for (const auto& [shape, axis] : cases) {
    add_case(
        "axis " + std::to_string(axis) + " of " + shape.text(), {uniform(shape)},
        [axis](std::span<const Tensor> in) { return sum(in[0], axis, 0.75); },
        [axis](std::span<const Operand> in) { return plain_sum(in[0], axis, 0.75); }, shape[axis]);
  }
  add_case(
      "last axis of [3, 4]", {uniform({3, 4})}, [](std::span<const Tensor> in) { return sum(in[0], -1); },
      [](std::span<const Operand> in) { return plain_sum(in[0], 1, 1.0); }, 4);
  for (const Shape& shape : {Shape{1}, Shape{2, 0}, Shape{13, 7}, Shape{91, 101}}) {
    add_case(
        "mean of all " + shape.text(), {uniform(shape)}, [](std::span<const Tensor> in) { return mean_all(in[0]); },
        [](std::span<const Operand> in) {
          double total = 0.0;
          for (const double x : in[0].values) total += x;
          return std::vector<double>{in[0].values.empty() ? 0.0 : total / static_cast<double>(in[0].values.size())};
        })
        .magnitude = 1.0 / std::sqrt(static_cast<double>(std::max<std::int64_t>(shape.size(), 1)));
  }
  add_error([] { sum(Tensor::zeros({2, 3}), 2); }, "sum: axis 2 of [2, 3]");
  add_error([] { sum(Tensor::zeros({2, 3}), -3); }, "sum: axis -3 of [2, 3]");
}

OP_CASES(segment_mean) {
  struct Case {
    std::int64_t rows, width;
    std::vector<std::int32_t> offsets;
  };
  const Case cases[] = {{1, 1, {0, 1}},
                        {0, 3, {0, 0, 0}},
                        {4, 3, {0}},
                        {7, 5, {1, 1, 4, 6}},  // an empty segment, and rows outside all of them
                        {131, 67, {0, 1, 90, 90, 131}}};
  for (const Case& c : cases) {
    const std::int64_t segments = static_cast<std::int64_t>(c.offsets.size()) - 1;
    add_case(
        Shape{c.rows, c.width}.text() + " into " + std::to_string(segments),
        {uniform({c.rows, c.width}), integers({segments + 1}, c.offsets)},
        [](std::span<const Tensor> in) { return segment_mean(in[0], in[1]); },
        [](std::span<const Operand> in) {
          const std::int64_t width = in[0].shape[1];
          std::vector<double> y((in[1].ids.size() - 1) * static_cast<std::size_t>(width));
          for (std::size_t s = 0; s + 1 < in[1].ids.size(); ++s) {
            const double n = in[1].ids[s + 1] - in[1].ids[s];
            for (std::int64_t r = in[1].ids[s]; r < in[1].ids[s + 1]; ++r)
              for (std::int64_t i = 0; i < width; ++i) y[s * static_cast<std::size_t>(width) + i] += in[0].values[r * width + i] / n;
          }
          return y;
        },
        c.rows);
  }
  add_error([] { segment_mean(Tensor::zeros({6}), Tensor::zeros({2}, DType::i32)); }, "segment_mean: x is [6], expected 2 axes");
  add_error(
      [] {
        segment_mean(Tensor::zeros({6, 2}), Tensor::of(std::vector<std::int32_t>{0, 7}, {2}));
      },
      "segment_mean: offsets must ascend within [0, 6]");
}

OP_CASES(global_norm) {
  for (const auto& [first, second] : {std::pair{Shape{1}, Shape{0, 3}}, {Shape{7}, Shape{2, 3}}, {Shape{91, 101}, Shape{4097}}}) {
    add_case(
        first.text() + " " + second.text(), {constant(uniform(first)), constant(uniform(second, -1.0, 1.0, 2))},
        [](std::span<const Tensor> in) { return Tensor::of(std::vector<double>{global_norm(in)}, {1}); },
        [](std::span<const Operand> in) {
          double squares = 0.0;
          for (const Operand& operand : in)
            for (const double x : operand.values) squares += x * x;
          return std::vector<double>{std::sqrt(squares)};
        });
  }
  add_error([] { global_norm(std::vector<Tensor>{Tensor::zeros({3}, DType::i32)}); },
            "squared_norm: operands must have one dtype, f32 or f64; tensor i32 [3]");
}
