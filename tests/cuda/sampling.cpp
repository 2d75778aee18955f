#include "base/kernels/sampling.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "tests/cuda/device_tensor.h"

using namespace expctr;
using namespace expctr::test;

namespace {

struct Rule {
  double temperature, top_p, min_p;
  std::int64_t top_k;
};

/// Probabilities after truncation, by sorting, in double.
std::vector<double> truncated(const float* logits, std::int64_t classes, const Rule& rule) {
  std::vector<std::int64_t> order(classes);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) { return logits[a] > logits[b]; });
  std::int64_t kept = rule.top_k > 0 ? std::min(rule.top_k, classes) : classes;
  std::vector<double> p(classes);
  double total = 0;
  for (std::int64_t i = 0; i < kept; ++i)
    total += p[order[i]] = std::exp((static_cast<double>(logits[order[i]]) - logits[order[0]]) / rule.temperature);
  if (rule.top_p < 1) {
    double sum = 0;
    std::int64_t n = 0;
    while (n < kept && sum < rule.top_p * total * (1 - 1e-9)) sum += p[order[n++]];
    for (std::int64_t i = n; i < kept; ++i) p[order[i]] = 0;
    kept = n;
  }
  total = 0;
  for (double& value : p) {
    if (value < rule.min_p) value = 0;
    total += value;
  }
  for (double& value : p) value /= total;
  return p;
}

}  // namespace

TEST_CASE("sampled tokens lie where the truncated distribution puts u") {
  struct Size {
    std::int64_t rows, classes;
  };
  for (const Size& size : std::vector<Size>{{0, 4}, {2, 1}, {9, 7}, {6, 1000}, {4, 5003}})
    for (const Rule& rule : std::vector<Rule>{
             {1, 1, 0, 0}, {0.7, 1, 0, 5}, {1.3, 0.8, 0, 0}, {1, 0.5, 0, 40}, {2, 1, 0.3, 0}, {1, 0.9, 0.1, 20}, {1, 1, 0, 1}}) {
      const auto [rows, classes] = size;
      std::vector<float> logits = random_floats(rows * classes, 1, -6, 6), u = random_floats(rows, 2, 0, 1);
      for (std::size_t i = 0; i + 3 < logits.size(); i += 3) logits[i] = std::round(logits[i]);  // ties
      if (rows > 1) u[0] = 0, u[1] = 0x1.fffffep-1f;
      if (rows > 4)
        for (std::int64_t c = 1; c < classes; c += 2) logits[3 * classes + c] = -INFINITY;
      const DeviceTensor lt(logits, {rows, classes}), ut(u, {rows}), token = DeviceTensor::output({rows}, DType::i32),
                                                                     lp = DeviceTensor::output({rows});
      launch(SampleToken{rule.temperature, rule.top_p, rule.min_p, rule.top_k, lt, ut, token, lp, {}});
      const std::vector<std::int32_t> tokens = token.read<std::int32_t>();
      std::vector<double> expected;
      for (std::int64_t r = 0; r < rows; ++r) {
        const float* row = logits.data() + r * classes;
        const std::vector<double> p = truncated(row, classes, rule);
        REQUIRE((tokens[r] >= 0 && tokens[r] < classes));
        CHECK(p[tokens[r]] > 0);
        double below = 0;
        for (std::int64_t c = 0; c < tokens[r]; ++c) below += p[c];
        CHECK(below <= u[r] + 1e-6);
        CHECK(below + p[tokens[r]] >= u[r] - 1e-6);
        double most = *std::max_element(row, row + classes), sum = 0;
        for (std::int64_t c = 0; c < classes; ++c) sum += std::exp((row[c] - most) / rule.temperature);
        expected.push_back((row[tokens[r]] - most) / rule.temperature - std::log(sum));
      }
      check_close(lp.read(), expected, static_cast<double>(classes));
    }
}

TEST_CASE("ties at the cut of top-k and top-p go to the lower ids") {
  const std::vector<float> logits = {1, 2, 1, 2, 2, 1, 2, 0};
  // One row for each u; with top-k 3 only ids 1, 3 and 4 remain, with top-p 0.5 of equal logits the first half.
  std::vector<float> rows, u;
  for (int i = 0; i < 12; ++i) {
    rows.insert(rows.end(), logits.begin(), logits.end());
    u.push_back(static_cast<float>(i) / 12);
  }
  const DeviceTensor lt(rows, {12, 8}), ut(u, {12}), token = DeviceTensor::output({12}, DType::i32), lp = DeviceTensor::output({12});
  launch(SampleToken{1, 1, 0, 3, lt, ut, token, lp, {}});
  const std::vector<std::int32_t> kept = token.read<std::int32_t>();
  for (int i = 0; i < 12; ++i)
    if (i % 4 != 0) CHECK(kept[i] == std::vector<std::int32_t>{1, 3, 4}[i / 4]);
  const DeviceTensor equal(std::vector<float>(12 * 8, 0.25f), {12, 8});
  launch(SampleToken{1, 0.5, 0, 0, equal, ut, token, lp, {}});
  for (const std::int32_t id : token.read<std::int32_t>()) CHECK(id < 4);
}

TEST_CASE("temperature 0 takes the first maximum; a row without probability gives a token all the same") {
  const std::vector<float> logits = {0, 3, 3, 1, -1, -5, -INFINITY, -1, -INFINITY, -INFINITY, -INFINITY, -INFINITY};
  const DeviceTensor lt(logits, {3, 4}), ut(std::vector<float>{0.9f, 0.9f, 0.5f}, {3}), token = DeviceTensor::output({3}, DType::i32),
                                                                                        lp = DeviceTensor::output({3});
  launch(SampleToken{0, 1, 0, 0, lt, ut, token, lp, {}});
  CHECK(token.read<std::int32_t>() == std::vector<std::int32_t>{1, 0, 0});
  CHECK(lp.read()[0] == doctest::Approx(-std::log(2 + std::exp(-3.0) + std::exp(-2.0))));
  launch(SampleToken{1, 0.5, 0, 2, lt, ut, token, lp, {}});
  CHECK(token.read<std::int32_t>()[2] == 0);
  CHECK_THROWS_AS(cuda::run(SampleToken{-1, 1, 0, 0, lt, ut, token, lp, {}}, stream()), ShapeError);
}
