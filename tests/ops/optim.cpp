#include "engine/ops/optim.h"

#include <cmath>

#include "engine/ops/reduce.h"
#include "tests/ops/op_cases.h"

using namespace expctr;
using namespace expctr::test;

namespace {

constexpr AdamOptions options{.learning_rate = 0.01, .beta1 = 0.9, .beta2 = 0.99, .epsilon = 1e-6, .weight_decay = 0.1};
constexpr double gradient_scale = 0.5;
constexpr int steps = 3;

double norm_of(const Operand& operand) {
  double squares = 0.0;
  for (const double value : operand.values) squares += value * value;
  return std::sqrt(squares);
}

/// The state after three steps with a constant gradient: [parameter, first moment, second moment].
std::vector<std::vector<double>> plain_adamw(const Operand& parameter, const Operand& gradient, double correction = 1.0) {
  std::vector<double> p = parameter.values, m(p.size()), v(p.size());
  for (int step = 1; step <= steps; ++step) {
    for (std::size_t i = 0; i < p.size(); ++i) {
      const double g = correction * gradient_scale * gradient.values[i];
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

/// The same steps with rate, step and scale in device memory; the norm is clipped to half of what it is, so that the scale is
/// `gradient_scale`.
Tensor after_controlled_steps(std::span<const Tensor> in, int part) {
  const Tensor& p = in[0];
  const AdamSlot slot{p.clone(), in[1], Tensor::zeros(p.shape(), p.dtype(), p.device()), Tensor::zeros(p.shape(), p.dtype(), p.device())};
  const Tensor control = step_control(options.learning_rate, 0, p.device()), norm = squared_norm(in.subspan(1, 1));
  for (int step = 1; step <= steps; ++step) {
    advance_step(control, norm, gradient_scale * global_norm(in.subspan(1, 1)));
    adamw_update(std::span(&slot, 1), options, control);
  }
  return part == 0 ? slot.parameter : part == 1 ? slot.first_moment : slot.second_moment;
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
  for (const int part : {0, 1, 2})
    add_case(
        std::string(names[part]) + " with its control on the device",
        {constant(uniform({3, 1027})), constant(uniform({3, 1027}, -1.0, 1.0, 2))},
        [=](std::span<const Tensor> in) { return after_controlled_steps(in, part); },
        [=](std::span<const Operand> in) { return plain_adamw(in[0], in[1], 1.0 / (1.0 + 1e-6 / norm_of(in[1])))[part]; });
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

OP_CASES(advance_step) {
  for (const auto& [most, label] : {std::pair{0.0, "no clipping"}, {1.5, "clipped"}, {1e6, "below the bound"}}) {
    add_case(
        label, {constant(uniform({5, 7}))},
        [most = most](std::span<const Tensor> in) {
          const Tensor control = step_control(0.25, 7, in[0].device());
          advance_step(control, squared_norm(in.first(1)), most);
          return control;
        },
        [most = most](std::span<const Operand> in) {
          const double factor = most <= 0.0 ? 1.0 : std::min(1.0, most / (norm_of(in[0]) + 1e-6));
          return std::vector<double>{0.25, 8.0, factor};
        });
  }
  add_error([] { advance_step(Tensor::zeros({2}, DType::f64), Tensor::zeros({1}, DType::f64), 1.0); },
            "advance_step: control is [2], expected [3]");
}
