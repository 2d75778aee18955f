#include "inference/metrics/bootstrap.h"

#include <doctest/doctest.h>

#include <chrono>
#include <cmath>

#include "base/error.h"
#include "base/philox.h"
#include "inference/metrics/ranking_quality.h"

using namespace expctr;

namespace {

// Roughly normal numbers: the sum of 12 uniforms, less 6.
double normal(RandomKey key, std::uint32_t index) {
  double sum = -6;
  for (std::uint32_t k = 0; k < 3; ++k) {
    const RandomBits bits = philox(key, {index, k, 0, 0});
    for (const std::uint32_t word : bits.word) sum += uniform_float(word);
  }
  return sum;
}

}  // namespace

TEST_CASE("bootstrap interval of a mean is the textbook one, and covers the truth about 95 times in 100") {
  std::vector<double> values;
  const RandomKey key = random_key(3, "bootstrap test");
  for (std::uint32_t i = 0; i < 400; ++i) values.push_back(2 + 3 * normal(key, i));
  double mean = 0, square = 0;
  for (const double v : values) mean += v / 400;
  for (const double v : values) square += (v - mean) * (v - mean) / 400;
  const double error = std::sqrt(square / 400);
  const Interval interval = bootstrap_mean(values);
  CHECK(interval.value == doctest::Approx(mean).epsilon(1e-13));
  CHECK(interval.resamples == 2000);
  CHECK(interval.low == doctest::Approx(mean - 1.96 * error).epsilon(0.15 * error / mean * 2));
  CHECK(interval.high == doctest::Approx(mean + 1.96 * error).epsilon(0.15 * error / mean * 2));
  CHECK(interval.excludes_zero());

  int covered = 0;
  for (std::uint32_t trial = 0; trial < 200; ++trial) {
    std::vector<double> sample;
    for (std::uint32_t i = 0; i < 60; ++i) sample.push_back(normal(random_key(1000 + trial, "coverage"), i));
    const Interval own = bootstrap_mean(sample, {400, 2024, 0.95});
    covered += own.low <= 0 && own.high >= 0;
  }
  CHECK(covered >= 180);
  CHECK(covered <= 199);
}

TEST_CASE("bootstrap of an AUC difference: same bits again, other seed other bits, pairing narrows it") {
  const RandomKey key = random_key(5, "auc test");
  std::vector<double> good, slightly_worse, unrelated;
  std::vector<std::uint8_t> labels;
  for (std::uint32_t i = 0; i < 500; ++i) {
    labels.push_back(i % 2);
    const double noise = normal(key, i);
    good.push_back((i % 2) * 1.0 + noise);
    slightly_worse.push_back((i % 2) * 0.8 + noise);
    unrelated.push_back((i % 2) * 0.8 + normal(key, i + 10000));
  }
  const Interval interval = bootstrap_auc_difference(good, slightly_worse, labels);
  const Interval again = bootstrap_auc_difference(good, slightly_worse, labels);
  CHECK(interval.low == again.low);
  CHECK(interval.high == again.high);
  CHECK(interval.value == doctest::Approx(*auc(good, labels) - *auc(slightly_worse, labels)).epsilon(1e-12));
  CHECK(interval.low > 0);
  const Interval wide = bootstrap_auc_difference(good, unrelated, labels);
  CHECK(wide.high - wide.low > 3 * (interval.high - interval.low));
  const Interval other = bootstrap_auc_difference(good, slightly_worse, labels, {2000, 1, 0.95});
  CHECK(other.low != interval.low);
  CHECK(other.low == doctest::Approx(interval.low).epsilon(0.1));
  const Interval itself = bootstrap_auc_difference(good, good, labels);
  CHECK(itself.low == 0);
  CHECK(itself.high == 0);
  CHECK_FALSE(itself.excludes_zero());
  CHECK(bootstrap_auc(good, labels).value == *auc(good, labels));
}

TEST_CASE("bootstrap with one class says so instead of guessing") {
  const Interval one_class = bootstrap_auc(std::vector<double>{0.1, 0.2}, std::vector<std::uint8_t>{1, 1});
  CHECK(one_class.resamples == 0);
  CHECK(std::isnan(one_class.low));
  CHECK_FALSE(one_class.excludes_zero());
  CHECK_THROWS_AS(bootstrap_mean(std::vector<double>{}), Error);
}
