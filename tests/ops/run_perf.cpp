// The table of op cases in mode perf: time and traffic of each op's largest case, in every place. Run by hand:
// `build/tests/test_ops --test-suite=perf`. At realistic sizes, and against the device's limits: `expctr_engine doctor`.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "engine/autograd/tape.h"
#include "tests/ops/checks.h"

namespace expctr::test {
namespace {

double seconds_of(Device device, const std::function<void()>& body) {
  body();
  std::vector<double> seconds;
  for (int repeat = 0; repeat < 5; ++repeat) {
    synchronise(device);
    const auto start = std::chrono::steady_clock::now();
    body();
    synchronise(device);
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds[2];
}

std::size_t operand_bytes(std::span<const Tensor> tensors) {
  std::size_t bytes = 0;
  for (const Tensor& tensor : tensors) bytes += tensor.bytes();
  return bytes;
}

}  // namespace

TEST_SUITE("perf") {
  TEST_CASE("op table, perf: the largest case of each op in every place") {
    std::map<std::string, const OpCase*> largest;
    const auto size_of = [](const OpCase& c) {
      std::int64_t elements = 0;
      for (const Operand& operand : c.operands) elements += operand.shape.size();
      return elements;
    };
    for (const OpCase& c : CaseTable::instance().cases()) {
      const OpCase*& best = largest[c.op];
      if (best == nullptr || size_of(c) > size_of(*best)) best = &c;
    }
    fmt::print("{:<22} {:<10} {:>12} {:>10} {:>14}  {}\n", "op", "place", "forward us", "GB/s", "with grad us", "case");
    for (const auto& [op, c] : largest) {
      for (const Place& place : places()) {
        if (!runs_at(*c, place)) continue;
        std::vector<Tensor> inputs;
        bool differentiable = false;
        for (const Operand& operand : c->operands) inputs.push_back(place_operand(operand, place));
        const Tensor output = c->run(inputs);
        const double forward = seconds_of(place.device, [&] { c->run(inputs); });
        for (std::size_t i = 0; i < inputs.size(); ++i) {
          if (!c->operands[i].differentiable || c->operands[i].integer) continue;
          inputs[i].require_gradient();
          differentiable = true;
        }
        double both = 0;
        if (differentiable && output.size() > 0) {
          both = seconds_of(place.device, [&] {
            Tape tape;
            const Tensor y = c->run(inputs);
            if (!y.requires_gradient()) return;
            const Tensor dy = Tensor::zeros(y.shape(), y.dtype(), y.device());
            tape.backward(std::span(&y, 1), std::span(&dy, 1));
          });
        }
        CHECK(forward > 0);
        const auto bytes = static_cast<double>(operand_bytes(inputs) + output.bytes());
        fmt::print("{:<22} {:<10} {:>12.1f} {:>10.2f} {:>14}  {}\n", op, place_name(place), 1e6 * forward, 1e-9 * bytes / forward,
                   both > 0 ? fmt::format("{:.1f}", 1e6 * both) : "-", c->label);
      }
    }
  }
}

}  // namespace expctr::test
