#include "inference/metrics/ranking_quality.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "base/error.h"
#include "base/philox.h"

using namespace expctr;

namespace {

// The definition, pair by pair.
std::optional<double> brute_auc(const std::vector<double>& scores, const std::vector<std::uint8_t>& labels) {
  double right = 0, pairs = 0;
  for (std::size_t i = 0; i < scores.size(); ++i)
    for (std::size_t j = 0; j < scores.size(); ++j)
      if (labels[i] == 1 && labels[j] == 0) {
        pairs += 1;
        right += scores[i] > scores[j] ? 1.0 : scores[i] == scores[j] ? 0.5 : 0.0;
      }
  if (pairs == 0) return std::nullopt;
  return right / pairs;
}

}  // namespace

TEST_CASE("AUC and gAUC equal the definition on 1,000 random cases with ties") {
  const RandomKey key = random_key(7, "metric test");
  for (std::uint32_t trial = 0; trial < 1000; ++trial) {
    const std::uint32_t n = 1 + philox(key, {trial, 0, 0, 0}).word[0] % 40, levels = 1 + trial % 9;
    std::vector<double> scores;
    std::vector<std::uint8_t> labels;
    std::vector<std::int64_t> users;
    std::vector<std::uint32_t> weights;
    std::vector<double> repeated_scores;
    std::vector<std::uint8_t> repeated_labels;
    for (std::uint32_t i = 0; i < n; ++i) {
      const RandomBits bits = philox(key, {trial, 1, i, 0});
      scores.push_back(static_cast<double>(bits.word[0] % levels));
      labels.push_back(bits.word[1] % 3 == 0);
      users.push_back(bits.word[2] % 5);
      weights.push_back(bits.word[3] % 3);
      for (std::uint32_t k = 0; k < weights.back(); ++k) {
        repeated_scores.push_back(scores.back());
        repeated_labels.push_back(labels.back());
      }
    }
    const auto expected = brute_auc(scores, labels), got = auc(scores, labels);
    REQUIRE(expected.has_value() == got.has_value());
    if (expected) REQUIRE(*got == doctest::Approx(*expected).epsilon(1e-14));

    const double weighted = SortedScores(scores, labels).auc(weights);
    const auto repeated = brute_auc(repeated_scores, repeated_labels);
    REQUIRE(repeated.has_value() == !std::isnan(weighted));
    if (repeated) REQUIRE(weighted == doctest::Approx(*repeated).epsilon(1e-14));

    double sum = 0, rows = 0;
    for (std::int64_t user = 0; user < 5; ++user) {
      std::vector<double> own_scores;
      std::vector<std::uint8_t> own_labels;
      for (std::size_t i = 0; i < n; ++i)
        if (users[i] == user) {
          own_scores.push_back(scores[i]);
          own_labels.push_back(labels[i]);
        }
      if (const auto own = brute_auc(own_scores, own_labels)) {
        sum += *own * static_cast<double>(own_scores.size());
        rows += static_cast<double>(own_scores.size());
      }
    }
    const GroupAuc grouped = group_auc(scores, labels, users);
    REQUIRE(static_cast<double>(grouped.rows) == rows);
    if (rows > 0) REQUIRE(grouped.value == doctest::Approx(sum / rows).epsilon(1e-13));
  }
}

TEST_CASE("logloss by hand, clipped at both ends; a score that is no number is an error") {
  const std::vector<double> p = {0.8, 0.25};
  const std::vector<std::uint8_t> y = {1, 0};
  CHECK(logloss(p, y) == doctest::Approx(-(std::log(0.8) + std::log(0.75)) / 2).epsilon(1e-15));
  const std::vector<double> sure = {0.0, 1.0};
  CHECK(logloss(sure, y) == doctest::Approx(-std::log(1e-7)).epsilon(1e-9));
  CHECK(logloss(std::vector<double>{0.0}, std::vector<std::uint8_t>{1}, 0.001) == doctest::Approx(-std::log(0.001)));
  const std::vector<double> broken = {0.5, std::numeric_limits<double>::quiet_NaN()};
  CHECK_THROWS_AS(auc(broken, y), Error);
  CHECK_THROWS_AS(logloss(broken, y), Error);
  CHECK_THROWS_AS(auc(p, std::vector<std::uint8_t>{1}), Error);
}
