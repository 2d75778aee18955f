#include "engine/ops/reduce_extreme.h"

#include <cmath>

#include "tests/ops/op_cases.h"

using namespace expctr;
using namespace expctr::test;

namespace {

const std::pair<Shape, int> cases[] = {{Shape{1}, 0},       {Shape{7}, 0},       {Shape{0, 3}, 1},    {Shape{3, 0, 2}, 0},
                                       {Shape{5, 3}, 0},    {Shape{5, 3}, 1},    {Shape{3, 5, 7}, 0}, {Shape{3, 5, 7}, 1},
                                       {Shape{3, 5, 8}, 1}, {Shape{3, 5, 7}, 2}, {Shape{131, 67}, 0}, {Shape{600, 8}, 0},
                                       {Shape{131, 67}, 1}, {Shape{3, 2052}, 1}, {Shape{5001}, 0},    {Shape{2, 3, 2, 3, 2}, 3}};

struct Plain {
  std::vector<double> value, index;
};

Plain plain_extreme(const Operand& x, int axis, bool maximum) {
  std::int64_t outer = 1, inner = 1;
  for (int i = 0; i < axis; ++i) outer *= x.shape[i];
  for (int i = axis + 1; i < x.shape.rank(); ++i) inner *= x.shape[i];
  const std::int64_t n = x.shape[axis];
  Plain result;
  for (std::int64_t o = 0; o < outer; ++o) {
    for (std::int64_t i = 0; i < inner; ++i) {
      std::int64_t best = 0;
      for (std::int64_t k = 1; k < n; ++k) {
        const double value = x.values[(o * n + k) * inner + i], so_far = x.values[(o * n + best) * inner + i];
        if (maximum ? value > so_far : value < so_far) best = k;
      }
      result.value.push_back(x.values[(o * n + best) * inner + i]);
      result.index.push_back(static_cast<double>(best));
    }
  }
  return result;
}

Tensor as_float(const Tensor& ids) {
  const std::vector<std::int32_t> values = ids.to_vector<std::int32_t>();
  return Tensor::of(std::vector<float>(values.begin(), values.end()), ids.shape());
}

/// Few different values, so that ties are everywhere.
Operand coarse(Operand operand) {
  for (double& value : operand.values) value = std::floor(value * 3.0);
  return constant(operand);
}

void add_extreme_cases(bool maximum) {
  const auto op = maximum ? reduce_max : reduce_min;
  for (const auto& [shape, axis] : cases) {
    const std::string label = "axis " + std::to_string(axis) + " of " + shape.text();
    add_case(
        label, {uniform(shape)}, [=](std::span<const Tensor> in) { return op(in[0], axis).value; },
        [=](std::span<const Operand> in) { return plain_extreme(in[0], axis, maximum).value; });
    add_case(
        label + ", first of equal ones", {coarse(uniform(shape))},
        [=](std::span<const Tensor> in) { return as_float(op(in[0], axis).index); },
        [=](std::span<const Operand> in) { return plain_extreme(in[0], axis, maximum).index; });
  }
  for (const int axis : {0, 1}) {
    add_case(
        "NaN, axis " + std::to_string(axis), {integers({1}, {0})},
        [=](std::span<const Tensor> in) {
          std::vector<float> x(70 * 70, 1.0f);
          for (int i = 0; i < 70; ++i) x[static_cast<std::size_t>(i * 70 + i)] = std::nanf("");  // one in each row and column
          for (int i = 0; i < 70; ++i) x[static_cast<std::size_t>(i * 70 + (i + 5) % 70)] = maximum ? 9.0f : -9.0f;
          return as_float(op(Tensor::of(x, {70, 70}, in[0].device()), axis).index);
        },
        [](std::span<const Operand>) {
          std::vector<double> y;
          for (int i = 0; i < 70; ++i) y.push_back(i);
          return y;
        });
  }
}

}  // namespace

OP_CASES(reduce_max) {
  add_extreme_cases(true);
  add_error([] { reduce_max(Tensor::zeros({2, 3}), 2); }, "reduce_max: axis 2 of [2, 3]");
  add_error([] { reduce_max(Tensor::zeros({2, 0}), 1); }, "reduce_max: axis 1 of [2, 0] is empty");
}

OP_CASES(reduce_min) {
  add_extreme_cases(false);
  add_error([] { reduce_min(Tensor::zeros({2, 3}), -3); }, "reduce_min: axis -3 of [2, 3]");
}

OP_CASES(argmax) {
  for (const auto& [shape, axis] : cases) {
    add_case(
        "axis " + std::to_string(axis) + " of " + shape.text(), {coarse(uniform(shape))},
        [=](std::span<const Tensor> in) { return as_float(argmax(in[0], axis)); },
        [=](std::span<const Operand> in) { return plain_extreme(in[0], axis, true).index; });
  }
  add_error([] { argmax(Tensor::zeros({2, 0})); }, "argmax: axis -1 of [2, 0] is empty");
}

OP_CASES(sum_axes) {
  const Shape shape{3, 4, 5, 2, 3};
  for (const std::vector<int>& axes : {std::vector<int>{0}, {4, 3}, {1, 3}, {0, 1, 2, 3, 4}, {-1, 0, 2}, {2, 3, 1}}) {
    std::string label = "axes";
    for (const int axis : axes) label += " " + std::to_string(axis);
    add_case(
        label, {uniform(shape)}, [axes](std::span<const Tensor> in) { return sum_axes(in[0], axes, 0.5); },
        [axes](std::span<const Operand> in) {
          const Shape& s = in[0].shape;
          std::int64_t outputs = 1;
          bool kept[5] = {true, true, true, true, true};
          for (const int axis : axes) kept[axis < 0 ? axis + 5 : axis] = false;
          for (int a = 0; a < 5; ++a) outputs *= kept[a] ? s[a] : 1;
          std::vector<double> y(static_cast<std::size_t>(outputs));
          for (std::int64_t i = 0; i < s.size(); ++i) {
            std::int64_t rest = i, to = 0, step = 1;
            for (int a = 4; a >= 0; --a) {
              if (kept[a]) {
                to += rest % s[a] * step;
                step *= s[a];
              }
              rest /= s[a];
            }
            y[static_cast<std::size_t>(to)] += 0.5 * in[0].values[static_cast<std::size_t>(i)];
          }
          return y;
        },
        shape.size());
  }
  add_case(
      "mean", {uniform({3, 4, 5})}, [](std::span<const Tensor> in) { return mean(in[0], -2); },
      [](std::span<const Operand> in) {
        std::vector<double> y(15);
        for (std::size_t i = 0; i < 60; ++i) y[i / 20 * 5 + i % 5] += in[0].values[i] / 4.0;
        return y;
      },
      4);
  add_error([] { sum_axes(Tensor::zeros({2, 3}), std::vector<int>{1, -1}); }, "sum_axes: an axis of [2, 3] stands twice");
  add_error([] { sum_axes(Tensor::zeros({2, 3}), {}); }, "sum_axes: no axes");
}
