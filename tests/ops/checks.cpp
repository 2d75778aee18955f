#include "tests/ops/checks.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include "base/blocks.h"
#include "base/error.h"
#include "base/philox.h"
#include "cpu/thread_pool.h"
#include "engine/autograd/tape.h"
#include "engine/core/allocator.h"
#include "engine/core/build_info.h"
#include "engine/ops/layout.h"

namespace expctr::test {
namespace {

double largest(std::span<const double> values) {
  double most = 0.0;
  for (const double v : values) most = std::max(most, std::abs(v));
  return most;
}

void compare(Problems& problems, std::span<const double> got, std::span<const double> expected, double scale, double allowed, const std::string& what) {
  if (got.size() != expected.size()) {
    problems.push_back(fmt::format("{}: {} elements, expected {}", what, got.size(), expected.size()));
    return;
  }
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double error = std::abs(got[i] - expected[i]);
    if (!(error <= allowed * scale)) {
      problems.push_back(fmt::format("{}: element {} is {}, expected {} (error {:.3g}, allowed {:.3g})", what, i, got[i], expected[i], error, allowed * scale));
      return;
    }
  }
}

double stored(double value, DType dtype) {
  if (dtype == DType::f64) return value;
  if (dtype == DType::f32) return static_cast<float>(value);
  return float_of_bf16(bf16_of_float(static_cast<float>(value)));
}

DType stored_dtype(const Operand& operand, DType activations) {
  return activations == DType::bf16 && operand.parameter ? DType::f32 : activations;
}

Tensor of_values(std::span<const double> values, const Shape& shape, DType dtype, Device device) {
  if (dtype == DType::f64) return Tensor::of(values, shape, device);
  if (dtype == DType::f32) return Tensor::of(std::vector<float>(values.begin(), values.end()), shape, device);
  std::vector<std::uint16_t> bits;
  for (const double value : values) bits.push_back(bf16_of_float(static_cast<float>(value)));
  return Tensor::of_bytes(std::as_bytes(std::span(bits)), shape, DType::bf16, device);
}

// Weights of the outputs: random ones, exact in every storage type.
std::vector<double> cotangent(std::int64_t n) {
  std::vector<double> c;
  const RandomKey key = random_key(99, "cotangent");
  for (std::int64_t i = 0; i < n; ++i) {
    const RandomBits bits = philox(key, {static_cast<std::uint32_t>(i), 0, 0, 0});
    c.push_back(stored(2.0 * uniform_double(bits.word[0], bits.word[1]) - 1.0, DType::bf16));
  }
  return c;
}

using Gradients = std::vector<std::vector<double>>;  // one an operand; empty where none is wanted

enum class Layout { dense, strided };

struct Passed {
  std::vector<double> output;
  Gradients gradients;
  bool recorded = false;  // the output requires a gradient
};

// Forward and, with weights of the outputs, backward.
Passed pass(const OpCase& c, const Place& place, const std::vector<double>* weights, Layout layout = Layout::dense) {
  std::vector<Tensor> inputs;
  for (const Operand& operand : c.operands) {
    const bool differentiable = weights != nullptr && operand.differentiable;
    Tensor input;
    if (layout == Layout::dense) {
      input = place_operand(operand, place);
      if (differentiable) input.require_gradient();
    } else {
      input = strided_operand(operand, place);
      if (differentiable) input.require_gradient();
    }
    inputs.push_back(input);
  }
  Passed result;
  result.gradients.resize(inputs.size());
  if (weights == nullptr) {
    result.output = values_of(c.run(inputs));
    return result;
  }
  Tape tape;
  const Tensor y = c.run(inputs);
  result.output = values_of(y);
  result.recorded = y.requires_gradient();
  if (!result.recorded || y.size() == 0) return result;
  const Tensor dy = of_values(*weights, y.shape(), y.dtype(), y.device());
  tape.backward(std::span<const Tensor>(&y, 1), std::span<const Tensor>(&dy, 1));
  for (std::size_t i = 0; i < inputs.size(); ++i)
    if (c.operands[i].differentiable) result.gradients[i] = values_of(inputs[i].gradient());
  return result;
}

Passed pass(const OpCase& c, const Place& place, Layout layout = Layout::dense) {
  const std::vector<double> weights = cotangent(static_cast<std::int64_t>(c.reference(c.operands).size()));
  return pass(c, place, &weights, layout);
}

double weighted(const OpCase& c, std::span<const Operand> operands, std::span<const double> weights) {
  const std::vector<double> y = c.reference(operands);
  double total = 0.0;
  for (std::size_t i = 0; i < y.size(); ++i) total += weights[i] * y[i];
  return total;
}

constexpr double difference_step = 1e-6;

// (f(x + h e) - f(x - h e)) / 2 h of element i of operand k.
std::vector<double> difference(const OpCase& c, std::vector<Operand>& moved, std::size_t k, std::size_t i) {
  const double at = c.operands[k].values[i];
  moved[k].values[i] = at + difference_step;
  std::vector<double> column = c.reference(moved);
  moved[k].values[i] = at - difference_step;
  const std::vector<double> below = c.reference(moved);
  moved[k].values[i] = at;
  for (std::size_t j = 0; j < column.size(); ++j) column[j] = (column[j] - below[j]) / (2.0 * difference_step);
  return column;
}

struct Slope {
  double of_gradient = 0.0, expected = 0.0, length = 0.0;  // length: sum of the magnitudes of the terms of of_gradient
};

// Along one random direction of operand k.
Slope slope_along(const OpCase& c, std::span<const double> gradient, std::size_t k, std::span<const double> weights) {
  Slope slope;
  std::vector<Operand> moved = c.operands;
  const std::vector<double> direction = cotangent(static_cast<std::int64_t>(gradient.size()));
  for (std::size_t i = 0; i < gradient.size(); ++i) {
    slope.of_gradient += direction[i] * gradient[i];
    slope.length += std::abs(direction[i] * gradient[i]);
    moved[k].values[i] = c.operands[k].values[i] + difference_step * direction[i];
  }
  const double above = weighted(c, moved, weights);
  for (std::size_t i = 0; i < gradient.size(); ++i) moved[k].values[i] = c.operands[k].values[i] - difference_step * direction[i];
  slope.expected = (above - weighted(c, moved, weights)) / (2.0 * difference_step);
  return slope;
}

void check_differences(Problems& problems, const OpCase& c, const Place& place, const std::string& what) {
  const std::size_t outputs = c.reference(c.operands).size();
  const std::vector<double> weights = cotangent(static_cast<std::int64_t>(outputs));
  const Passed whole = pass(c, place, &weights);
  if (!whole.recorded) return;
  std::vector<Passed> rows;  // of the Jacobian: one backward pass an output
  constexpr std::size_t tiny = 64;
  std::size_t most = 0;
  for (const Operand& operand : c.operands) most = std::max(most, operand.differentiable ? operand.values.size() : 0);
  for (std::size_t j = 0; most <= tiny && outputs <= tiny && j < outputs; ++j) {
    std::vector<double> unit(outputs);
    unit[j] = 1.0;
    rows.push_back(pass(c, place, &unit));
  }
  for (std::size_t k = 0; k < c.operands.size(); ++k) {
    const std::vector<double>& g = whole.gradients[k];
    if (g.empty()) continue;
    const double scale = std::max(largest(g), 1e-3), allowed = 1e-5 * scale + 2e-9;
    std::vector<Operand> moved = c.operands;
    if (g.size() <= tiny) {
      for (std::size_t i = 0; i < g.size(); ++i) {
        const std::vector<double> column = difference(c, moved, k, i);
        double slope = 0.0;
        for (std::size_t j = 0; j < outputs; ++j) {
          slope += weights[j] * column[j];
          if (!rows.empty() && !(std::abs(rows[j].gradients[k][i] - column[j]) <= allowed)) {
            problems.push_back(fmt::format("{}: d output {} / d operand {}, element {} is {}, finite difference {}", what, j, k, i, rows[j].gradients[k][i], column[j]));
            return;
          }
        }
        if (!(std::abs(g[i] - slope) <= allowed)) {
          problems.push_back(fmt::format("{}: gradient of operand {}, element {} is {}, finite difference {}", what, k, i, g[i], slope));
          return;
        }
      }
    } else {
      const Slope slope = slope_along(c, g, k, weights);
      if (!(std::abs(slope.of_gradient - slope.expected) <= 1e-5 * std::max(slope.length, 1e-3)))
        problems.push_back(fmt::format("{}: slope along operand {} is {}, finite difference {}", what, k, slope.of_gradient, slope.expected));
    }
  }
}

// Gradients of an op that has no float64 form against finite differences of the reference: every element of tiny operands, one random
// direction of larger ones.
void check_rounded_differences(Problems& problems, const OpCase& c, const Gradients& got, double allowed, const std::string& what) {
  const std::vector<double> weights = cotangent(static_cast<std::int64_t>(c.reference(c.operands).size()));
  for (std::size_t k = 0; k < got.size(); ++k) {
    if (got[k].empty()) continue;
    std::vector<Operand> moved = c.operands;
    const std::string name = what + fmt::format(", gradient {}", k);
    if (got[k].size() <= 64) {
      std::vector<double> expected;
      for (std::size_t i = 0; i < got[k].size(); ++i) {
        const std::vector<double> column = difference(c, moved, k, i);
        double slope = 0.0;
        for (std::size_t j = 0; j < column.size(); ++j) slope += weights[j] * column[j];
        expected.push_back(slope);
      }
      compare(problems, got[k], expected, std::max({largest(expected), c.magnitude, 1e-3}), allowed, name);
    } else {
      const Slope slope = slope_along(c, got[k], k, weights);
      if (!(std::abs(slope.of_gradient - slope.expected) <= allowed * std::max({slope.length, c.magnitude, 1e-3})))
        problems.push_back(fmt::format("{}: slope along a direction is {}, finite difference {}", name, slope.of_gradient, slope.expected));
    }
  }
}

std::string name_at(const OpCase& c, const Place& place) { return fmt::format("{} {} on {}", c.op, c.label, place_name(place)); }

OpCase stored_case(const OpCase& c, DType dtype) {
  OpCase exact = c;
  exact.operands = rounded(c.operands, dtype);
  return exact;
}

}  // namespace

std::vector<Place> places() {
  std::vector<Place> all = {{cpu_device, DType::f64}, {cpu_device, DType::f32}, {cpu_device, DType::bf16}};
  if constexpr (has_cuda) {
    all.push_back({{DeviceType::cuda, 0}, DType::f32});
    all.push_back({{DeviceType::cuda, 0}, DType::bf16});
  }
  return all;
}

std::string place_name(const Place& place) { return std::string(place.device.is_cuda() ? "cuda " : "cpu ") + dtype_name(place.dtype); }

bool runs_at(const OpCase& c, const Place& place) {
  if (place.dtype == DType::f64 && !c.float64) return false;
  if (place.dtype == DType::bf16 && !c.bf16) return false;
  return CaseTable::instance().exemption(c.op, place.dtype) == nullptr;
}

double tolerance(const Place& place, std::int64_t reduction) {
  const double growth = 16.0 + 8.0 * std::sqrt(static_cast<double>(reduction));
  if (place.dtype == DType::f64) return 2.3e-16 * growth;
  return 1.2e-7 * growth + (place.dtype == DType::bf16 ? 4.0 * 0x1p-9 : 0.0);
}

std::vector<Operand> rounded(std::vector<Operand> operands, DType dtype) {
  for (Operand& operand : operands)
    for (double& v : operand.values) v = stored(v, stored_dtype(operand, dtype));
  return operands;
}

Tensor place_operand(const Operand& operand, const Place& place) {
  if (operand.integer) return Tensor::of(operand.ids, operand.shape, place.device);
  return of_values(operand.values, operand.shape, stored_dtype(operand, place.dtype), place.device);
}

Tensor strided_operand(const Operand& operand, const Place& place) {
  const Tensor dense = place_operand(operand, place);
  if (dense.rank() == 0) return dense;
  const auto poisoned = [&](const Shape& shape) {
    const Tensor memory = Tensor::empty(shape, dense.dtype(), place.device);
    memory.copy_from(Tensor::of_bytes(std::vector<std::byte>(memory.bytes(), std::byte{0xFF}), shape, memory.dtype(), place.device));
    return memory;
  };
  Tensor view;
  if (dense.rank() == 1) {
    view = poisoned({dense.dim(0), 5}).select(1, 2);
  } else {
    // The outermost axis becomes the innermost of the memory, two elements longer at either end.
    std::vector<std::int64_t> extents;
    for (int i = 0; i < dense.rank(); ++i) extents.push_back(dense.dim(i));
    std::swap(extents.front(), extents.back());
    extents.back() += 4;
    view = poisoned(Shape(extents)).narrow(-1, 2, extents.back() - 4).transpose(0, -1);
  }
  view.copy_from(dense);
  return view;
}

std::vector<double> values_of(const Tensor& tensor) {
  if (tensor.dtype() == DType::f64) return tensor.to_vector<double>();
  if (tensor.dtype() == DType::bf16) {
    const Tensor host = dense(tensor.detached()).to(cpu_device);
    std::vector<std::uint16_t> bits(static_cast<std::size_t>(host.size()));
    if (!bits.empty()) std::memcpy(bits.data(), host.data(), host.bytes());
    std::vector<double> values;
    for (const std::uint16_t b : bits) values.push_back(float_of_bf16(b));
    return values;
  }
  const std::vector<float> values = tensor.to_vector<float>();
  return {values.begin(), values.end()};
}

Problems check_values(const OpCase& c, const Place& place) {
  Problems problems;
  const OpCase exact = stored_case(c, place.dtype);
  const std::vector<double> expected = c.reference(exact.operands);
  compare(problems, pass(exact, place, nullptr).output, expected, std::max({largest(expected), c.magnitude, 1e-30}), tolerance(place, c.reduction), name_at(c, place));
  return problems;
}

Problems check_gradients(const OpCase& c, const Place& place) {
  Problems problems;
  bool wanted = false;
  for (const Operand& operand : c.operands) wanted = wanted || operand.differentiable;
  if (!wanted) return problems;
  const OpCase exact = stored_case(c, place.dtype == DType::f64 ? DType::f32 : place.dtype);
  if (place.dtype == DType::f64) {
    check_differences(problems, exact, place, name_at(c, place));
    return problems;
  }
  const Passed got = pass(exact, place);
  if (!got.recorded) return problems;
  const Place f64{cpu_device, DType::f64}, f32{cpu_device, DType::f32};
  const double allowed = 2.0 * tolerance(place, c.reduction);
  if (!runs_at(c, f64) && place.dtype == DType::f32 && !place.device.is_cuda()) {
    check_rounded_differences(problems, exact, got.gradients, allowed + 1e-6, name_at(c, place));
    return problems;
  }
  const Gradients reference = pass(exact, runs_at(c, f64) ? f64 : f32).gradients;
  double most = 0.0;
  for (const auto& g : reference) most = std::max(most, largest(g));
  for (std::size_t k = 0; k < got.gradients.size(); ++k) {
    if (got.gradients[k].empty()) continue;
    // A gradient whose terms nearly cancel is measured against 5 % of the case's largest one.
    compare(problems, got.gradients[k], reference[k], std::max({largest(reference[k]), c.magnitude, 0.05 * most, 1e-3}), allowed,
            name_at(c, place) + fmt::format(", gradient {}", k));
  }
  return problems;
}

namespace {

void compare_bits(Problems& problems, const std::vector<double>& got, const std::vector<double>& expected, const std::string& what) {
  bool same = got.size() == expected.size();
  for (std::size_t i = 0; same && i < got.size(); ++i) {
    same = got[i] == expected[i] || (std::isnan(got[i]) && std::isnan(expected[i]));
    if (!same) problems.push_back(fmt::format("{}: element {} is {}, {} before", what, i, got[i], expected[i]));
  }
  if (got.size() != expected.size()) problems.push_back(fmt::format("{}: {} elements, {} before", what, got.size(), expected.size()));
}

void compare_bits(Problems& problems, const Passed& got, const Passed& expected, const std::string& what) {
  compare_bits(problems, got.output, expected.output, what);
  for (std::size_t k = 0; k < expected.gradients.size(); ++k) compare_bits(problems, got.gradients[k], expected.gradients[k], what + fmt::format(", gradient {}", k));
}

}  // namespace

Problems check_strided(const OpCase& c, const Place& place) {
  Problems problems;
  const OpCase exact = stored_case(c, place.dtype);
  compare_bits(problems, pass(exact, place, Layout::strided), pass(exact, place), name_at(c, place) + ", strided operands");
  return problems;
}

Problems check_threads(const OpCase& c) {
  Problems problems;
  const Place place{cpu_device, DType::f32};
  const OpCase exact = stored_case(c, place.dtype);
  const int before = cpu::thread_count();
  cpu::set_thread_count(1);
  const Passed one = pass(exact, place);
  cpu::set_thread_count(2);
  compare_bits(problems, pass(exact, place), one, name_at(c, place) + ", two threads");
  cpu::set_thread_count(before);
  return problems;
}

SupportEntry check_support(const std::string& op, const std::vector<OpCase>& table, const Place& place) {
  if (CaseTable::instance().exemption(op, place.dtype) != nullptr) return {Support::meaningless, ""};
  SupportEntry entry{Support::hole, "no case of the op is run there"};
  for (const OpCase& c : table) {
    if (c.op != op || !runs_at(c, place)) continue;
    bool something = true, differentiable = false;
    for (const Operand& operand : c.operands) {
      something = something && operand.shape.size() > 0;
      differentiable = differentiable || operand.differentiable;
    }
    if (!something || (!differentiable && entry.support == Support::no_gradient)) continue;
    try {
      const Passed passed = pass(stored_case(c, place.dtype), place);
      if (passed.recorded) return {Support::yes, ""};
      entry = {Support::no_gradient, ""};
    } catch (const std::exception& error) {
      return {Support::hole, error.what()};
    }
  }
  return entry;
}

Problems run_guarded(const std::string& what, const std::function<Problems()>& check) {
  set_memory_guards(true);
  Problems problems;
  try {
    problems = check();
  } catch (const std::exception& error) {
    problems.push_back(what + ": " + error.what());
  }
  if (const std::uint64_t violations = guard_violations(); violations != 0) problems.push_back(fmt::format("{}: {} tensors written outside of their bounds", what, violations));
  set_memory_guards(false);
  return problems;
}

}  // namespace expctr::test
