#include "base/kernels/linear.h"

#include <doctest/doctest.h>

#include "base/error.h"
#include "base/kernels/matmul.h"
#include "base/kernels/sampling.h"
#include "frozen.h"

using namespace expctr;
using namespace expctr::test;

TEST_CASE("a frozen product has the bits of matmul on the dequantised weight") {
  for (const DType dtype : weight_types) {
    for (const auto& [outputs, inputs] : {std::pair<std::int64_t, std::int64_t>{1, 32}, {45, 64}, {96, 160}, {33, 45}, {70, 512}}) {
      if (inputs % dtype_traits(dtype).block_elements != 0 || (inputs == 512 && dtype != DType::f32 && !is_quantised(dtype))) continue;
      const Frozen weight(dtype, outputs, inputs, 5);
      Array<float> bias({outputs});
      bias.random(8);
      for_each_setting([&] {
        for (const std::int64_t rows : {1, 2, 3, 5, 8, 13, 40}) {
          CAPTURE(dtype_name(dtype));
          CAPTURE(rows);
          Array<float> x({rows, inputs}), y({rows, outputs}), with_bias({rows, outputs}), expected({rows, outputs});
          x.random(6);
          cpu::run(MatMul{1, false, true, false, x.view(), weight.values.view(), expected.view()}, Stream{});
          cpu::run(LinearFrozen{weight.packed, x.view(), View{}, y.view()}, Stream{});
          cpu::run(LinearFrozen{weight.packed, x.view(), bias.view(), with_bias.view()}, Stream{});
          CHECK(same_bits(y, expected));
          for (std::int64_t i = 0; i < expected.size(); ++i) expected[i] += bias[i % outputs];
          CHECK(same_bits(with_bias, expected));
          CHECK(y.intact());
          CHECK(with_bias.intact());

          Array<float> dy({rows, outputs}), dx({rows, inputs}), expected_dx({rows, inputs});
          dy.random(11);
          dx.random(12);
          expected_dx.random(12);
          cpu::run(MatMul{1, false, false, true, dy.view(), weight.values.view(), expected_dx.view()}, Stream{});
          LinearFrozenBackward backward{weight.packed, dy.view(), dx.view(), View{}};
          auto scratch = scratch_for(cpu::scratch_bytes(backward));
          backward.scratch = scratch.view();
          cpu::run(backward, Stream{});
          CHECK(same_bits(dx, expected_dx));
          CHECK(dx.intact());
          CHECK(scratch.intact());
        }
      });
    }
  }
}

TEST_CASE("a long sum over outputs in the backward pass crosses chunks without changing bits") {
  const Frozen weight(DType::q8_0, 2500, 64, 3);
  Array<float> dy({7, 2500}), dx({7, 64}), expected({7, 64});
  dy.random(4);
  cpu::run(MatMul{1, false, false, true, dy.view(), weight.values.view(), expected.view()}, Stream{});
  LinearFrozenBackward backward{weight.packed, dy.view(), dx.view(), View{}};
  auto scratch = scratch_for(cpu::scratch_bytes(backward));
  backward.scratch = scratch.view();
  cpu::run(backward, Stream{});
  CHECK(same_bits(dx, expected));
}

TEST_CASE("packed weights are as large as the file's, and unknown types are refused") {
  for (const DType dtype : {DType::q4_0, DType::q4_1, DType::q5_0, DType::q5_1, DType::q8_0, DType::q6_k})
    CHECK(cpu::packed_weight_bytes(64, 768, dtype, ComputeMode::f32) == 64 * dtype_bytes(dtype, 768));
  for (const DType dtype : {DType::q4_k, DType::q5_k})  // scales of six bits take a byte
    CHECK(cpu::packed_weight_bytes(64, 768, dtype, ComputeMode::f32) == 64 * (dtype_bytes(dtype, 768) + 3 * 4));
  CHECK(cpu::packed_weight_bytes(64, 96, DType::f32, ComputeMode::bf16) == 64 * 96 * 2);
  CHECK(cpu::packed_weight_bytes(64, 96, DType::q4_1, ComputeMode::bf16) == 64 * dtype_bytes(DType::q4_1, 96));
  for (const DType dtype : {DType::q4_0, DType::q4_1, DType::q8_0})
    CHECK(cpu::packed_weight_bytes(64, 96, dtype, ComputeMode::int8) == 64 * dtype_bytes(dtype, 96));
  CHECK(cpu::packed_weight_bytes(64, 96, DType::f32, ComputeMode::int8) == 64 * 3 * 36);
  CHECK_THROWS_WITH(cpu::packed_weight_bytes(64, 256, DType::i32, ComputeMode::f32), doctest::Contains("type i32 are not supported"));
}

namespace {

struct HeadCase {
  std::int64_t rows, classes, inputs;
  double temperature;
};

}  // namespace

TEST_CASE("the fused head agrees with a plain softmax in double, and a row with itself alone") {
  for (const HeadCase c : {HeadCase{1, 1, 32, 1.0}, HeadCase{5, 2100, 64, 0.7}, HeadCase{130, 1100, 32, 1.0}}) {
    const Frozen weight(DType::q4_1, c.classes, c.inputs, 21);
    Array<float> x({c.rows, c.inputs}), gradient({c.rows});
    Array<std::int32_t> targets({c.rows});
    x.random(22, 2.0);
    gradient.random(23);
    for (std::int64_t r = 0; r < c.rows; ++r) targets[r] = r % 5 == 3 ? -100 : static_cast<std::int32_t>((r * 7919) % c.classes);
    const HeadResult result = run_head(weight, x, targets, gradient, 0, c.rows, c.temperature);
    std::vector<double> logits(c.classes);
    Array<float> start({c.rows, c.inputs});
    start.random(77);
    for (std::int64_t r = 0; r < c.rows; ++r) {
      double top = -INFINITY, sum = 0, entropy = 0;
      for (std::int64_t n = 0; n < c.classes; ++n) {
        double dot = 0;
        for (std::int64_t k = 0; k < c.inputs; ++k) dot += static_cast<double>(x[r * c.inputs + k]) * weight.values[n * c.inputs + k];
        logits[n] = dot / c.temperature;
        top = std::max(top, logits[n]);
      }
      for (const double l : logits) sum += std::exp(l - top);
      const double log_sum_exp = top + std::log(sum);
      for (const double l : logits) entropy -= std::exp(l - log_sum_exp) * (l - log_sum_exp);
      CHECK(result.log_sum_exp[r] == doctest::Approx(log_sum_exp).epsilon(2e-6));
      const bool skipped = targets[r] < 0;
      CHECK(std::abs(result.log_probability[r] - (skipped ? 0.0 : logits[targets[r]] - log_sum_exp)) < 2e-5);
      CHECK(std::abs(result.entropy[r] - (skipped ? 0.0 : entropy)) < 2e-5);
      for (std::int64_t k = 0; k < c.inputs; ++k) {
        double expected = start[r * c.inputs + k];
        for (std::int64_t n = 0; n < c.classes && !skipped; ++n)
          expected +=
              gradient[r] * ((n == targets[r]) - std::exp(logits[n] - log_sum_exp)) / c.temperature * weight.values[n * c.inputs + k];
        CHECK(std::abs(result.dx[r * c.inputs + k] - expected) < 2e-5);
      }
    }
    for_each_setting([&] {
      const HeadResult again = run_head(weight, x, targets, gradient, 0, c.rows, c.temperature);
      CHECK(same_bits(again.log_probability, result.log_probability));
      CHECK(same_bits(again.log_sum_exp, result.log_sum_exp));
      CHECK(same_bits(again.entropy, result.entropy));
      CHECK(same_bits(again.dx, result.dx));
    });
    for (const std::int64_t r : {std::int64_t{0}, c.rows / 2, c.rows - 1}) {
      const HeadResult alone = run_head(weight, x, targets, gradient, r, 1, c.temperature);
      CHECK(alone.log_probability[0] == result.log_probability[r]);
      CHECK(alone.log_sum_exp[0] == result.log_sum_exp[r]);
      CHECK(alone.entropy[0] == result.entropy[r]);
    }
  }
}

TEST_CASE("sampling and the fused head give the same log-probability bits") {
  const Frozen weight(DType::q8_0, 2500, 64, 31);
  const std::int64_t rows = 9;
  for (const double temperature : {1.0, 0.7}) {
    Array<float> x({rows, 64}), logits({rows, 2500}), u({rows}), sampled({rows}), gradient({rows});
    Array<std::int32_t> token({rows});
    x.random(32);
    for (std::int64_t r = 0; r < rows; ++r) u[r] = static_cast<float>(r) / rows;
    cpu::run(LinearFrozen{weight.packed, x.view(), View{}, logits.view()}, Stream{});
    SampleToken sample{temperature, 0.95, 0.0, 50, logits.view(), u.view(), token.view(), sampled.view(), View{}};
    auto scratch = scratch_for(cpu::scratch_bytes(sample));
    sample.scratch = scratch.view();
    cpu::run(sample, Stream{});
    CHECK(same_bits(run_head(weight, x, token, gradient, 0, rows, temperature).log_probability, sampled));
  }
}

TEST_CASE("a target outside the vocabulary is an error") {
  const Frozen weight(DType::f32, 10, 8, 1);
  Array<float> x({1, 8}), out({1});
  Array<std::int32_t> target({1}, 10);
  LinearCrossEntropyForward forward{weight.packed, 1.0, x.view(), target.view(), out.view(), out.view(), View{}, View{}};
  auto scratch = scratch_for(cpu::scratch_bytes(forward));
  forward.scratch = scratch.view();
  CHECK_THROWS_WITH(cpu::run(forward, Stream{}), doctest::Contains("target 10 of row 0 is not below 10"));
}
