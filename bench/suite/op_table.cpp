#include "bench/suite/op_table.h"

#include <fmt/format.h>

#include <cmath>

#include "base/error.h"
#include "bench/suite/bench.h"
#include "bench/suite/measure.h"
#include "engine/autograd/tape.h"
#include "engine/ops/elementwise.h"
#include "engine/ops/linear.h"
#include "engine/ops/matmul.h"

namespace expctr {

namespace {

std::vector<double> values_of(const Tensor& tensor) {
  const Tensor here = tensor.to(cpu_device);
  if (here.dtype() == DType::f64) return here.to_vector<double>();
  if (here.dtype() == DType::i32) {
    const std::vector<std::int32_t> ids = here.to_vector<std::int32_t>();
    return {ids.begin(), ids.end()};
  }
  const std::vector<float> values = (here.dtype() == DType::f32 ? here : convert(here, DType::f32)).to_vector<float>();
  return {values.begin(), values.end()};
}

// Alternating weights: a gradient of ones would hide an error in ops whose outputs sum to a constant, as a softmax's do.
Tensor cotangent(const Tensor& y) {
  const Tensor flat = random_tensor("cotangent", {y.size()}, cpu_device);
  const Tensor typed = y.dtype() == DType::f32 ? flat : convert(flat, y.dtype());
  return typed.reshape(y.shape()).to(y.device());
}

/// The op's output, then the gradient of every operand that wants one.
std::vector<std::vector<double>> values_and_gradients(const OpAtSize& op) {
  Tape tape;
  const Tensor y = op.run(op.operands);
  std::vector<std::vector<double>> result = {values_of(y)};
  if (!y.requires_gradient()) return result;
  const Tensor dy = cotangent(y);
  tape.backward(std::span(&y, 1), std::span(&dy, 1));
  for (const Tensor& operand : op.operands)
    if (operand.requires_gradient()) result.push_back(values_of(operand.gradient()));
  return result;
}

double largest_difference(std::span<const double> got, std::span<const double> expected) {
  if (got.size() != expected.size()) return std::numeric_limits<double>::infinity();
  double most = 1e-30, worst = 0;
  for (const double v : expected) most = std::max(most, std::abs(v));
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double error = std::abs(got[i] - expected[i]);
    worst = std::isfinite(error) ? std::max(worst, error) : std::numeric_limits<double>::infinity();
  }
  return worst / most;
}

double median_seconds(Device device, const std::function<void()>& body) {
  const std::function<Elapsed()> once = timed(device, body);
  once();
  std::vector<double> seconds;
  for (int repeat = 0; repeat < 5; ++repeat) seconds.push_back(once().wall);
  std::sort(seconds.begin(), seconds.end());
  return seconds[2];
}

double lower_bound(const OpWork& work, const DeviceCeilings& ceilings, DType dtype) {
  const double peak = dtype == DType::bf16 ? ceilings.bf16_flops : ceilings.f32_flops;
  return std::max(work.bytes / ceilings.bytes_per_second, work.flops / peak);
}

}  // namespace

DeviceCeilings measure_device_ceilings(Device device) {
  if (!device.is_cuda()) {
    const Ceilings here = measure_ceilings();
    return {1e9 * here.gbps, 1e9 * here.gflops, 1e9 * here.gflops};
  }
  const NoGradient off;
  constexpr std::int64_t elements = 64 << 20, side = 4096;
  const Tensor from = Tensor::zeros({elements}, DType::f32, device), to = from.empty_like();
  const double copy = median_seconds(device, [&] { to.copy_from(from); });
  const Tensor a = random_tensor("a", {side, side}, device), b = random_tensor("b", {side, side}, device);
  const FrozenWeight weight(b, ComputeMode::bf16);
  const Tensor rounded = convert(a, DType::bf16);
  const double f32 = median_seconds(device, [&] { matmul(a, b); }), bf16 = median_seconds(device, [&] { linear_frozen(rounded, weight); });
  constexpr double flops = 2.0 * side * side * side;
  return {8.0 * elements / copy, flops / f32, flops / bf16};
}

OpVerdict examine_op(const OpEntry& entry, const OpPlace& place, const DeviceCeilings& ceilings, bool timed) {
  OpVerdict verdict;
  verdict.op = entry.op;
  verdict.dtype = dtype_name(place.dtype);
  try {
    OpAtSize op = entry.prepare(place);
    verdict.shape = op.shape;
    OpPlace second = place;
    second.device = cpu_device;
    second.dtype = entry.float64 ? DType::f64 : DType::f32;
    const auto got = values_and_gradients(op), expected = values_and_gradients(entry.prepare(second));
    // The sums behind one value have up to some thousand terms; 16-bit storage rounds operands and results by 2^-9.
    verdict.tolerance = place.dtype == DType::bf16 ? 3e-2 : 1e-4;
    for (std::size_t i = 0; i < std::min(got.size(), expected.size()); ++i)
      verdict.error = std::max(verdict.error, largest_difference(got[i], expected[i]));
    if (got.size() != expected.size() || !(verdict.error <= verdict.tolerance)) {
      verdict.problem = fmt::format("differs from {} by {:.1e} of the largest value (allowed {:.1e})",
                                    second.dtype == DType::f64 ? "float64" : "the CPU", verdict.error, verdict.tolerance);
      return verdict;
    }
    if (!timed) return verdict;
    verdict.timed = true;
    verdict.bound = lower_bound(op.forward, ceilings, place.dtype);
    {
      const NoGradient off;
      verdict.seconds = median_seconds(place.device, [&] { op.run(op.operands); });
    }
    if (got.size() > 1) {
      verdict.backward_bound = lower_bound(op.backward, ceilings, place.dtype);
      const Tensor dy = cotangent(op.run(op.operands));
      const double both = median_seconds(place.device, [&] {
        Tape tape;
        const Tensor y = op.run(op.operands);
        tape.backward(std::span(&y, 1), std::span(&dy, 1));
      });
      verdict.backward_seconds = std::max(both - verdict.seconds, 0.0);
    }
  } catch (const std::exception& error) {
    verdict.problem = error.what();
  }
  return verdict;
}

}  // namespace expctr
