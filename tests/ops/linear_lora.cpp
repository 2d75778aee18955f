#include "engine/ops/linear_lora.h"

#include "base/philox.h"
#include "tests/ops/op_cases.h"

using namespace expctr;
using namespace expctr::test;

namespace {

constexpr double scale = 1.75;
const DropoutKey key{5, 3, 2};

/// The kernel's mask, written out: element c of the row named `sample`.
double kept(double probability, std::int32_t sample, std::int64_t c) {
  if (probability == 0.0) return 1.0;
  const RandomBits bits = philox(random_key(key.seed, "dropout"),
                                 {key.step, static_cast<std::uint32_t>(sample), static_cast<std::uint32_t>(c / 4), key.channel});
  return uniform_float(bits.word[c % 4]) >= static_cast<float>(probability)
             ? 1.0 / (1.0 - static_cast<double>(static_cast<float>(probability)))
             : 0.0;
}

/// x, w, bias, a, b -> y; row r uses adapter ids[r].
std::vector<double> plain_lora(std::span<const Operand> in, const std::vector<std::int32_t>& ids, double probability) {
  const Operand &x = in[0], &w = in[1], &bias = in[2], &a = in[3], &b = in[4];
  const std::int64_t rows = x.shape[0], inputs = x.shape[1], outputs = w.shape[0], rank = a.shape[1];
  std::vector<double> y;
  for (std::int64_t r = 0; r < rows; ++r) {
    std::vector<double> low(static_cast<std::size_t>(rank), 0.0);
    const std::int64_t id = ids[static_cast<std::size_t>(r)];
    for (std::int64_t j = 0; id >= 0 && j < rank; ++j)
      for (std::int64_t i = 0; i < inputs; ++i)
        low[static_cast<std::size_t>(j)] +=
            x.values[r * inputs + i] * kept(probability, static_cast<std::int32_t>(100 + r), i) * a.values[(id * rank + j) * inputs + i];
    for (std::int64_t o = 0; o < outputs; ++o) {
      double sum = bias.values[o];
      for (std::int64_t i = 0; i < inputs; ++i) sum += x.values[r * inputs + i] * w.values[o * inputs + i];
      for (std::int64_t j = 0; id >= 0 && j < rank; ++j)
        sum += scale * low[static_cast<std::size_t>(j)] * b.values[(id * outputs + o) * rank + j];
      y.push_back(sum);
    }
  }
  return y;
}

}  // namespace

OP_CASES(linear_lora) {
  meaningless(DType::f64, "frozen weights are packed in f32 or less");
  struct Case {
    std::int64_t rows, inputs, outputs, adapters, rank;
    bool with_ids;
    double probability;
  };
  for (const Case& c : {Case{1, 1, 1, 1, 1, false, 0.0},
                        {0, 3, 2, 1, 2, false, 0.0},
                        {7, 13, 9, 1, 3, false, 0.0},
                        {7, 13, 9, 1, 3, false, 0.25},
                        {9, 6, 5, 3, 2, true, 0.0},
                        {9, 6, 5, 3, 2, true, 0.5},
                        {20, 33, 17, 2, 8, true, 0.1}}) {
    std::vector<std::int32_t> ids, samples;
    for (std::int64_t r = 0; r < c.rows; ++r) {
      ids.push_back(c.with_ids ? static_cast<std::int32_t>((r * 5 + r / 3) % (c.adapters + 1)) - 1 : 0);  // runs and changes, -1 among them
      samples.push_back(static_cast<std::int32_t>(100 + r));
    }
    OpCase& added = add_case(
        Shape{c.rows, c.inputs}.text() + " to " + std::to_string(c.outputs) + ", " + std::to_string(c.adapters) + " adapters of rank " +
            std::to_string(c.rank) + ", dropout " + std::to_string(c.probability) + (c.with_ids ? ", ids" : ""),
        {uniform({c.rows, c.inputs}), constant(uniform({c.outputs, c.inputs}, -1.0, 1.0, 2)), parameter(constant(uniform({c.outputs}, -1.0, 1.0, 3))),
         parameter(uniform({c.adapters, c.rank, c.inputs}, -1.0, 1.0, 4)),
         parameter(uniform({c.adapters, c.outputs, c.rank}, -1.0, 1.0, 5)), integers({c.rows}, ids),
         integers({c.rows}, samples)},
        [=](std::span<const Tensor> in) {
          return linear_lora(in[0], FrozenWeight(in[1]), in[2], in[3], in[4], scale, c.with_ids ? in[5] : Tensor(),
                             {c.probability, in[6], key});
        },
        [=](std::span<const Operand> in) { return plain_lora(in, ids, c.probability); }, std::max({c.rows, c.inputs, c.outputs}) + c.rank);
    added.float64 = false;
    added.magnitude = 4.0;
  }
  add_error(
      [] {
        linear_lora(Tensor::zeros({2, 3}), FrozenWeight(Tensor::zeros({5, 3})), {}, Tensor::zeros({2, 4}), Tensor::zeros({5, 2}), 1.0);
      },
      "linear_lora: a is [1, 2, 4], b [1, 5, 2], the weight [5, 3]");
  add_error(
      [] {
        linear_lora(Tensor::zeros({2, 3}), FrozenWeight(Tensor::zeros({5, 3})), {}, Tensor::zeros({2, 3}), Tensor::zeros({5, 2}), 1.0,
                    Tensor::zeros({3}, DType::i32));
      },
      "linear_lora: ids is [3], expected [2]");
  add_error(
      [] {
        linear_lora(Tensor::zeros({1, 3}), FrozenWeight(Tensor::zeros({5, 3})), {}, Tensor::zeros({1, 2, 3}), Tensor::zeros({1, 5, 2}), 1.0,
                    Tensor::of(std::vector<std::int32_t>{1}, {1}));
      },
      "adapter 1 of row 0 is not below 1");
}
