#include "engine/ops/linear.h"

#include <cmath>

#include "tests/ops/op_cases.h"

using namespace expctr;
using namespace expctr::test;

namespace {

// The ops exist for float32 activations only; gradients are compared with finite differences of these references.
OpCase& add_case_f32(std::string label, std::vector<Operand> operands, Operation run, Reference reference, std::int64_t reduction) {
  OpCase& added = add_case(std::move(label), std::move(operands), std::move(run), std::move(reference), reduction);
  added.float64 = false;
  return added;
}

std::vector<double> plain_linear(const Operand& x, const std::vector<double>& weight, std::int64_t outputs, const double* bias) {
  const std::int64_t rows = x.shape[0], inputs = x.shape[1];
  std::vector<double> y;
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t n = 0; n < outputs; ++n) {
      double sum = bias == nullptr ? 0.0 : bias[n];
      for (std::int64_t k = 0; k < inputs; ++k) sum += x.values[r * inputs + k] * weight[static_cast<std::size_t>(n * inputs + k)];
      y.push_back(sum);
    }
  }
  return y;
}

/// Numbers that 16-bit formats and small blocks hold exactly: codes -8 .. 7 times 1/8.
int code_of(std::int64_t i) { return static_cast<int>((i * 37 + i * i * 11) % 16) - 8; }

/// [outputs, inputs] of code_of(i) / 8, as the format stores it.
Tensor stored_weight(std::int64_t outputs, std::int64_t inputs, DType dtype, Device device) {
  std::vector<std::uint8_t> bytes;
  const std::int64_t n = outputs * inputs;
  const auto half = [&](std::uint16_t bits) {
    bytes.push_back(static_cast<std::uint8_t>(bits & 255));
    bytes.push_back(static_cast<std::uint8_t>(bits >> 8));
  };
  if (dtype == DType::bf16 || dtype == DType::f16) {
    for (std::int64_t i = 0; i < n; ++i) {
      const float value = static_cast<float>(code_of(i)) / 8.0f;
      int exponent = 0;
      const float fraction = std::frexp(std::abs(value), &exponent);  // in [1/2, 1)
      const int sign = value < 0.0f ? 0x8000 : 0;
      if (value == 0.0f)
        half(0);
      else if (dtype == DType::bf16)
        half(static_cast<std::uint16_t>(sign | ((exponent + 126) << 7) | (static_cast<int>(fraction * 256.0f) & 127)));
      else
        half(static_cast<std::uint16_t>(sign | ((exponent + 14) << 10) | (static_cast<int>(fraction * 2048.0f) & 1023)));
    }
  } else if (dtype == DType::q8_0) {
    for (std::int64_t block = 0; block < n; block += 32) {
      half(0x3000);  // 1/8
      for (int i = 0; i < 32; ++i) bytes.push_back(static_cast<std::uint8_t>(code_of(block + i)));
    }
  } else {  // q4_1: minimum -1
    for (std::int64_t block = 0; block < n; block += 32) {
      half(0x3000);
      half(0xBC00);
      for (int i = 0; i < 16; ++i)
        bytes.push_back(static_cast<std::uint8_t>((code_of(block + i) + 8) | ((code_of(block + i + 16) + 8) << 4)));
    }
  }
  return Tensor::of_bytes(std::as_bytes(std::span(bytes)), {outputs, inputs}, dtype, device);
}

std::vector<double> stored_values(std::int64_t n) {
  std::vector<double> values;
  for (std::int64_t i = 0; i < n; ++i) values.push_back(code_of(i) / 8.0);
  return values;
}

struct Scores {
  std::vector<double> log_probability, entropy;
};

Scores plain_scores(const Operand& x, const Operand& weight, const std::vector<std::int32_t>& targets, double temperature) {
  const std::int64_t classes = weight.shape[0];
  const std::vector<double> logits = plain_linear(x, weight.values, classes, nullptr);
  Scores scores;
  for (std::size_t r = 0; r < targets.size(); ++r) {
    const double* row = logits.data() + static_cast<std::int64_t>(r) * classes;
    double sum = 0.0, entropy = 0.0;
    for (std::int64_t i = 0; i < classes; ++i) sum += std::exp(row[i] / temperature);
    for (std::int64_t i = 0; i < classes; ++i) entropy -= std::exp(row[i] / temperature) / sum * (row[i] / temperature - std::log(sum));
    const bool skipped = targets[r] < 0;
    scores.log_probability.push_back(skipped ? 0.0 : row[targets[r]] / temperature - std::log(sum));
    scores.entropy.push_back(skipped ? 0.0 : entropy);
  }
  return scores;
}

}  // namespace

OP_CASES(linear_frozen) {
  meaningless(DType::f64, "frozen weights are packed in f32 or less");
  for (const auto& [rows, inputs, outputs] :
       {std::array<std::int64_t, 3>{1, 1, 1}, {0, 3, 2}, {3, 7, 5}, {1, 67, 130}, {7, 33, 17}, {37, 64, 32}}) {
    const std::vector<Operand> operands = {uniform({rows, inputs}), constant(uniform({outputs, inputs}, -1.0, 1.0, 2)),
                                           parameter(constant(uniform({outputs}, -1.0, 1.0, 3)))};
    const std::string label = Shape{rows, inputs}.text() + " to " + std::to_string(outputs);
    add_case_f32(
        label, operands, [](std::span<const Tensor> in) { return linear_frozen(in[0], FrozenWeight(in[1]), in[2]); },
        [](std::span<const Operand> in) { return plain_linear(in[0], in[1].values, in[1].shape[0], in[2].values.data()); },
        std::max(inputs, outputs));
    add_case_f32(
        label + " without bias", operands, [](std::span<const Tensor> in) { return linear_frozen(in[0], FrozenWeight(in[1])); },
        [](std::span<const Operand> in) { return plain_linear(in[0], in[1].values, in[1].shape[0], nullptr); }, std::max(inputs, outputs));
  }
  for (const DType dtype : {DType::bf16, DType::f16, DType::q8_0, DType::q4_1}) {
    for (const auto& [rows, inputs, outputs] : {std::array<std::int64_t, 3>{1, 32, 1}, {3, 64, 7}, {18, 96, 37}}) {
      add_case_f32(
          std::string(dtype_name(dtype)) + " " + Shape{rows, inputs}.text() + " to " + std::to_string(outputs), {uniform({rows, inputs})},
          [=](std::span<const Tensor> in) {
            return linear_frozen(in[0], FrozenWeight(stored_weight(outputs, inputs, dtype, in[0].device())));
          },
          [=](std::span<const Operand> in) { return plain_linear(in[0], stored_values(outputs * inputs), outputs, nullptr); },
          std::max(inputs, outputs));
    }
  }
  add_error(
      [] {
        linear_frozen(Tensor::zeros({2, 3}), FrozenWeight(Tensor::zeros({5, 4})));
      },
      "linear_frozen: x is f32 [2, 3] on cpu, the weight [5, 4] on cpu");
  add_error(
      [] {
        linear_frozen(Tensor::zeros({2, 3}), FrozenWeight(Tensor::zeros({5, 3})), Tensor::zeros({4}));
      },
      "linear_frozen: bias is [4], expected [5]");
  add_error([] { FrozenWeight(Tensor::zeros({5})); }, "frozen weight: source is [5], expected 2 axes");
}

OP_CASES(linear_cross_entropy) {
  for (const auto& [rows, inputs, classes] : {std::array<std::int64_t, 3>{1, 1, 1}, {0, 3, 2}, {3, 7, 5}, {5, 13, 67}, {3, 9, 2100}}) {
    for (const double temperature : {1.0, 0.75}) {
      std::vector<std::int32_t> targets;
      for (std::int64_t r = 0; r < rows; ++r) targets.push_back(r == 1 ? -1 : static_cast<std::int32_t>((7 * r + 3) % classes));
      const std::string label =
          Shape{rows, inputs}.text() + " to " + std::to_string(classes) + ", temperature " + std::to_string(temperature);
      const std::vector<Operand> operands = {uniform({rows, inputs}), constant(uniform({classes, inputs}, -1.0, 1.0, 2)),
                                             integers({rows}, targets)};
      add_case_f32(
          label, operands,
          [=](std::span<const Tensor> in) { return linear_cross_entropy(in[0], FrozenWeight(in[1]), in[2], temperature).log_probability; },
          [=](std::span<const Operand> in) { return plain_scores(in[0], in[1], in[2].ids, temperature).log_probability; }, inputs + classes)
          .magnitude = 1.0;
      // A skipped row has no entropy that anybody reads.
      std::vector<std::int32_t> all = targets;
      for (std::int32_t& target : all) target = std::max(target, 0);
      add_case_f32(
          label + ", entropy", {constant(operands[0]), operands[1], integers({rows}, all)},
          [=](std::span<const Tensor> in) { return linear_cross_entropy(in[0], FrozenWeight(in[1]), in[2], temperature, true).entropy; },
          [=](std::span<const Operand> in) { return plain_scores(in[0], in[1], in[2].ids, temperature).entropy; }, inputs + classes)
          .magnitude = 1.0;
    }
  }
  // A trained head: several tiles of classes, and rows beyond one block of the CPU's backward pass.
  for (const auto& [rows, inputs, classes] : {std::array<std::int64_t, 3>{1, 1, 1}, {0, 3, 2}, {5, 13, 67}, {3, 5, 1100}, {500, 2, 3}}) {
    std::vector<std::int32_t> targets;
    for (std::int64_t r = 0; r < rows; ++r) targets.push_back(r == 1 ? -1 : static_cast<std::int32_t>((7 * r + 3) % classes));
    OpCase& added = add_case(
        "a trained head " + Shape{rows, inputs}.text() + " to " + std::to_string(classes),
        {uniform({rows, inputs}), parameter(uniform({classes, inputs}, -1.0, 1.0, 2)), integers({rows}, targets)},
        [](std::span<const Tensor> in) { return linear_cross_entropy(in[0], in[1], in[2], 0.75).log_probability; },
        [](std::span<const Operand> in) { return plain_scores(in[0], in[1], in[2].ids, 0.75).log_probability; }, inputs + classes + rows);
    added.magnitude = 1.0;
  }
  add_error(
      [] {
        linear_cross_entropy(Tensor::zeros({2, 3}), FrozenWeight(Tensor::zeros({5, 3})), Tensor::zeros({3}, DType::i32));
      },
      "linear_cross_entropy: targets is [3], expected [2]");
  add_error(
      [] {
        linear_cross_entropy(Tensor::zeros({2, 3}), FrozenWeight(Tensor::zeros({5, 3})), Tensor::zeros({2}, DType::i32), 0.0);
      },
      "linear_cross_entropy: temperature 0");
}
