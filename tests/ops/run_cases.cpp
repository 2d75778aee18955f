// Runs the table of op cases. Modes: values, gradients, errors, on every backend that is here.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cmath>

#include "base/error.h"
#include "base/philox.h"
#include "cpu/thread_pool.h"
#include "engine/autograd/tape.h"
#include "engine/core/allocator.h"
#include "engine/core/build_info.h"
#include "engine/ops/elementwise.h"
#include "engine/ops/reduce.h"
#include "tests/ops/op_cases.h"

namespace expctr::test {
namespace {

struct Place {
  Device device;
  DType dtype;
};

std::vector<Place> places() {
  std::vector<Place> all = {{cpu_device, DType::f64}, {cpu_device, DType::f32}};
  if constexpr (has_cuda) all.push_back({{DeviceType::cuda, 0}, DType::f32});
  return all;
}

std::string place_name(const Place& place) { return device_name(place.device) + " " + dtype_name(place.dtype); }

// Rounding errors of a sum of n terms of random sign grow like sqrt(n); the constant covers elementwise functions of a few ulp.
double tolerance(DType dtype, std::int64_t reduction) {
  const double epsilon = dtype == DType::f64 ? 2.3e-16 : 1.2e-7;
  return epsilon * (16.0 + 8.0 * std::sqrt(static_cast<double>(reduction)));
}

Tensor place_operand(const Operand& operand, const Place& place) {
  if (operand.integer) return Tensor::of(operand.ids, operand.shape, place.device);
  if (place.dtype == DType::f64) return Tensor::of(operand.values, operand.shape, place.device);
  return Tensor::of(std::vector<float>(operand.values.begin(), operand.values.end()), operand.shape, place.device);
}

std::vector<double> values_of(const Tensor& tensor) {
  if (tensor.dtype() == DType::f64) return tensor.to_vector<double>();
  const std::vector<float> values = tensor.to_vector<float>();
  return {values.begin(), values.end()};
}

double largest(std::span<const double> values) {
  double most = 0.0;
  for (const double v : values) most = std::max(most, std::abs(v));
  return most;
}

// Float inputs are rounded first, so that the reference sees what the op sees.
std::vector<Operand> rounded(std::vector<Operand> operands, DType dtype) {
  if (dtype == DType::f32) {
    for (Operand& operand : operands) {
      for (double& v : operand.values) v = static_cast<float>(v);
    }
  }
  return operands;
}

void compare(std::span<const double> got, std::span<const double> expected, double scale, double allowed, const std::string& what) {
  REQUIRE_MESSAGE(got.size() == expected.size(), what);
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double error = std::abs(got[i] - expected[i]);
    if (!(error <= allowed * scale)) {
      FAIL_CHECK(fmt::format("{}: element {} is {}, expected {} (error {:.3g}, allowed {:.3g})", what, i, got[i], expected[i], error, allowed * scale));
      return;
    }
  }
}

std::vector<double> cotangent(std::int64_t n) {
  std::vector<double> c;
  const RandomKey key = random_key(99, "cotangent");
  for (std::int64_t i = 0; i < n; ++i) {
    const RandomBits bits = philox(key, {static_cast<std::uint32_t>(i), 0, 0, 0});
    c.push_back(static_cast<float>(2.0 * uniform_double(bits.word[0], bits.word[1]) - 1.0));
  }
  return c;
}

struct Gradients {
  std::vector<std::vector<double>> of_operand;  // empty where none is wanted
};

Gradients gradients(const OpCase& c, const Place& place) {
  std::vector<Tensor> inputs;
  for (const Operand& operand : c.operands) {
    inputs.push_back(place_operand(operand, place));
    if (operand.differentiable) inputs.back().require_gradient();
  }
  Tape tape;
  const Tensor y = c.run(inputs);
  Gradients result;
  result.of_operand.resize(inputs.size());
  if (!y.requires_gradient() || y.size() == 0) return result;
  Operand weights;
  weights.shape = y.shape();
  weights.values = cotangent(y.size());
  const Tensor dy = place_operand(weights, place);
  tape.backward(std::span<const Tensor>(&y, 1), std::span<const Tensor>(&dy, 1));
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (c.operands[i].differentiable) result.of_operand[i] = values_of(inputs[i].gradient());
  }
  return result;
}

double weighted(const OpCase& c, std::span<const Operand> operands) {
  const std::vector<double> y = c.reference(operands), w = cotangent(static_cast<std::int64_t>(y.size()));
  double total = 0.0;
  for (std::size_t i = 0; i < y.size(); ++i) total += w[i] * y[i];
  return total;
}

// Central differences of the float64 reference: every element of tiny operands, one random direction of larger ones.
void check_finite_differences(const OpCase& c, const Gradients& g, const std::string& what) {
  constexpr double step = 1e-6;
  for (std::size_t k = 0; k < c.operands.size(); ++k) {
    if (!c.operands[k].differentiable || g.of_operand[k].empty()) continue;
    const std::size_t n = c.operands[k].values.size();
    const double scale = std::max(largest(g.of_operand[k]), 1e-3);
    std::vector<Operand> moved = c.operands;
    if (n <= 64) {
      for (std::size_t i = 0; i < n; ++i) {
        moved[k].values[i] = c.operands[k].values[i] + step;
        const double above = weighted(c, moved);
        moved[k].values[i] = c.operands[k].values[i] - step;
        const double below = weighted(c, moved);
        moved[k].values[i] = c.operands[k].values[i];
        const double expected = (above - below) / (2.0 * step);
        if (!(std::abs(g.of_operand[k][i] - expected) <= 1e-5 * scale + 2e-9)) {
          FAIL_CHECK(fmt::format("{}: gradient of operand {}, element {} is {}, finite difference {}", what, k, i, g.of_operand[k][i], expected));
          break;
        }
      }
    } else {
      const std::vector<double> direction = cotangent(static_cast<std::int64_t>(n));
      double slope = 0.0, length = 0.0;
      for (std::size_t i = 0; i < n; ++i) {
        slope += direction[i] * g.of_operand[k][i];
        length += std::abs(direction[i] * g.of_operand[k][i]);
        moved[k].values[i] = c.operands[k].values[i] + step * direction[i];
      }
      const double above = weighted(c, moved);
      for (std::size_t i = 0; i < n; ++i) moved[k].values[i] = c.operands[k].values[i] - step * direction[i];
      const double expected = (above - weighted(c, moved)) / (2.0 * step);
      CHECK_MESSAGE(std::abs(slope - expected) <= 1e-5 * std::max(length, 1e-3), fmt::format("{}: slope along operand {} is {}, finite difference {}", what, k, slope, expected));
    }
  }
}

}  // namespace

TEST_CASE("op table: values on every backend") {
  set_memory_guards(true);
  for (const OpCase& c : CaseTable::instance().cases()) {
    for (const Place& place : places()) {
      if (place.dtype == DType::f64 && !c.float64) continue;
      const std::string what = fmt::format("{} {} on {}", c.op, c.label, place_name(place));
      CAPTURE(what);
      const std::vector<Operand> operands = rounded(c.operands, place.dtype);
      std::vector<Tensor> inputs;
      for (const Operand& operand : operands) inputs.push_back(place_operand(operand, place));
      const Tensor y = c.run(inputs);
      const std::vector<double> expected = c.reference(operands);
      compare(values_of(y), expected, std::max({largest(expected), c.magnitude, 1e-30}), tolerance(place.dtype, c.reduction), what);
    }
  }
  CHECK(guard_violations() == 0);
  set_memory_guards(false);
  CHECK(CaseTable::instance().cases().size() > 0);
}

TEST_CASE("op table: gradients on every backend") {
  set_memory_guards(true);
  for (const OpCase& c : CaseTable::instance().cases()) {
    OpCase exact = c;
    exact.operands = rounded(c.operands, DType::f32);  // one point for all backends
    const std::string name = fmt::format("{} {}", c.op, c.label);
    Gradients reference;
    for (const Place& place : places()) {
      if (place.dtype == DType::f64 && !c.float64) continue;
      const Gradients g = gradients(exact, place);
      const std::string what = name + " on " + place_name(place);
      CAPTURE(what);
      if (place.dtype == DType::f64) {
        check_finite_differences(exact, g, what);
        reference = g;
        continue;
      }
      if (reference.of_operand.empty()) {  // no float64 version of the op: finite differences of the reference, to float32's accuracy
        for (std::size_t k = 0; k < g.of_operand.size(); ++k) {
          if (g.of_operand[k].empty()) continue;
          std::vector<Operand> moved = exact.operands;
          std::vector<double> expected;
          for (std::size_t i = 0; i < g.of_operand[k].size(); ++i) {
            const double at = exact.operands[k].values[i];
            moved[k].values[i] = at + 1e-6;
            const double above = weighted(exact, moved);
            moved[k].values[i] = at - 1e-6;
            expected.push_back((above - weighted(exact, moved)) / 2e-6);
            moved[k].values[i] = at;
          }
          compare(g.of_operand[k], expected, std::max({largest(expected), c.magnitude, 1e-3}), tolerance(place.dtype, c.reduction) + 1e-6, what + fmt::format(", gradient {}", k));
        }
        continue;
      }
      for (std::size_t k = 0; k < g.of_operand.size(); ++k) {
        if (g.of_operand[k].empty()) continue;
        // A gradient whose terms nearly cancel is measured against 5 % of the case's largest one.
        double most = 0.0;
        for (const auto& other : reference.of_operand) most = std::max(most, largest(other));
        compare(g.of_operand[k], reference.of_operand[k], std::max({largest(reference.of_operand[k]), c.magnitude, 0.05 * most, 1e-3}), tolerance(place.dtype, c.reduction) * 2.0,
                what + fmt::format(", gradient {}", k));
      }
    }
  }
  CHECK(guard_violations() == 0);
  set_memory_guards(false);
}

TEST_CASE("op table: one and two threads give the same bits on the CPU") {
  const int before = cpu::thread_count();
  const Place place{cpu_device, DType::f32};
  for (const OpCase& c : CaseTable::instance().cases()) {
    OpCase exact = c;
    exact.operands = rounded(c.operands, place.dtype);
    std::vector<Tensor> inputs;
    for (const Operand& operand : exact.operands) inputs.push_back(place_operand(operand, place));
    std::vector<std::vector<double>> outputs[2];
    for (const int threads : {1, 2}) {
      cpu::set_thread_count(threads);
      outputs[threads - 1] = gradients(exact, place).of_operand;
      outputs[threads - 1].push_back(values_of(c.run(inputs)));
    }
    CHECK_MESSAGE(outputs[0] == outputs[1], fmt::format("{} {}", c.op, c.label));
  }
  cpu::set_thread_count(before);
}

TEST_CASE("op table: wrong operands give the documented message") {
  for (const ErrorCase& c : CaseTable::instance().errors()) {
    CAPTURE(c.op);
    std::string message;
    try {
      c.run();
    } catch (const Error& error) {
      message = error.what();
    }
    CHECK_MESSAGE(message.find(c.message) != std::string::npos, fmt::format("{}: got '{}', expected it to contain '{}'", c.op, message, c.message));
  }
}

}  // namespace expctr::test
