#include "engine/ops/batch_norm.h"

#include <cmath>

#include "tests/ops/op_cases.h"

using namespace expctr;
using namespace expctr::test;

namespace {

constexpr double epsilon = 1e-3, momentum = 0.25;

struct Statistics {
  std::vector<double> mean, variance;  // per column, biased
};

Statistics column_statistics(const Operand& x) {
  const std::int64_t rows = x.shape[0], width = x.shape[1];
  const double n = static_cast<double>(rows);
  Statistics s{std::vector<double>(static_cast<std::size_t>(width)), std::vector<double>(static_cast<std::size_t>(width))};
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < width; ++c) s.mean[c] += x.values[r * width + c] / n;
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < width; ++c) s.variance[c] += std::pow(x.values[r * width + c] - s.mean[c], 2) / n;
  return s;
}

/// Operands: x, running mean, running variance, then gain and bias where the case has them.
std::vector<double> plain_batch_norm(std::span<const Operand> in, bool training, bool gain, bool bias) {
  const std::int64_t width = in[0].shape[1];
  const Statistics s = training && in[0].shape[0] > 0 ? column_statistics(in[0]) : Statistics{in[1].values, in[2].values};
  std::vector<double> y;
  for (std::size_t at = 0; at < in[0].values.size(); ++at) {
    const std::size_t c = at % static_cast<std::size_t>(width);
    const double n = (in[0].values[at] - s.mean[c]) / std::sqrt(s.variance[c] + epsilon);
    y.push_back((gain ? in[3].values[c] : 1.0) * n + (bias ? in[gain ? 4 : 3].values[c] : 0.0));
  }
  return y;
}

Tensor batch_norm_of(std::span<const Tensor> in, bool training, bool gain, bool bias, std::pair<Tensor, Tensor>* moved = nullptr) {
  const Tensor mean = in[1].clone(), variance = in[2].clone();
  Tensor y = batch_norm(in[0], gain ? in[3] : Tensor(), bias ? in[gain ? 4 : 3] : Tensor(), mean, variance, {training, epsilon, momentum});
  if (moved != nullptr) *moved = {mean, variance};
  return y;
}

}  // namespace

OP_CASES(batch_norm) {
  for (const bool training : {true, false}) {
    for (const auto& [rows, width] : {std::pair{1, 3}, {2, 1}, {3, 7}, {0, 8}, {77, 36}, {1500, 5}, {700, 80}, {33, 130}}) {
      const std::string label = std::string(training ? "training " : "evaluation ") + Shape{rows, width}.text();
      std::vector<Operand> operands = {uniform({rows, width}, 1.0, 3.0), parameter(constant(uniform({width}, -0.5, 0.5, 3))),
                                       parameter(constant(uniform({width}, 0.25, 1.0, 4)))};
      for (const auto& [gain, bias] : {std::pair{true, true}, {false, false}, {true, false}, {false, true}}) {
        if (gain != bias && rows != 77) continue;
        std::vector<Operand> all = operands;
        if (gain) all.push_back(parameter(uniform({width}, 0.5, 1.5, 5)));
        if (bias) all.push_back(parameter(uniform({width}, -1.0, 1.0, 6)));
        add_case(
            label + (gain ? " gain" : "") + (bias ? " bias" : ""), all,
            [=](std::span<const Tensor> in) { return batch_norm_of(in, training, gain, bias); },
            [=](std::span<const Operand> in) { return plain_batch_norm(in, training, gain, bias); }, std::max(rows, 1))
            .magnitude = rows == 1 ? 2.0 / std::sqrt(epsilon) : 8.0;  // one row: (x - mean) is 0, the rest of numbers of size 2
      }
      if (rows == 0) continue;
      operands[0].differentiable = false;
      for (const bool variance : {false, true}) {
        add_case(
            label + (variance ? ", running variance" : ", running mean"), operands,
            [=](std::span<const Tensor> in) {
              std::pair<Tensor, Tensor> moved;
              batch_norm_of(in, training, false, false, &moved);
              return variance ? moved.second : moved.first;
            },
            [=](std::span<const Operand> in) {
              const Statistics s = column_statistics(in[0]);
              const double n = static_cast<double>(in[0].shape[0]);
              std::vector<double> running = variance ? in[2].values : in[1].values;
              for (std::size_t c = 0; training && c < running.size(); ++c) {
                if (variance && n > 1.0) running[c] = (1.0 - momentum) * running[c] + momentum * s.variance[c] * n / (n - 1.0);
                if (!variance) running[c] = (1.0 - momentum) * running[c] + momentum * s.mean[c];
              }
              return running;
            },
            rows);
      }
    }
  }
  // A large mean beside a small spread: squares of x would cancel.
  add_case(
      "mean 1000, deviation 1", {uniform({900, 12}, 998.0, 1002.0), parameter(constant(uniform({12}))), parameter(constant(uniform({12}, 0.25, 1.0, 4)))},
      [](std::span<const Tensor> in) { return batch_norm_of(in, true, false, false); },
      [](std::span<const Operand> in) { return plain_batch_norm(in, true, false, false); })
      .magnitude = 1000.0;
  add_error(
      [] {
        batch_norm(Tensor::zeros({3, 7}), Tensor::zeros({6}), {}, Tensor::zeros({7}), Tensor::zeros({7}), {});
      },
      "batch_norm: gain is [6], expected [7]");
  add_error(
      [] {
        batch_norm(Tensor::zeros({3, 7}), {}, {}, Tensor::zeros({7}), Tensor::zeros({7}, DType::f64), {});
      },
      "batch_norm: running_variance is f64 on cpu, x is f32 on cpu");
  add_error([] { batch_norm(Tensor::zeros({3}), {}, {}, Tensor::zeros({3}), Tensor::zeros({3}), {}); },
            "batch_norm: x is [3], expected 2 axes");
}
