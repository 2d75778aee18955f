// Single operations. Shapes: those of SmolLM2-135M and of the published figures of other libraries.
#include <fmt/format.h>

#include <cmath>

#include "base/error.h"
#include "bench/suite/measure.h"
#include "engine/autograd/tape.h"
#include "engine/ops/attention.h"
#include "engine/ops/linear.h"
#include "engine/ops/loss.h"
#include "engine/ops/norm.h"
#include "engine/ops/optim.h"
#include "engine/ops/reduce.h"
#include "engine/ops/softmax.h"

namespace expctr {

namespace {

/// body() and the gradient of the sum of its result.
template <class Body>
void with_gradient(const Body& body) {
  Tape tape;
  tape.backward(sum_all(body()));
}

ReadyBench prepare_rms_norm(const BenchOptions& options) {
  constexpr std::int64_t rows = 131072, width = 576;  // 302 MB in, as much out: nothing is left in a cache
  constexpr double epsilon = 1e-5;
  const Tensor x = random_tensor("x", {rows, width}, options.device), gain = random_tensor("gain", {width}, options.device);
  const std::vector<double> row = host_row(x, rows - 1), y = host_row(rms_norm(x, gain, epsilon), rows - 1);
  const double expected = row[3] / std::sqrt(dot(row, row) / width + epsilon) * host_values(gain)[3];
  check_close("rms_norm", y[3], expected, 1e-5);
  return {{.shape = fmt::format("{}x{}", rows, width), .amount = rows, .unit = "rows/s", .bytes = 2.0 * 4 * rows * width},
          timed(options.device, [=] { rms_norm(x, gain, epsilon); })};
}

ReadyBench prepare_softmax(const BenchOptions& options) {
  constexpr std::int64_t rows = 131072, width = 576;  // as above
  const Tensor x = random_tensor("x", {rows, width}, options.device);
  const std::vector<double> row = host_row(x, rows - 1), y = host_row(softmax(x), rows - 1);
  check_close("softmax", y[3], std::exp(row[3] - log_sum_exp(row)), 1e-7);
  return {{.shape = fmt::format("{}x{}", rows, width), .amount = rows, .unit = "rows/s", .bytes = 2.0 * 4 * rows * width},
          timed(options.device, [=] { softmax(x); })};
}

ReadyBench prepare_adamw(const BenchOptions& options) {
  constexpr std::int64_t count = 20000000;  // 320 MB of parameter, gradient and moments
  AdamSlot slot{random_tensor("p", {count}, options.device), random_tensor("g", {count}, options.device),
                Tensor::zeros({count}, DType::f32, options.device), Tensor::zeros({count}, DType::f32, options.device)};
  const AdamOptions adam{1e-3, 0.9, 0.999, 1e-8, 0.01};
  const auto first = [](const Tensor& t) { return host_values(t.slice_rows(0, 1))[0]; };
  const double p = first(slot.parameter), g = first(slot.gradient);
  adamw_update(std::span(&slot, 1), adam, 1);
  // The bias-corrected moments of the first step are g and g^2.
  check_close("adamw", first(slot.parameter), p - 1e-3 * 0.01 * p - 1e-3 * g / (std::abs(g) + 1e-8), 1e-6);
  auto step = std::make_shared<std::int64_t>(1);
  return {{.shape = fmt::format("{}", count), .amount = count, .unit = "rows/s", .bytes = 7.0 * 4 * count},
          timed(options.device, [=] { adamw_update(std::span(&slot, 1), adam, ++*step); })};
}

ReadyBench prepare_attention(const BenchOptions& options, bool causal, bool gradient) {
  constexpr int heads = 9, head_dim = 64;
  constexpr std::int64_t tokens = 1024, width = heads * head_dim;
  const AttentionShape shape{heads, heads, head_dim, causal, 1.0 / std::sqrt(static_cast<double>(head_dim))};
  Tensor q = random_tensor("q", {tokens, width}, options.device), k = random_tensor("k", {tokens, width}, options.device),
         v = random_tensor("v", {tokens, width}, options.device);
  const Tensor offsets = Tensor::of(std::vector<std::int32_t>{0, tokens}, {2}, options.device);
  // The probabilities of the first head at token t.
  const std::vector<double> queries = host_values(q), keys = host_values(k), values = host_values(v);
  const auto probabilities = [&](std::int64_t t) {
    std::vector<double> scores;
    for (std::int64_t j = 0; j < (causal ? t + 1 : tokens); ++j) {
      double score = 0;
      for (std::int64_t d = 0; d < head_dim; ++d)
        score += queries[static_cast<std::size_t>(t * width + d)] * keys[static_cast<std::size_t>(j * width + d)];
      scores.push_back(score * shape.scale);
    }
    const double normaliser = log_sum_exp(scores);
    for (double& score : scores) score = std::exp(score - normaliser);
    return scores;
  };
  const std::vector<double> row = probabilities(100);
  double expected = 0;
  for (std::size_t j = 0; j < row.size(); ++j) expected += row[j] * values[j * width];
  check_close("attention", host_row(attention(q, k, v, offsets, shape), 100)[0], expected, 1e-5);
  if (gradient) {
    // Of the sum of the outputs, with respect to a value: the sum of its probabilities.
    constexpr std::int64_t j = 900;
    q.require_gradient(), k.require_gradient(), v.require_gradient();
    with_gradient([&] { return attention(q, k, v, offsets, shape); });
    double sum = 0;
    for (std::int64_t t = causal ? j : 0; t < tokens; ++t) sum += probabilities(t)[j];
    check_close("attention gradient", host_row(v.gradient(), j)[0], sum, 1e-5);
  }
  return {{.shape = fmt::format("1x{}x{}x{}", heads, tokens, head_dim),
           .amount = tokens,
           .unit = "tokens/s",
           .flops = (gradient ? 3.5 : 1.0) * 4.0 * tokens * tokens * width / (causal ? 2 : 1),
           .bytes = (gradient ? 3.0 : 1.0) * 4.0 * 4 * tokens * width},
          timed(options.device, [=] {
            if (gradient)
              with_gradient([&] { return attention(q, k, v, offsets, shape); });
            else
              attention(q, k, v, offsets, shape);
          })};
}

constexpr std::int64_t head_rows = 1024, vocabulary = 49152, head_width = 576;

ReadyBench prepare_cross_entropy(const BenchOptions& options, bool gradient) {
  Tensor logits = random_tensor("logits", {head_rows, vocabulary}, options.device);
  const std::vector<std::int32_t> ids = random_ids("targets", head_rows, vocabulary);
  const Tensor targets = Tensor::of(ids, {head_rows}, options.device);
  const std::vector<double> row = host_row(logits, 7);
  const auto target = static_cast<std::size_t>(ids[7]);
  check_close("cross_entropy", host_values(log_probability(logits, targets))[7], row[target] - log_sum_exp(row), 1e-4);
  if (gradient) {
    logits.require_gradient();
    with_gradient([&] { return log_probability(logits, targets); });
    const std::vector<double> slope = host_row(logits.gradient(), 7);
    const std::size_t other = (target + 1) % row.size();
    check_close("cross_entropy gradient", slope[target], 1.0 - std::exp(row[target] - log_sum_exp(row)), 1e-6);
    check_close("cross_entropy gradient", 1e4 * slope[other], -1e4 * std::exp(row[other] - log_sum_exp(row)), 1e-5);
  }
  return {{.shape = fmt::format("{}x{}", head_rows, vocabulary),
           .amount = head_rows,
           .unit = "tokens/s",
           .bytes = (gradient ? 4.0 : 1.0) * 4.0 * head_rows * vocabulary},  // backward: logits again, the gradient added to
          timed(options.device, [=] {
            if (gradient)
              with_gradient([&] { return log_probability(logits, targets); });
            else
              log_probability(logits, targets);
          })};
}

ReadyBench prepare_linear_cross_entropy(const BenchOptions& options) {
  const Tensor source = random_tensor("w", {vocabulary, head_width}, options.device);
  const FrozenWeight weight(source, options.mode);
  Tensor x = random_tensor("x", {head_rows, head_width}, options.device);
  x.require_gradient();
  const std::vector<std::int32_t> ids = random_ids("targets", head_rows, vocabulary);
  const Tensor targets = Tensor::of(ids, {head_rows}, options.device);
  {
    const NoGradient off;
    const std::vector<double> state = host_row(x, 7), matrix = host_values(source);
    std::vector<double> logits;
    for (std::int64_t n = 0; n < vocabulary; ++n) {
      double sum = 0;
      for (std::int64_t i = 0; i < head_width; ++i)
        sum += state[static_cast<std::size_t>(i)] * matrix[static_cast<std::size_t>(n * head_width + i)];
      logits.push_back(sum);
    }
    const double expected = logits[static_cast<std::size_t>(ids[7])] - log_sum_exp(logits);
    check_close("linear_cross_entropy", host_values(linear_cross_entropy(x, weight, targets).log_probability)[7], expected,
                options.mode == ComputeMode::f32 ? 1e-4 : 0.1);
  }
  return {{.shape = fmt::format("{}x{}x{}", head_rows, vocabulary, head_width),
           .mode = mode_name(options.mode),
           .amount = head_rows,
           .unit = "tokens/s",
           .flops = 4.0 * head_rows * vocabulary * head_width},
          timed(options.device, [=] { with_gradient([&] { return linear_cross_entropy(x, weight, targets).log_probability; }); })};
}

}  // namespace

std::vector<Bench> kernel_benches() {
  std::vector<Bench> benches;
  benches.push_back({"rms_norm", "norm", prepare_rms_norm});
  benches.push_back({"softmax", "norm", prepare_softmax});
  benches.push_back({"adamw", "optim", prepare_adamw});
  for (const bool gradient : {false, true}) {
    const std::string suffix = gradient ? "/gradient" : "";
    for (const bool causal : {true, false})
      benches.push_back({std::string(causal ? "attention/causal" : "attention/full") + suffix, "attention",
                         [=](const BenchOptions& options) { return prepare_attention(options, causal, gradient); }});
    benches.push_back(
        {"cross_entropy/49152" + suffix, "loss", [=](const BenchOptions& options) { return prepare_cross_entropy(options, gradient); }});
  }
  benches.push_back({"linear_cross_entropy/49152", "loss", prepare_linear_cross_entropy});
  return benches;
}

}  // namespace expctr
