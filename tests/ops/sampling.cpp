#include "engine/ops/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "tests/ops/op_cases.h"

using namespace expctr;
using namespace expctr::test;

namespace {

/// Log-probabilities of one row of logits divided by the temperature (by 1 where it is 0).
std::vector<double> plain_log_softmax(const double* logits, std::int64_t classes, double temperature) {
  const double divisor = temperature == 0.0 ? 1.0 : temperature;
  double sum = 0.0;
  for (std::int64_t i = 0; i < classes; ++i) sum += std::exp(logits[i] / divisor);
  std::vector<double> result;
  for (std::int64_t i = 0; i < classes; ++i) result.push_back(logits[i] / divisor - std::log(sum));
  return result;
}

std::int64_t plain_token(const double* logits, std::int64_t classes, double u, const SamplingOptions& options) {
  if (options.temperature == 0.0) return std::max_element(logits, logits + classes) - logits;
  const std::vector<double> log_p = plain_log_softmax(logits, classes, options.temperature);
  std::vector<std::int64_t> order(static_cast<std::size_t>(classes));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) { return logits[a] > logits[b]; });
  if (options.top_k > 0 && options.top_k < classes) order.resize(static_cast<std::size_t>(options.top_k));
  double all = 0.0, sum = 0.0;
  for (const std::int64_t i : order) all += std::exp(log_p[static_cast<std::size_t>(i)]);
  for (std::size_t n = 0; options.top_p < 1.0 && n < order.size(); ++n) {
    sum += std::exp(log_p[static_cast<std::size_t>(order[n])]) / all;
    if (sum >= options.top_p) order.resize(n + 1);
  }
  const double best = std::exp(log_p[static_cast<std::size_t>(order[0])]);
  std::erase_if(order, [&](std::int64_t i) { return std::exp(log_p[static_cast<std::size_t>(i)]) < options.min_p * best; });
  std::sort(order.begin(), order.end());
  double total = 0.0, cumulative = 0.0;
  for (const std::int64_t i : order) total += std::exp(log_p[static_cast<std::size_t>(i)]);
  for (const std::int64_t i : order) {
    cumulative += std::exp(log_p[static_cast<std::size_t>(i)]) / total;
    if (cumulative > u) return i;
  }
  return order.back();
}

}  // namespace

OP_CASES(sample_tokens) {
  meaningless(DType::f64, "logits are what a model computed, f32 or bf16");
  const std::pair<SamplingOptions, const char*> rules[] = {{{.temperature = 1.0}, "plain"},
                                                           {{.temperature = 0.0}, "greedy"},
                                                           {{.temperature = 0.7}, "temperature 0.7"},
                                                           {{.temperature = 1.0, .top_k = 3}, "top_k 3"},
                                                           {{.temperature = 1.3, .top_p = 0.6}, "top_p 0.6"},
                                                           {{.temperature = 1.0, .min_p = 0.3}, "min_p 0.3"},
                                                           {{.temperature = 0.9, .top_k = 20, .top_p = 0.8, .min_p = 0.05}, "all"}};
  for (const auto& [options, name] : rules) {
    for (const auto& [rows, classes] : {std::pair{1, 1}, {0, 5}, {9, 7}, {5, 1031}}) {
      const std::vector<Operand> operands = {constant(uniform({rows, classes}, -4.0, 4.0)), parameter(constant(uniform({rows}, 0.0, 0.999, 2)))};
      const std::string label = std::string(name) + " " + Shape{rows, classes}.text();
      add_case(
          label + ", token", operands,
          [options](std::span<const Tensor> in) {
            const std::vector<std::int32_t> tokens = sample_tokens(in[0], in[1], options).token.to_vector<std::int32_t>();
            return Tensor::of(std::vector<float>(tokens.begin(), tokens.end()), {static_cast<std::int64_t>(tokens.size())});
          },
          [options](std::span<const Operand> in) {
            std::vector<double> y;
            for (std::size_t r = 0; r < in[1].values.size(); ++r)
              y.push_back(static_cast<double>(plain_token(in[0].values.data() + static_cast<std::int64_t>(r) * in[0].shape[1],
                                                          in[0].shape[1], in[1].values[r], options)));
            return y;
          })
          .float64 = false;
      OpCase& scored = add_case(
          label + ", log-probability", operands,
          [options](std::span<const Tensor> in) { return sample_tokens(in[0], in[1], options).log_probability; },
          [options](std::span<const Operand> in) {
            const std::int64_t classes = in[0].shape[1];
            std::vector<double> y;
            for (std::size_t r = 0; r < in[1].values.size(); ++r) {
              const double* logits = in[0].values.data() + static_cast<std::int64_t>(r) * classes;
              y.push_back(plain_log_softmax(
                  logits, classes, options.temperature)[static_cast<std::size_t>(plain_token(logits, classes, in[1].values[r], options))]);
            }
            return y;
          },
          classes);
      scored.float64 = false;
      scored.magnitude = 4.0;
    }
  }
  // The first of equal maxima.
  add_case(
      "greedy tie", {integers({1}, {0})},
      [](std::span<const Tensor> in) {
        const Device device = in[0].device();
        const Tensor logits = Tensor::of(std::vector<float>{0.0f, 2.0f, 1.0f, 2.0f}, {1, 4}, device),
                     u = Tensor::of(std::vector<float>{0.9f}, {1}, device);
        const std::vector<std::int32_t> tokens = sample_tokens(logits, u, {.temperature = 0.0}).token.to_vector<std::int32_t>();
        return Tensor::of(std::vector<float>(tokens.begin(), tokens.end()), {1});
      },
      [](std::span<const Operand>) { return std::vector<double>{1.0}; })
      .float64 = false;
  add_error([] { sample_tokens(Tensor::zeros({2, 3}), Tensor::zeros({3}), {}); }, "sample_tokens: u is [3], expected [2]");
  add_error([] { sample_tokens(Tensor::zeros({2, 0}), Tensor::zeros({2}), {}); }, "sample_tokens: logits are [2, 0]");
  add_error([] { sample_tokens(Tensor::zeros({2, 3}), Tensor::zeros({2}), {.temperature = -1.0}); }, "sampling: temperature -1");
}
