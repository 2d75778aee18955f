#include "engine/ops/norm.h"

#include <doctest/doctest.h>

#include <cmath>

#include "tests/ops/op_cases.h"

using namespace expctr;
using namespace expctr::test;

OP_CASES(rms_norm) {
  for (const auto& [rows, width] : {std::pair{1, 1}, {3, 7}, {0, 8}, {5, 576}, {33, 130}}) {
    add_case(
        Shape{rows, width}.text(), {uniform({rows, width}), parameter(uniform({width}, 0.5, 1.5, 2))},
        [](std::span<const Tensor> in) { return rms_norm(in[0], in[1], 1e-5); },
        [](std::span<const Operand> in) {
          const std::int64_t rows = in[0].shape[0], width = in[0].shape[1];
          std::vector<double> y;
          for (std::int64_t r = 0; r < rows; ++r) {
            double square = 0.0;
            for (std::int64_t i = 0; i < width; ++i) square += in[0].values[r * width + i] * in[0].values[r * width + i];
            const double rms = std::sqrt(square / static_cast<double>(width) + 1e-5);
            for (std::int64_t i = 0; i < width; ++i) y.push_back(in[1].values[i] * in[0].values[r * width + i] / rms);
          }
          return y;
        },
        std::max(rows, width))
        .magnitude = 1.0;
  }
  add_error([] { rms_norm(Tensor::zeros({3, 7}), Tensor::zeros({6}), 1e-5); }, "rms_norm: gain is [6], expected [7]");
}

OP_CASES(layer_norm) {
  for (const auto& [rows, width] : {std::pair{1, 2}, {3, 7}, {0, 8}, {5, 384}, {33, 130}}) {
    add_case(
        Shape{rows, width}.text(), {uniform({rows, width}, -1.0, 2.0), parameter(uniform({width}, 0.5, 1.5, 2)), parameter(uniform({width}, -1.0, 1.0, 3))},
        [](std::span<const Tensor> in) { return layer_norm(in[0], in[1], in[2], 1e-5); },
        [](std::span<const Operand> in) {
          const std::int64_t rows = in[0].shape[0], width = in[0].shape[1];
          const double n = static_cast<double>(width);
          std::vector<double> y;
          for (std::int64_t r = 0; r < rows; ++r) {
            const double* x = in[0].values.data() + r * width;
            double mean = 0.0, variance = 0.0;
            for (std::int64_t i = 0; i < width; ++i) mean += x[i] / n;
            for (std::int64_t i = 0; i < width; ++i) variance += (x[i] - mean) * (x[i] - mean) / n;
            for (std::int64_t i = 0; i < width; ++i)
              y.push_back(in[1].values[i] * (x[i] - mean) / std::sqrt(variance + 1e-5) + in[2].values[i]);
          }
          return y;
        },
        std::max(rows, width))
        .magnitude = 4.0;  // of two columns only: a gradient that is the small rest of large terms
  }
  add_error(
      [] {
        layer_norm(Tensor::zeros({3, 7}), Tensor::zeros({7}), Tensor::zeros({6}), 1e-5);
      },
      "layer_norm: bias is [6], expected [7]");
}

namespace {

struct Statistics {
  std::vector<double> mean, variance;  // per column, biased
};

Statistics column_statistics(const Operand& x) {
  const std::int64_t rows = x.shape[0], width = x.shape[1];
  Statistics s{std::vector<double>(static_cast<std::size_t>(width)), std::vector<double>(static_cast<std::size_t>(width))};
  const double n = static_cast<double>(rows);
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t i = 0; i < width; ++i) s.mean[i] += x.values[r * width + i] / n;
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t i = 0; i < width; ++i)
      s.variance[i] += (x.values[r * width + i] - s.mean[i]) * (x.values[r * width + i] - s.mean[i]) / n;
  return s;
}

constexpr double dice_epsilon = 1e-3, dice_momentum = 0.25;

/// Operands: x, alpha, running mean, running variance.
std::vector<double> plain_dice(std::span<const Operand> in, bool training) {
  const std::int64_t width = in[0].shape[1];
  const Statistics s = training ? column_statistics(in[0]) : Statistics{in[2].values, in[3].values};
  std::vector<double> y;
  for (std::size_t at = 0; at < in[0].values.size(); ++at) {
    const std::size_t i = at % static_cast<std::size_t>(width);
    const double x = in[0].values[at], p = 1.0 / (1.0 + std::exp(-(x - s.mean[i]) / std::sqrt(s.variance[i] + dice_epsilon)));
    y.push_back(p * x + in[1].values[i] * (1.0 - p) * x);
  }
  return y;
}

/// Dice of the operands; the running statistics are moved in copies, which come back through `moved`.
Tensor dice_of(std::span<const Tensor> in, bool training, std::pair<Tensor, Tensor>* moved = nullptr) {
  const Tensor mean = in[2].clone(), variance = in[3].clone();
  Tensor y = dice(in[0], in[1], mean, variance, training, dice_epsilon, dice_momentum);
  if (moved != nullptr) *moved = {mean, variance};
  return y;
}

}  // namespace

OP_CASES(dice) {
  for (const bool training : {true, false}) {
    for (const auto& [rows, width] : {std::pair{2, 1}, {3, 7}, {0, 8}, {77, 36}, {33, 130}}) {
      const std::vector<Operand> operands = {uniform({rows, width}), parameter(uniform({width}, 0.1, 0.5, 2)),
                                             parameter(constant(uniform({width}, -0.5, 0.5, 3))),
                                             parameter(constant(uniform({width}, 0.25, 1.0, 4)))};
      const std::string label = std::string(training ? "training " : "evaluation ") + Shape{rows, width}.text();
      add_case(
          label, operands, [training](std::span<const Tensor> in) { return dice_of(in, training); },
          [training](std::span<const Operand> in) { return plain_dice(in, training); }, rows)
          .magnitude = 4.0;
      if (rows == 0) continue;
      std::vector<Operand> constants;
      for (const Operand& operand : operands) constants.push_back(constant(operand));
      add_case(
          label + ", running mean", constants,
          [training](std::span<const Tensor> in) {
            std::pair<Tensor, Tensor> moved;
            dice_of(in, training, &moved);
            return moved.first;
          },
          [training](std::span<const Operand> in) {
            std::vector<double> mean = in[2].values;
            const Statistics s = column_statistics(in[0]);
            for (std::size_t i = 0; training && i < mean.size(); ++i) mean[i] = (1.0 - dice_momentum) * mean[i] + dice_momentum * s.mean[i];
            return mean;
          },
          rows);
      add_case(
          label + ", running variance", constants,
          [training](std::span<const Tensor> in) {
            std::pair<Tensor, Tensor> moved;
            dice_of(in, training, &moved);
            return moved.second;
          },
          [training](std::span<const Operand> in) {
            std::vector<double> variance = in[3].values;
            const Statistics s = column_statistics(in[0]);
            const double n = static_cast<double>(in[0].shape[0]);
            for (std::size_t i = 0; training && i < variance.size(); ++i)
              variance[i] = (1.0 - dice_momentum) * variance[i] + dice_momentum * s.variance[i] * n / (n - 1.0);
            return variance;
          },
          rows);
    }
  }
  add_error(
      [] {
        dice(Tensor::zeros({3, 7}), Tensor::zeros({6}), Tensor::zeros({7}), Tensor::zeros({7}), true);
      },
      "dice: alpha is [6], expected [7]");
  add_error(
      [] {
        dice(Tensor::zeros({3, 7}), Tensor::zeros({7}), Tensor::zeros({7}), Tensor::zeros({5}), true);
      },
      "dice: running_variance is [5], expected [7]");
}
