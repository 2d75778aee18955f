// Matrix products at SmolLM2-135M's shapes, from one row to a batch. Below 64 rows a figure walks through copies of the weight that
// together exceed the last-level cache, as decoding walks through the layers of a model.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "bench/suite/measure.h"
#include "engine/ops/linear.h"
#include "engine/ops/matmul.h"

namespace expctr {

namespace {

double bytes_of_weight(ComputeMode mode) { return mode == ComputeMode::f32 ? 4.0 : mode == ComputeMode::bf16 ? 2.0 : 36.0 / 32; }

/// Largest error of a product of `terms` factors within 1/2, for the mode: sums in float32; operands of 8 significant bits; of 1/254 of the
/// largest in 32.
double tolerance(ComputeMode mode, std::int64_t terms) {
  const double operand = mode == ComputeMode::f32    ? 1e-7 * std::sqrt(static_cast<double>(terms))
                         : mode == ComputeMode::bf16 ? 0x1p-8
                                                     : 0x1p-7;
  return 2.0 * operand * std::sqrt(static_cast<double>(terms)) + 1e-6;
}

/// frozen: the weight is packed beforehand, as a model's is; else both operands are plain matrices.
Bench product_bench(const std::string& prefix, std::int64_t m, std::int64_t n, std::int64_t k, ComputeMode mode, bool frozen) {
  const std::string name = fmt::format("{}/{}x{}x{}/{}", prefix, m, n, k, mode_name(mode));
  const auto prepare = [=](const BenchOptions& options) -> ReadyBench {
    const double weight_bytes = bytes_of_weight(mode) * static_cast<double>(n * k);
    const auto copies = static_cast<std::size_t>(m >= 64 ? 1 : std::clamp(128e6 / weight_bytes, 1.0, 512.0));
    const Tensor x = random_tensor("x", {m, k}, options.device), w = random_tensor("w", {n, k}, options.device);
    std::vector<Tensor> plain;
    std::vector<FrozenWeight> packed;
    const std::vector<float> values = w.to(cpu_device).to_vector<float>();
    for (std::size_t i = 0; i < copies; ++i) {
      if (frozen)
        packed.push_back(FrozenWeight(w, mode));
      else
        plain.push_back(Tensor::of(values, {n, k}, options.device));
    }
    const auto product = [=](std::size_t i) { return frozen ? linear_frozen(x, packed[i]) : matmul(x, plain[i], false, true); };
    const double expected = dot(host_row(x, m / 2), host_row(w, n / 3));
    for (const std::size_t i : {std::size_t{0}, copies - 1})
      check_close(name, host_row(product(i), m / 2)[static_cast<std::size_t>(n / 3)], expected, tolerance(mode, k));
    auto next = std::make_shared<std::size_t>(0);
    return {{.shape = fmt::format("{}x{}x{}", m, n, k),
             .mode = mode_name(mode),
             .dtype = mode_name(mode),
             .amount = static_cast<double>(m),
             .unit = "rows/s",
             .flops = 2.0 * static_cast<double>(m * n * k),
             .bytes = weight_bytes + 4.0 * static_cast<double>(m * k + m * n)},
            timed(options.device, [=] { product((*next)++ % copies); })};
  };
  return {name, "matmul", prepare};
}

}  // namespace

// A trained weight is dense; lower precision exists for frozen ones.
Bench matmul_bench(std::int64_t m, std::int64_t n, std::int64_t k, ComputeMode mode) {
  return product_bench("matmul", m, n, k, mode, mode != ComputeMode::f32);
}

std::vector<Bench> product_benches() {
  std::vector<Bench> benches;
  for (const std::int64_t extent : {512, 1024, 2048}) benches.push_back(matmul_bench(extent, extent, extent, ComputeMode::f32));
  for (const auto& [n, k] :
       std::vector<std::pair<std::int64_t, std::int64_t>>{{576, 576}, {192, 576}, {1536, 576}, {576, 1536}, {49152, 576}}) {
    for (const std::int64_t m : {1, 4, 16, 64, 1024}) {
      for (const ComputeMode mode : {ComputeMode::f32, ComputeMode::bf16, ComputeMode::int8})
        benches.push_back(matmul_bench(m, n, k, mode));
      benches.push_back(product_bench("linear_frozen", m, n, k, ComputeMode::f32, true));
    }
  }
  return benches;
}

}  // namespace expctr
