#include "inference/metrics/leakage_probe.h"

#include <doctest/doctest.h>

#include <cmath>

#include "base/error.h"
#include "base/philox.h"

using namespace expctr;

namespace {

struct Rows {
  std::vector<float> vectors;
  std::vector<std::uint8_t> labels;
};

// Noise; a share `signal` of the label stands in column 0.
Rows rows_of(std::uint32_t count, std::uint32_t width, double signal, std::uint64_t seed) {
  const RandomKey key = random_key(seed, "probe test");
  Rows rows;
  for (std::uint32_t i = 0; i < count; ++i) {
    rows.labels.push_back(philox(key, {i, 1u << 20, 0, 0}).word[0] & 1);
    for (std::uint32_t k = 0; k < width; ++k) {
      const RandomBits bits = philox(key, {i, k, 0, 0});
      float value = uniform_float(bits.word[0]) + uniform_float(bits.word[1]) - 1;
      if (k == 0) value += static_cast<float>(signal * rows.labels.back());
      rows.vectors.push_back(3 * value + 10);
    }
  }
  return rows;
}

// The probe's objective in the standardised space, written out again: its gradient in the original weights must vanish.
double largest_gradient(const Rows& rows, std::size_t width, const LogisticProbe& probe, double ridge) {
  const auto n = static_cast<double>(rows.labels.size());
  const std::vector<double> logits = probe.logits(rows.vectors);
  double worst = 0, bias = 0;
  for (std::size_t i = 0; i < rows.labels.size(); ++i) bias += (1 / (1 + std::exp(-logits[i])) - rows.labels[i]) / n;
  for (std::size_t k = 0; k < width; ++k) {
    double mean = 0, variance = 0, sum = 0;
    for (std::size_t i = 0; i < rows.labels.size(); ++i) mean += rows.vectors[i * width + k] / n;
    for (std::size_t i = 0; i < rows.labels.size(); ++i) variance += std::pow(rows.vectors[i * width + k] - mean, 2) / n;
    const double deviation = std::sqrt(variance);
    for (std::size_t i = 0; i < rows.labels.size(); ++i)
      sum += (1 / (1 + std::exp(-logits[i])) - rows.labels[i]) * (rows.vectors[i * width + k] - mean) / deviation / n;
    worst = std::max(worst, std::abs(sum + ridge * probe.weights()[k] * deviation));
  }
  return std::max(worst, std::abs(bias));
}

}  // namespace

TEST_CASE("the probe stands at the minimum of its objective") {
  const Rows rows = rows_of(200, 7, 0.5, 1);
  for (const double ridge : {1e-4, 1e-2, 1.0}) {
    const LogisticProbe probe(rows.vectors, rows.labels, 7, {ridge, 100, 1e-10});
    CHECK(probe.largest_gradient() <= 1e-9);
    CHECK(largest_gradient(rows, 7, probe, ridge) < 1e-8);
  }
}

TEST_CASE("the probe of one column and no ridge finds the log odds") {
  // Column 0 is 0 or 1; of the ones 3 of 4 are positive, of the zeros 1 of 4: weight = 2 ln 3, bias = -ln 3.
  const std::vector<float> vectors = {1, 1, 1, 1, 0, 0, 0, 0};
  const std::vector<std::uint8_t> labels = {1, 1, 1, 0, 1, 0, 0, 0};
  const LogisticProbe probe(vectors, labels, 1, {0.0, 100, 1e-12});
  CHECK(probe.weights()[0] == doctest::Approx(2 * std::log(3.0)).epsilon(1e-7));
  CHECK(probe.bias() == doctest::Approx(-std::log(3.0)).epsilon(1e-7));
}

TEST_CASE("leakage shows as a gap, memory of the probe does not") {
  const Rows noise = rows_of(300, 40, 0, 2), test = rows_of(300, 40, 0, 3), leaky = rows_of(300, 40, 2, 4), honest = rows_of(300, 40, 2, 5);
  const LeakageReport clean = leakage_probe(noise.vectors, noise.labels, test.vectors, test.labels, 40);
  CHECK(clean.train_auc > 0.65);  // memorised
  CHECK(std::abs(clean.held_out_gap()) < 0.1);
  const LeakageReport leak = leakage_probe(leaky.vectors, leaky.labels, test.vectors, test.labels, 40);
  CHECK(leak.held_out_gap() > 0.3);
  const LeakageReport same = leakage_probe(leaky.vectors, leaky.labels, honest.vectors, honest.labels, 40);
  CHECK(std::abs(same.held_out_gap()) < 0.05);
  CHECK(same.test_auc > 0.9);
  const LeakageReport again = leakage_probe(leaky.vectors, leaky.labels, honest.vectors, honest.labels, 40);
  CHECK(again.train_auc == same.train_auc);
  CHECK(again.held_out_train_auc == same.held_out_train_auc);
}

TEST_CASE("the probe refuses what is no table and survives separable and constant data") {
  const std::vector<float> vectors = {1, 2, 3};
  const std::vector<std::uint8_t> labels = {0, 1};
  CHECK_THROWS_AS(LogisticProbe(vectors, labels, 2), Error);
  const std::vector<float> separable = {-1, 5, -2, 5, 1, 5, 2, 5};
  const std::vector<std::uint8_t> sides = {0, 0, 1, 1};
  const LogisticProbe probe(separable, sides, 2);
  CHECK(probe.weights()[0] > 0);
  CHECK(probe.weights()[1] == 0);
  const LeakageReport one_class = leakage_probe(separable, std::vector<std::uint8_t>{1, 1, 1, 1}, separable, sides, 2);
  CHECK(std::isnan(one_class.train_auc));
}
