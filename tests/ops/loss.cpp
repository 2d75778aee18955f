#include "engine/ops/loss.h"

#include <cmath>

#include "tests/ops/op_cases.h"

using namespace expctr;
using namespace expctr::test;

namespace {

double clamped(double x, double low, double high) { return std::min(std::max(x, low), high); }

double surrogate(double now, double old, double advantage, double clip) {
  const double ratio = std::exp(now - old);
  return std::max(-advantage * ratio, -advantage * clamped(ratio, 1.0 - clip, 1.0 + clip));
}

}  // namespace

OP_CASES(log_probability) {
  for (const auto& [rows, classes] : {std::pair{1, 1}, {0, 3}, {3, 5}, {7, 67}, {5, 1031}}) {
    std::vector<std::int32_t> targets;
    for (int r = 0; r < rows; ++r) targets.push_back(r == 2 ? -1 : (r * 7 + 3) % classes);
    add_case(
        Shape{rows, classes}.text(), {uniform({rows, classes}, -3.0, 3.0), integers({rows}, targets)},
        [](std::span<const Tensor> in) { return log_probability(in[0], in[1]); },
        [](std::span<const Operand> in) {
          const std::int64_t classes = in[0].shape[1];
          std::vector<double> y;
          for (std::size_t r = 0; r < in[1].ids.size(); ++r) {
            const double* logits = in[0].values.data() + static_cast<std::int64_t>(r) * classes;
            double sum = 0.0;
            for (std::int64_t i = 0; i < classes; ++i) sum += std::exp(logits[i]);
            y.push_back(in[1].ids[r] < 0 ? 0.0 : logits[in[1].ids[r]] - std::log(sum));
          }
          return y;
        },
        classes)
        .magnitude = 3.0;
  }
  add_error(
      [] {
        log_probability(Tensor::zeros({2, 3}), Tensor::zeros({3}, DType::i32));
      },
      "log_probability: targets is [3], expected [2]");
  add_error(
      [] {
        log_probability(Tensor::zeros({2, 3}), Tensor::of(std::vector<std::int32_t>{0, 3}, {2}));
      },
      "cross_entropy: targets holds 3, but must stay below 3");
}

OP_CASES(bce_with_logits) {
  for (const std::int64_t n : {0, 1, 13, 3001}) {
    add_case(
        std::to_string(n), {uniform({n}, -6.0, 6.0), parameter(constant(uniform({n}, 0.0, 1.0, 2)))},
        [](std::span<const Tensor> in) { return bce_with_logits(in[0], in[1]); },
        [](std::span<const Operand> in) {
          std::vector<double> y;
          for (std::size_t i = 0; i < in[0].values.size(); ++i) {
            // -log p and -log(1 - p) of p = sigmoid(x).
            const double x = in[0].values[i];
            y.push_back(in[1].values[i] * std::log1p(std::exp(-x)) + (1.0 - in[1].values[i]) * std::log1p(std::exp(x)));
          }
          return y;
        })
        .magnitude = 6.0;
  }
  add_error([] { bce_with_logits(Tensor::zeros({3}), Tensor::zeros({4})); }, "bce_with_logits: labels is [4], expected [3]");
}

OP_CASES(policy_loss) {
  for (const std::int64_t n : {0, 1, 13, 3001}) {
    const std::vector<Operand> operands = {parameter(uniform({n}, -1.0, 0.0)), parameter(constant(uniform({n}, -1.0, 0.0, 2))),
                                           parameter(constant(uniform({n}, -2.0, 2.0, 3)))};
    add_case(
        std::to_string(n), operands, [](std::span<const Tensor> in) { return policy_loss(in[0], in[1], in[2], 0.2).loss; },
        [](std::span<const Operand> in) {
          std::vector<double> y;
          for (std::size_t i = 0; i < in[0].values.size(); ++i)
            y.push_back(surrogate(in[0].values[i], in[1].values[i], in[2].values[i], 0.2));
          return y;
        });
    add_case(
        "clipped share of " + std::to_string(n), {constant(operands[0]), operands[1], operands[2]},
        [](std::span<const Tensor> in) { return policy_loss(in[0], in[1], in[2], 0.2).clipped; },
        [](std::span<const Operand> in) {
          std::vector<double> y;
          for (std::size_t i = 0; i < in[0].values.size(); ++i) {
            const double plain = -in[2].values[i] * std::exp(in[0].values[i] - in[1].values[i]);
            y.push_back(surrogate(in[0].values[i], in[1].values[i], in[2].values[i], 0.2) > plain ? 1.0 : 0.0);
          }
          return y;
        });
  }
  add_error([] { policy_loss(Tensor::zeros({3}), Tensor::zeros({3}), Tensor::zeros({4}), 0.2); },
            "policy_loss: advantage is [4], expected [3]");
}

OP_CASES(value_loss) {
  for (const std::int64_t n : {0, 1, 13, 3001}) {
    add_case(
        std::to_string(n), {uniform({n}), parameter(constant(uniform({n}, -1.0, 1.0, 2))), parameter(constant(uniform({n}, -2.0, 2.0, 3)))},
        [](std::span<const Tensor> in) { return value_loss(in[0], in[1], in[2], 0.2); },
        [](std::span<const Operand> in) {
          std::vector<double> y;
          for (std::size_t i = 0; i < in[0].values.size(); ++i) {
            const double v = in[0].values[i], old = in[1].values[i], goal = in[2].values[i];
            y.push_back(0.5 * std::max((v - goal) * (v - goal), std::pow(clamped(v, old - 0.2, old + 0.2) - goal, 2.0)));
          }
          return y;
        })
        .magnitude = 1.0;
  }
  add_error([] { value_loss(Tensor::zeros({3}), Tensor::zeros({4}), Tensor::zeros({3}), 0.2); },
            "value_loss: old_value is [4], expected [3]");
}
