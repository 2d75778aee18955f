// Single operations. Shapes: those of SmolLM2-135M and of the published figures of other libraries.
#include <fmt/format.h>

#include <cmath>

#include "base/error.h"
#include "bench/suite/measure.h"
#include "engine/autograd/tape.h"
#include "engine/ops/attention.h"
#include "engine/ops/linear.h"
#include "engine/ops/loss.h"
#include "engine/ops/matmul.h"
#include "engine/ops/norm.h"
#include "engine/ops/optim.h"
#include "engine/ops/reduce.h"

namespace expctr {

namespace {

std::vector<double> host(const Tensor& tensor) {
  const std::vector<float> values = tensor.to(cpu_device).to_vector<float>();
  return {values.begin(), values.end()};
}

// One row of a tensor in double.
std::vector<double> host_row(const Tensor& tensor, std::int64_t row) { return host(tensor.slice_rows(row, 1)); }

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

double log_sum_exp(const std::vector<double>& values) {
  double most = values[0], sum = 0;
  for (const double v : values) most = std::max(most, v);
  for (const double v : values) sum += std::exp(v - most);
  return most + std::log(sum);
}

ReadyBench prepare_rms_norm(const BenchOptions& options) {
  constexpr std::int64_t rows = 8192, width = 576;
  constexpr double epsilon = 1e-5;
  const Tensor x = random_tensor("x", {rows, width}, options.device), gain = random_tensor("gain", {width}, options.device);
  const std::vector<double> row = host_row(x, rows - 1), y = host_row(rms_norm(x, gain, epsilon), rows - 1);
  const double expected = row[3] / std::sqrt(dot(row, row) / width + epsilon) * host(gain)[3];
  check_close("rms_norm", y[3], expected, 1e-5);
  return {{.shape = fmt::format("{}x{}", rows, width), .amount = rows, .unit = "rows/s", .bytes = 2.0 * 4 * rows * width},
          timed(options.device, [=] { rms_norm(x, gain, epsilon); })};
}

ReadyBench prepare_adamw(const BenchOptions& options) {
  constexpr std::int64_t count = 10000000;
  AdamSlot slot{random_tensor("p", {count}, options.device), random_tensor("g", {count}, options.device),
                Tensor::zeros({count}, DType::f32, options.device), Tensor::zeros({count}, DType::f32, options.device)};
  const AdamOptions adam{1e-3, 0.9, 0.999, 1e-8, 0.01};
  const auto first = [](const Tensor& t) { return host(t.slice_rows(0, 1))[0]; };
  const double p = first(slot.parameter), g = first(slot.gradient);
  adamw_update(std::span(&slot, 1), adam, 1);
  // The bias-corrected moments of the first step are g and g^2.
  check_close("adamw", first(slot.parameter), p - 1e-3 * 0.01 * p - 1e-3 * g / (std::abs(g) + 1e-8), 1e-6);
  auto step = std::make_shared<std::int64_t>(1);
  return {{.shape = fmt::format("{}", count), .amount = count, .unit = "rows/s", .bytes = 7.0 * 4 * count},
          timed(options.device, [=] { adamw_update(std::span(&slot, 1), adam, ++*step); })};
}

ReadyBench prepare_attention(const BenchOptions& options, bool causal) {
  constexpr int heads = 9, head_dim = 64;
  constexpr std::int64_t tokens = 1024, width = heads * head_dim;
  const AttentionShape shape{heads, heads, head_dim, causal, 1.0 / std::sqrt(static_cast<double>(head_dim))};
  const Tensor q = random_tensor("q", {tokens, width}, options.device), k = random_tensor("k", {tokens, width}, options.device),
               v = random_tensor("v", {tokens, width}, options.device);
  const Tensor offsets = Tensor::of(std::vector<std::int32_t>{0, tokens}, {2}, options.device);
  // First element of the first head at token 100.
  constexpr std::int64_t t = 100;
  const std::vector<double> query = host_row(q, t);
  std::vector<double> scores, values;
  for (std::int64_t j = 0; j < (causal ? t + 1 : tokens); ++j) {
    const std::vector<double> key = host_row(k, j);
    double score = 0;
    for (std::size_t d = 0; d < head_dim; ++d) score += query[d] * key[d];
    scores.push_back(score * shape.scale);
    values.push_back(host_row(v, j)[0]);
  }
  const double normaliser = log_sum_exp(scores);
  double expected = 0;
  for (std::size_t j = 0; j < scores.size(); ++j) expected += std::exp(scores[j] - normaliser) * values[j];
  check_close("attention", host_row(attention(q, k, v, offsets, shape), t)[0], expected, 1e-5);
  return {{.shape = fmt::format("1x{}x{}x{}", heads, tokens, head_dim),
           .amount = tokens,
           .unit = "tokens/s",
           .flops = 4.0 * tokens * tokens * width / (causal ? 2 : 1),
           .bytes = 4.0 * 4 * tokens * width},
          timed(options.device, [=] { attention(q, k, v, offsets, shape); })};
}

constexpr std::int64_t head_rows = 1024, vocabulary = 49152, head_width = 576;

ReadyBench prepare_cross_entropy(const BenchOptions& options) {
  const Tensor logits = random_tensor("logits", {head_rows, vocabulary}, options.device);
  const std::vector<std::int32_t> ids = random_ids("targets", head_rows, vocabulary);
  const Tensor targets = Tensor::of(ids, {head_rows}, options.device);
  const std::vector<double> row = host_row(logits, 7);
  check_close("cross_entropy", host(log_probability(logits, targets))[7], row[static_cast<std::size_t>(ids[7])] - log_sum_exp(row), 1e-4);
  return {{.shape = fmt::format("{}x{}", head_rows, vocabulary),
           .amount = head_rows,
           .unit = "tokens/s",
           .bytes = 4.0 * head_rows * vocabulary},
          timed(options.device, [=] { log_probability(logits, targets); })};
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
    const std::vector<double> state = host_row(x, 7), matrix = host(source);
    std::vector<double> logits;
    for (std::int64_t n = 0; n < vocabulary; ++n) {
      double sum = 0;
      for (std::int64_t i = 0; i < head_width; ++i)
        sum += state[static_cast<std::size_t>(i)] * matrix[static_cast<std::size_t>(n * head_width + i)];
      logits.push_back(sum);
    }
    const double expected = logits[static_cast<std::size_t>(ids[7])] - log_sum_exp(logits);
    check_close("linear_cross_entropy", host(linear_cross_entropy(x, weight, targets).log_probability)[7], expected,
                options.mode == ComputeMode::f32 ? 1e-4 : 0.1);
  }
  return {{.shape = fmt::format("{}x{}x{}", head_rows, vocabulary, head_width),
           .mode = mode_name(options.mode),
           .amount = head_rows,
           .unit = "tokens/s",
           .flops = 4.0 * head_rows * vocabulary * head_width},
          timed(options.device, [=] {
            Tape tape;
            tape.backward(sum_all(linear_cross_entropy(x, weight, targets).log_probability));
          })};
}

}  // namespace

Bench matmul_bench(std::int64_t m, std::int64_t n, std::int64_t k, ComputeMode mode) {
  const std::string name = fmt::format("matmul/{}x{}x{}/{}", m, n, k, mode_name(mode));
  const auto prepare = [=](const BenchOptions& options) -> ReadyBench {
    const Tensor x = random_tensor("x", {m, k}, options.device), w = random_tensor("w", {n, k}, options.device);
    // A trained weight is dense; lower precision exists for frozen ones.
    std::function<Tensor()> product = [=] { return matmul(x, w, false, true); };
    if (mode != ComputeMode::f32) product = [x, weight = FrozenWeight(w, mode)] { return linear_frozen(x, weight); };
    const double expected = dot(host_row(x, m / 2), host_row(w, n / 3));
    check_close(name, host_row(product(), m / 2)[static_cast<std::size_t>(n / 3)], expected,
                (mode == ComputeMode::f32 ? 1e-5 : 1e-2) * std::sqrt(static_cast<double>(k)));
    const double weight_bytes = (mode == ComputeMode::f32 ? 4.0 : mode == ComputeMode::bf16 ? 2.0 : 1.0) * static_cast<double>(n * k);
    return {{.shape = fmt::format("{}x{}x{}", m, n, k),
             .mode = mode_name(mode),
             .dtype = mode_name(mode),
             .amount = static_cast<double>(m),
             .unit = "rows/s",
             .flops = 2.0 * static_cast<double>(m * n * k),
             .bytes = weight_bytes + 4.0 * static_cast<double>(m * k + m * n)},
            timed(options.device, [=] { product(); })};
  };
  return {name, "matmul", prepare};
}

std::vector<Bench> kernel_benches() {
  std::vector<Bench> benches;
  for (const auto& [m, n, k] : std::vector<std::array<std::int64_t, 3>>{{512, 512, 512},
                                                                        {1024, 1024, 1024},
                                                                        {2048, 2048, 2048},
                                                                        {1024, 576, 576},
                                                                        {1024, 1536, 576},
                                                                        {1024, 576, 1536},
                                                                        {1024, 49152, 576},
                                                                        {1, 49152, 576}})
    benches.push_back(matmul_bench(m, n, k, ComputeMode::f32));
  benches.push_back({"rms_norm", "norm", prepare_rms_norm});
  benches.push_back({"adamw", "optim", prepare_adamw});
  benches.push_back({"attention/causal", "attention", [](const BenchOptions& options) { return prepare_attention(options, true); }});
  benches.push_back({"attention/full", "attention", [](const BenchOptions& options) { return prepare_attention(options, false); }});
  benches.push_back({"cross_entropy/49152", "loss", prepare_cross_entropy});
  benches.push_back({"linear_cross_entropy/49152", "loss", prepare_linear_cross_entropy});
  return benches;
}

}  // namespace expctr
