#include "engine/ops/optim.h"

#include <cmath>

#include "tests/ops/op_cases.h"

using namespace expctr;
using namespace expctr::test;

namespace {

constexpr AdamOptions options{.learning_rate = 0.01, .beta1 = 0.9, .beta2 = 0.99, .epsilon = 1e-6, .weight_decay = 0.1};
constexpr double gradient_scale = 0.5;
constexpr int steps = 3;

/// The state after three steps with a constant gradient: [parameter, first moment, second moment].
std::vector<std::vector<double>> plain_adamw(const Operand& parameter, const Operand& gradient) {
  std::vector<double> p = parameter.values, m(p.size()), v(p.size());
  for (int step = 1; step <= steps; ++step) {
    for (std::size_t i = 0; i < p.size(); ++i) {
      const double g = gradient_scale * gradient.values[i];
      p[i] *= 1.0 - options.learning_rate * options.weight_decay;
      m[i] = options.beta1 * m[i] + (1.0 - options.beta1) * g;
      v[i] = options.beta2 * v[i] + (1.0 - options.beta2) * g * g;
      const double m_hat = m[i] / (1.0 - std::pow(options.beta1, step)), v_hat = v[i] / (1.0 - std::pow(options.beta2, step));
      p[i] -= options.learning_rate * m_hat / (std::sqrt(v_hat) + options.epsilon);
    }
  }
  return {p, m, v};
}

/// Operands: parameter and gradient of two tensors. Returns one of the four state tensors of one of the two.
Tensor after_steps(std::span<const Tensor> in, std::size_t slot, int part) {
  std::vector<AdamSlot> slots;
  for (std::size_t i = 0; i < 2; ++i) {
    const Tensor& p = in[2 * i];
    slots.push_back(
        {p.clone(), in[2 * i + 1], Tensor::zeros(p.shape(), p.dtype(), p.device()), Tensor::zeros(p.shape(), p.dtype(), p.device())});
  }
  for (int step = 1; step <= steps; ++step) adamw_update(slots, options, step, gradient_scale);
  return part == 0 ? slots[slot].parameter : part == 1 ? slots[slot].first_moment : slots[slot].second_moment;
}

}  // namespace

OP_CASES(adamw_update) {
  meaningless(DType::bf16, "parameters, their gradients and moments are f32");
  const char* names[] = {"parameter", "first moment", "second moment"};
  for (const auto& [first, second] : {std::pair{Shape{1}, Shape{0, 3}}, {Shape{7}, Shape{2, 3}}, {Shape{3, 1027}, Shape{5}}}) {
    for (const std::size_t slot : {0, 1}) {
      for (const int part : {0, 1, 2}) {
        add_case(
            std::string(names[part]) + " of " + (slot == 0 ? first : second).text(),
            {constant(uniform(first)), constant(uniform(first, -1.0, 1.0, 2)), constant(uniform(second, -1.0, 1.0, 3)),
             constant(uniform(second, -1.0, 1.0, 4))},
            [=](std::span<const Tensor> in) { return after_steps(in, slot, part); },
            [=](std::span<const Operand> in) { return plain_adamw(in[2 * slot], in[2 * slot + 1])[part]; });
      }
    }
  }
  add_error(
      [] {
        const AdamSlot slot{Tensor::zeros({3}), Tensor::zeros({4}), Tensor::zeros({3}), Tensor::zeros({3})};
        adamw_update(std::span(&slot, 1), {}, 1);
      },
      "adamw_update: gradient is [4], expected [3]");
  add_error(
      [] {
        const AdamSlot slot{Tensor::zeros({3}), Tensor::zeros({3}), Tensor::zeros({3}), Tensor::zeros({3})};
        adamw_update(std::span(&slot, 1), {}, 0);
      },
      "adamw: step is 0, but the first step is 1");
}
