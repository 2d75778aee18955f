#include "cpu/sampling.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/kernels/sampling.h"
#include "cpu/kernel_table.h"
#include "support.h"

using namespace expctr;
using namespace expctr::test;

namespace {

struct Drawn {
  Array<std::int32_t> token;
  Array<float> log_probability;
};

Drawn draw(const Array<float>& logits, const Array<float>& u, const cpu::SamplingRule& rule) {
  Drawn drawn{Array<std::int32_t>({u.size()}), Array<float>({u.size()})};
  SampleToken args{rule.temperature,
                   rule.top_p,
                   rule.min_p,
                   rule.top_k,
                   logits.view(),
                   u.view(),
                   drawn.token.view(),
                   drawn.log_probability.view(),
                   View{}};
  Array<std::uint8_t> scratch({static_cast<std::int64_t>(cpu::scratch_bytes(args))});
  args.scratch = scratch.view();
  cpu::run(args, Stream{});
  CHECK(scratch.intact());
  CHECK(drawn.token.intact());
  CHECK(drawn.log_probability.intact());
  return drawn;
}

/// The F64 tensors of a safetensors file (read with no regard for bad input: the file is ours).
class OracleTensors {
 public:
  explicit OracleTensors(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    REQUIRE(file);
    std::uint64_t length = 0;
    file.read(reinterpret_cast<char*>(&length), 8);
    std::string header(length, ' ');
    file.read(header.data(), static_cast<std::streamsize>(length));
    header_ = nlohmann::json::parse(header);
    bytes_.assign(std::istreambuf_iterator<char>(file), {});
  }
  std::vector<double> operator[](const std::string& name) const {
    const auto& entry = header_.at(name);
    REQUIRE(entry.at("dtype") == "F64");
    const std::size_t begin = entry.at("data_offsets")[0], end = entry.at("data_offsets")[1];
    std::vector<double> values((end - begin) / sizeof(double));
    std::memcpy(values.data(), bytes_.data() + begin, end - begin);
    return values;
  }

 private:
  nlohmann::json header_;
  std::vector<char> bytes_;
};

std::filesystem::path sampling_oracles() {
  const char* root = std::getenv("EXPCTR_ORACLES");
  return std::filesystem::path(root ? root : "tests/oracles") / "llm/sampling";
}

}  // namespace

TEST_CASE("vector exp is within 2 units in the last place, in every instruction set the same") {
  std::vector<float> x;
  for (double v = -103.9; v < 88.7; v += 0.000937) x.push_back(static_cast<float>(v));
  for (const float v : {0.0f, -0.0f, 1e-20f, -INFINITY, INFINITY, 100.0f, -200.0f, 88.72283f, -87.34f}) x.push_back(v);
  const std::int64_t n = static_cast<std::int64_t>(x.size());
  std::vector<float> y(n), other(n);
  cpu::kernels_v3.exp_array(x.data(), n, y.data());
  double worst = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const double exact = std::exp(static_cast<double>(x[i]));
    if (exact > 3.4028234e38) {
      CHECK(y[i] == INFINITY);
      continue;
    }
    const float rounded = static_cast<float>(exact);
    const double unit = std::max(static_cast<double>(std::nextafter(rounded, INFINITY)) - rounded, 1.4012984643e-45);
    worst = std::max(worst, std::abs(y[i] - exact) / unit);
  }
  CHECK(worst < 2.0);
  MESSAGE("largest error of exp: " << worst << " ulp");
  if (cpu::best_isa() >= cpu::Isa::avx512) {
    cpu::kernels_avx512.exp_array(x.data(), n, other.data());
    CHECK(std::memcmp(y.data(), other.data(), n * sizeof(float)) == 0);
  }
  const float nan = NAN;
  float result = 0;
  cpu::kernels().exp_array(&nan, 1, &result);
  CHECK(std::isnan(result));
}

TEST_CASE("probabilities after temperature, top-k and top-p equal the oracle's") {
  const std::filesystem::path folder = sampling_oracles();
  if (!std::filesystem::exists(folder / "cases.json")) {
    std::printf("SKIP no sampling oracles at %s\n", folder.c_str());
    return;
  }
  const nlohmann::json cases = nlohmann::json::parse(std::ifstream(folder / "cases.json")).at("cases");
  const OracleTensors tensors(folder / "sampling.safetensors");
  CHECK(cases.size() > 50);
  for (const auto& c : cases) {
    const std::string name = c.at("tensor");
    const std::vector<double> logits = tensors["row" + std::to_string(c.at("row").get<int>()) + "/logits"], expected = tensors[name];
    const cpu::SamplingRule rule{c.at("temperature"), c.at("top_k"), c.at("top_p"), 0.0};
    std::vector<double> probability(logits.size());
    std::vector<std::uint64_t> order(logits.size());
    cpu::sampling_probabilities(logits.data(), static_cast<std::int64_t>(logits.size()), rule, probability.data(), order.data());
    std::int64_t kept = 0;
    double worst = 0, worst_single = 0;
    for (std::size_t i = 0; i < logits.size(); ++i) {
      kept += probability[i] > 0;
      worst = std::max(worst, std::abs(probability[i] - expected[i]));
      if (std::isnan(probability[i])) worst = 1;
    }
    const std::vector<float> single(logits.begin(), logits.end());
    cpu::sampling_probabilities(single.data(), static_cast<std::int64_t>(logits.size()), rule, probability.data(), order.data());
    for (std::size_t i = 0; i < logits.size(); ++i) worst_single = std::max(worst_single, std::abs(probability[i] - expected[i]));
    CAPTURE(name);
    CHECK(worst < 1e-12);
    std::int64_t expected_kept = 0;
    for (const double p : expected) expected_kept += p > 0;
    CHECK(kept == expected_kept);
    double largest = 1;  // logits rounded to float move the probabilities by their own rounding error
    for (const double logit : logits)
      if (std::isfinite(logit)) largest = std::max(largest, std::abs(logit));
    CHECK(worst_single < 1e-6 + largest * 1.2e-7 / (rule.temperature > 0 ? rule.temperature : 1.0));
  }
}

TEST_CASE("frequencies follow the probabilities (chi-square)") {
  const std::int64_t classes = 20, draws = 40000;
  Array<float> row({classes});
  row.random(5, 2.0);
  row[3] = -INFINITY;
  for (const cpu::SamplingRule rule : {cpu::SamplingRule{1, 0, 1, 0}, {0.7, 0, 1, 0}, {1.5, 6, 1, 0}, {1, 0, 0.8, 0}, {1, 8, 0.9, 0.1}}) {
    std::vector<double> probability(classes);
    std::vector<std::uint64_t> order(classes);
    cpu::sampling_probabilities(row.data(), classes, rule, probability.data(), order.data());
    Array<float> logits({draws, classes}), u({draws});
    for (std::int64_t r = 0; r < draws; ++r) {
      std::copy_n(row.data(), classes, &logits[r * classes]);
      u[r] = uniform_float(philox({99, 1}, {static_cast<std::uint32_t>(r), 0, 0, 0}).word[0]);
    }
    const Drawn drawn = draw(logits, u, rule);
    std::vector<std::int64_t> count(classes);
    for (std::int64_t r = 0; r < draws; ++r) ++count[drawn.token[r]];
    double statistic = 0;
    int degrees = -1;
    for (std::int64_t i = 0; i < classes; ++i) {
      if (probability[i] == 0) {
        CHECK(count[i] == 0);
        continue;
      }
      ++degrees;
      statistic += (count[i] - draws * probability[i]) * (count[i] - draws * probability[i]) / (draws * probability[i]);
    }
    // Mean `degrees`, variance 2 degrees; five standard deviations.
    CHECK(statistic < degrees + 5 * std::sqrt(2.0 * degrees) + 5);
  }
}

TEST_CASE("cuts of a large row equal a full sort, ties included") {
  const std::int64_t classes = 5000;
  for (const double spread : {1.0, 12.0}) {
    std::vector<float> logits(classes);
    for (std::int64_t i = 0; i < classes; ++i)
      logits[i] = static_cast<float>(
          spread * std::round(64 * uniform_float(philox({8, 8}, {static_cast<std::uint32_t>(i), 0, 0, 0}).word[0])) / 64 - 2);
    std::vector<std::int64_t> sorted(classes);
    for (std::int64_t i = 0; i < classes; ++i) sorted[i] = i;
    std::stable_sort(sorted.begin(), sorted.end(), [&](std::int64_t a, std::int64_t b) { return logits[a] > logits[b]; });
    for (const auto& [top_k, top_p] : {std::pair<std::int64_t, double>{0, 0.9}, {0, 0.3}, {700, 1.0}, {1000, 0.6}, {0, 0.99999}}) {
      std::vector<double> probability(classes);
      std::vector<std::uint64_t> order(classes);
      cpu::sampling_probabilities(logits.data(), classes, {1.0, top_k, top_p, 0.0}, probability.data(), order.data());
      const std::int64_t most = top_k > 0 ? top_k : classes;
      double total = 0, sum = 0;
      for (std::int64_t i = 0; i < most; ++i) total += std::exp(static_cast<double>(logits[sorted[i]]));
      std::int64_t kept = 0;
      while (kept < most && (top_p == 1.0 || sum / total < top_p)) sum += std::exp(static_cast<double>(logits[sorted[kept++]]));
      std::int64_t wrong = 0;
      for (std::int64_t i = 0; i < classes; ++i) wrong += (probability[sorted[i]] > 0) != (i < kept);
      CHECK(wrong <= 1);  // float exponentials may move the cut by one
      CHECK(probability[sorted[0]] == doctest::Approx(std::exp(static_cast<double>(logits[sorted[0]])) / sum));
    }
  }
}

TEST_CASE("the token is the first whose cumulative probability exceeds u") {
  Array<float> logits({4, 4}), u({4});
  for (std::int64_t i = 0; i < 16; ++i) logits[i] = std::log(0.25f);
  u[0] = 0.0f, u[1] = 0.25f, u[2] = 0.4999f, u[3] = 0.99999994f;
  const Drawn drawn = draw(logits, u, {});
  CHECK(drawn.token[0] == 0);
  CHECK(drawn.token[1] == 1);
  CHECK(drawn.token[2] == 1);
  CHECK(drawn.token[3] == 3);
  CHECK(drawn.log_probability[1] == doctest::Approx(std::log(0.25)));
}

TEST_CASE("temperature 0 takes the first maximum, with its log-probability at temperature 1") {
  Array<float> logits({1, 5}), u({1}, 0.9f);
  logits[1] = logits[3] = 2.0f;
  const Drawn drawn = draw(logits, u, {0.0, 0, 1.0, 0.0});
  CHECK(drawn.token[0] == 1);
  CHECK(drawn.log_probability[0] == doctest::Approx(2.0 - std::log(3 + 2 * std::exp(2.0))));
}

TEST_CASE("log-probabilities are those before truncation, and the same in every setting and alone") {
  const std::int64_t rows = 6, classes = 3001;
  Array<float> logits({rows, classes}), u({rows});
  logits.random(6, 8.0);
  for (std::int64_t r = 0; r < rows; ++r) u[r] = 0.1f + 0.15f * static_cast<float>(r);
  const cpu::SamplingRule rule{0.8, 40, 0.95, 0.0};
  const Drawn first = draw(logits, u, rule);
  for (std::int64_t r = 0; r < rows; ++r) {
    double top = -INFINITY, sum = 0;
    for (std::int64_t i = 0; i < classes; ++i) top = std::max<double>(top, logits[r * classes + i]);
    for (std::int64_t i = 0; i < classes; ++i) sum += std::exp((logits[r * classes + i] - top) / 0.8);
    CHECK(std::abs(first.log_probability[r] - ((logits[r * classes + first.token[r]] - top) / 0.8 - std::log(sum))) < 5e-6);
    Array<float> one({1, classes}), one_u({1}, u[r]);
    std::copy_n(&logits[r * classes], classes, one.data());
    const Drawn alone = draw(one, one_u, rule);
    CHECK(alone.token[0] == first.token[r]);
    CHECK(alone.log_probability[0] == first.log_probability[r]);
  }
  for_each_setting([&] {
    const Drawn again = draw(logits, u, rule);
    CHECK(same_bits(again.token, first.token));
    CHECK(same_bits(again.log_probability, first.log_probability));
  });
}
