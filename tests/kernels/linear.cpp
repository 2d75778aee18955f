#include "base/kernels/linear.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <memory>
#include <string>

#include "base/blocks.h"
#include "base/error.h"
#include "base/kernels/matmul.h"
#include "base/kernels/sampling.h"
#include "support.h"

using namespace expctr;
using namespace expctr::test;

namespace {

struct AlignedDeleter {
  void operator()(std::byte* memory) const { std::free(memory); }
};

/// A frozen weight with random content, its file bytes, and its values as float.
struct Frozen {
  std::vector<std::byte> file;
  Array<float> values;
  std::unique_ptr<std::byte, AlignedDeleter> memory;
  PackedWeight packed;

  Frozen(DType dtype, std::int64_t outputs, std::int64_t inputs, std::uint32_t seed) : values({outputs, inputs}) {
    file.resize(outputs * dtype_bytes(dtype, inputs));
    Array<float> numbers({outputs, inputs});
    numbers.random(seed, 0.5);
    const auto bits = [&](std::int64_t i) { return philox({seed, 9}, {static_cast<std::uint32_t>(i), 1, 0, 0}).word[0]; };
    for (std::int64_t i = 0; i < values.size(); ++i) {
      switch (dtype) {
        case DType::f32:
          values[i] = numbers[i];
          reinterpret_cast<float*>(file.data())[i] = numbers[i];
          break;
        case DType::f64:
          reinterpret_cast<double*>(file.data())[i] = numbers[i] + 1e-9;
          values[i] = static_cast<float>(numbers[i] + 1e-9);
          break;
        case DType::bf16: {
          const std::uint16_t half = bf16_of_float(numbers[i]);
          reinterpret_cast<std::uint16_t*>(file.data())[i] = half;
          values[i] = float_of_bf16(half);
          break;
        }
        case DType::f16: {
          const std::uint16_t half = static_cast<std::uint16_t>(0x2400 + bits(i) % 0x1800 + (bits(i) >> 31 << 15));
          reinterpret_cast<std::uint16_t*>(file.data())[i] = half;
          values[i] = float_of_f16(half);
          break;
        }
        case DType::q8_0: {
          auto& block = reinterpret_cast<BlockQ8_0*>(file.data())[i / 32];
          if (i % 32 == 0) block.d = static_cast<std::uint16_t>(0x1800 + bits(i) % 0x400);
          block.codes[i % 32] = static_cast<std::int8_t>(bits(i + 1) & 255);
          values[i] = dequantise(block, static_cast<int>(i % 32));
          break;
        }
        default: {
          auto& block = reinterpret_cast<BlockQ4_1*>(file.data())[i / 32];
          if (i % 32 == 0) {
            block.d = static_cast<std::uint16_t>(0x2400 + bits(i) % 0x400);
            block.m = static_cast<std::uint16_t>(0xA800 + bits(i + 7) % 0x400);
            for (int j = 0; j < 16; ++j) block.codes[j] = static_cast<std::uint8_t>(bits(i + 11 * j) >> 8);
          }
          values[i] = dequantise(block, static_cast<int>(i % 32));
        }
      }
    }
    packed.outputs = outputs;
    packed.inputs = inputs;
    packed.dtype = dtype;
    packed.bytes = cpu::packed_weight_bytes(outputs, inputs, dtype, ComputeMode::f32);
    memory.reset(static_cast<std::byte*>(std::aligned_alloc(64, (packed.bytes + 63) / 64 * 64)));
    packed.data = memory.get();
    View source;
    source.data = file.data();
    source.dtype = dtype;
    source.rank = 2;
    source.shape[0] = outputs;
    source.shape[1] = inputs;
    cpu::run(PackWeight{source, packed}, Stream{});
  }
};

const DType weight_types[] = {DType::f32, DType::f64, DType::bf16, DType::f16, DType::q8_0, DType::q4_1};

Array<std::uint8_t> scratch_for(std::size_t bytes) { return Array<std::uint8_t>({static_cast<std::int64_t>(bytes)}); }

}  // namespace

TEST_CASE("a frozen product has the bits of matmul on the dequantised weight") {
  for (const DType dtype : weight_types) {
    for (const auto& [outputs, inputs] : {std::pair<std::int64_t, std::int64_t>{1, 32}, {45, 64}, {96, 160}, {33, 45}}) {
      if (is_quantised(dtype) && inputs % 32 != 0) continue;
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
  CHECK(cpu::packed_weight_bytes(64, 96, DType::q4_1, ComputeMode::f32) == 64 * dtype_bytes(DType::q4_1, 96));
  CHECK(cpu::packed_weight_bytes(64, 96, DType::q8_0, ComputeMode::f32) == 64 * dtype_bytes(DType::q8_0, 96));
  CHECK_THROWS_WITH(cpu::packed_weight_bytes(64, 256, DType::q6_k, ComputeMode::f32), doctest::Contains("type q6_k are not supported"));
}

namespace {

struct HeadCase {
  std::int64_t rows, classes, inputs;
  double temperature;
};

struct HeadResult {
  Array<float> log_probability, log_sum_exp, entropy, dx;
};

/// Runs both passes on rows first .. first + rows - 1 of x.
HeadResult run_head(const Frozen& weight, const Array<float>& x, const Array<std::int32_t>& targets, const Array<float>& gradient,
                    std::int64_t first, std::int64_t rows, double temperature) {
  const std::int64_t inputs = weight.packed.inputs;
  HeadResult result{Array<float>({rows}), Array<float>({rows}), Array<float>({rows}), Array<float>({rows, inputs})};
  result.dx.random(77);
  const auto part = [&](View view, std::int64_t width, std::size_t size) {
    view.data = static_cast<char*>(view.data) + first * width * static_cast<std::int64_t>(size);
    view.shape[0] = rows;
    return view;
  };
  const View x_part = part(x.view(), inputs, 4), target_part = part(targets.view(), 1, 4);
  LinearCrossEntropyForward forward{
      weight.packed,         temperature, x_part, target_part, result.log_probability.view(), result.log_sum_exp.view(),
      result.entropy.view(), View{}};
  auto scratch = scratch_for(cpu::scratch_bytes(forward));
  forward.scratch = scratch.view();
  cpu::run(forward, Stream{});
  LinearCrossEntropyBackward backward{
      weight.packed, temperature, x_part, target_part, result.log_sum_exp.view(), part(gradient.view(), 1, 4), result.dx.view(), View{}};
  auto more = scratch_for(cpu::scratch_bytes(backward));
  backward.scratch = more.view();
  cpu::run(backward, Stream{});
  CHECK(scratch.intact());
  CHECK(more.intact());
  CHECK(result.dx.intact());
  CHECK(result.entropy.intact());
  return result;
}

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
