#include "engine/nn/init.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.h"
#include "engine/core/build_info.h"

using namespace expctr;

namespace {

std::vector<double> values_of(const Tensor& tensor) { return tensor.to_vector<double>(); }

struct Moments {
  double mean = 0, variance = 0;
};

Moments moments(const std::vector<double>& values) {
  const double n = static_cast<double>(values.size());
  Moments m;
  for (const double v : values) m.mean += v / n;
  for (const double v : values) m.variance += (v - m.mean) * (v - m.mean) / n;
  return m;
}

/// Kolmogorov and Smirnov's largest distance between the sample and a distribution, times sqrt n: above 1.95 in one sample of a thousand.
template <class Distribution>
double distance(std::vector<double> values, Distribution distribution) {
  std::sort(values.begin(), values.end());
  const double n = static_cast<double>(values.size());
  double most = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double p = distribution(values[i]);
    most = std::max({most, p - static_cast<double>(i) / n, static_cast<double>(i + 1) / n - p});
  }
  return most * std::sqrt(n);
}
constexpr double too_far = 1.95;

double normal(double x) { return 0.5 * std::erfc(-x / std::numbers::sqrt2); }

constexpr std::int64_t many = 20000;

const Initialiser initial{7, DType::f64, {}};

/// Within five standard errors.
void check_moments(const std::vector<double>& values, double mean, double variance, double fourth_moment) {
  const double n = static_cast<double>(values.size());
  const Moments m = moments(values);
  CHECK(std::abs(m.mean - mean) < 5.0 * std::sqrt(variance / n));
  CHECK(std::abs(m.variance - variance) < 5.0 * std::sqrt((fourth_moment - variance * variance) / n));
}

}  // namespace

TEST_CASE("uniform initial values") {
  for (const auto& [low, high] : {std::pair{-0.5, 0.5}, {1.0, 4.0}}) {
    const std::vector<double> values =
        values_of(low == -high ? initial.uniform("u", {many}, high) : initial.uniform("u", {many}, low, high));
    const double width = high - low;
    check_moments(values, 0.5 * (low + high), width * width / 12.0, std::pow(width, 4) / 80.0);
    CHECK(distance(values, [low = low, width](double x) { return std::clamp((x - low) / width, 0.0, 1.0); }) < too_far);
    CHECK(*std::min_element(values.begin(), values.end()) >= low);
    CHECK(*std::max_element(values.begin(), values.end()) < high);
  }
}

TEST_CASE("normal initial values") {
  const std::vector<double> values = values_of(initial.normal("n", {many / 4, 4}, 0.02));
  check_moments(values, 0.0, 4e-4, 3.0 * 16e-8);
  CHECK(distance(values, [](double x) { return normal(x / 0.02); }) < too_far);
  // Neighbours come from one draw: they must not go together.
  double together = 0;
  for (std::size_t i = 0; i < values.size(); i += 2) together += values[i] * values[i + 1] / 4e-4;
  CHECK(std::abs(together) < 5.0 * std::sqrt(many / 2.0));
}

TEST_CASE("the statistical tests notice a wrong distribution") {
  const std::vector<double> values = values_of(initial.normal("n", {many}, 1.0));
  CHECK(distance(values, [](double x) { return normal(x / 1.1); }) > too_far);
  CHECK(distance(values, [](double x) { return normal(x - 0.05); }) > too_far);
}

TEST_CASE("truncated normal initial values") {
  for (const auto& [low, high] : {std::pair{-2.0, 2.0}, {-1.0, 3.0}, {1.0, 2.5}}) {
    CAPTURE(low);
    const std::vector<double> values = values_of(initial.truncated_normal("t", {many}, 0.5, low, high));
    const double mass = normal(high) - normal(low);
    CHECK(distance(values, [=, low = low, high = high](double x) {
            return (normal(std::clamp(x / 0.5, low, high)) - normal(low)) / mass;
          }) < too_far);
    CHECK(*std::min_element(values.begin(), values.end()) >= 0.5 * low);
    CHECK(*std::max_element(values.begin(), values.end()) <= 0.5 * high);
  }
  CHECK_THROWS_AS(initial.truncated_normal("t", {4}, 1.0, 5.0, 6.0), UsageError);
  CHECK_THROWS_AS(initial.truncated_normal("t", {4}, 1.0, 1.0, 1.0), UsageError);
}

TEST_CASE("fans, Glorot's and He's scales") {
  CHECK(fans_of({3, 5}).inputs == 5);
  CHECK(fans_of({3, 5}).outputs == 3);
  CHECK(fans_of({3, 5, 2, 2}).inputs == 20);
  CHECK(fans_of({3, 5, 2, 2}).outputs == 12);
  CHECK(fans_of({7}).inputs == 1);
  const Shape shape{50, 400};
  const auto variance_of = [](const Tensor& tensor) { return moments(values_of(tensor)).variance; };
  const double n = static_cast<double>(shape.size());
  // Standard error of a variance: sqrt(2 / n) of it for normal numbers, sqrt(0.8 / n) for uniform ones.
  const double normal_error = 5.0 * std::sqrt(2.0 / n), uniform_error = 5.0 * std::sqrt(0.8 / n);
  CHECK(variance_of(initial.xavier_normal("w", shape)) == doctest::Approx(2.0 / 450.0).epsilon(normal_error));
  CHECK(variance_of(initial.xavier_uniform("w", shape)) == doctest::Approx(2.0 / 450.0).epsilon(uniform_error));
  CHECK(variance_of(initial.xavier_uniform("w", shape, 3.0)) == doctest::Approx(18.0 / 450.0).epsilon(uniform_error));
  CHECK(variance_of(initial.he_normal("w", shape)) == doctest::Approx(2.0 / 400.0).epsilon(normal_error));
  CHECK(variance_of(initial.he_uniform("w", shape, 0.5)) == doctest::Approx(2.0 / (1.25 * 400.0)).epsilon(uniform_error));
  const std::vector<double> he = values_of(initial.he_uniform("w", shape, std::sqrt(5.0))),
                            linear = values_of(initial.kaiming_uniform("w", shape, 400));
  double difference = 0;
  for (std::size_t i = 0; i < he.size(); ++i) difference = std::max(difference, std::abs(he[i] - linear[i]));
  CHECK(difference < 1e-15);
  CHECK(values_of(initial.xavier_normal("w", 50, 400)) == values_of(initial.xavier_normal("w", shape)));
}

TEST_CASE("orthogonal initial values") {
  struct Case {
    Shape shape;
    std::int64_t rows, columns;
  };
  for (const Case& c : {Case{{1, 1}, 1, 1}, Case{{7, 3}, 7, 3}, Case{{16, 4096}, 16, 4096}, Case{{40, 40}, 40, 40}, Case{{4, 3, 5}, 4, 15},
                        Case{{0, 3}, 0, 3}}) {
    CAPTURE(c.shape.text());
    for (const DType dtype : {DType::f64, DType::f32}) {
      const Tensor tensor = Initialiser{7, dtype, {}}.orthogonal("o", c.shape, 2.0);
      std::vector<double> w;
      if (dtype == DType::f64)
        w = values_of(tensor);
      else
        for (const float value : tensor.to_vector<float>()) w.push_back(value);
      REQUIRE(tensor.shape() == c.shape);
      const bool by_rows = c.rows <= c.columns;
      const std::int64_t vectors = std::min(c.rows, c.columns), length = std::max(c.rows, c.columns);
      double worst = 0;
      for (std::int64_t a = 0; a < vectors; ++a) {
        for (std::int64_t b = 0; b < vectors; ++b) {
          double product = 0;
          for (std::int64_t i = 0; i < length; ++i)
            product += by_rows ? w[a * c.columns + i] * w[b * c.columns + i] : w[i * c.columns + a] * w[i * c.columns + b];
          worst = std::max(worst, std::abs(product / 4.0 - (a == b ? 1.0 : 0.0)));
        }
      }
      CHECK(worst < (dtype == DType::f64 ? 1e-14 * std::sqrt(static_cast<double>(length)) + 1e-14 : 1e-6));
    }
  }
  // Haar: an entry of an orthonormal row is nearly N(0, 1 / width), and the sign of the first ones is not fixed.
  const std::vector<double> w = values_of(initial.orthogonal("haar", {20, 1000}));
  CHECK(distance(w, [](double x) { return normal(x * std::sqrt(1000.0)); }) < too_far);
  int negative = 0;
  for (int i = 0; i < 100; ++i) negative += values_of(initial.orthogonal("sign" + std::to_string(i), {3, 3}))[0] < 0.0;
  CHECK(negative > 25);
  CHECK(negative < 75);
}

TEST_CASE("initial values depend on seed, name and shape alone") {
  const Initialiser single{7, DType::f32, {}}, other_seed{8, DType::f64, {}};
  const std::vector<double> values = values_of(initial.normal("a", {3, 5}, 1.0));
  const std::vector<float> rounded = single.normal("a", {3, 5}, 1.0).to_vector<float>();
  for (std::size_t i = 0; i < values.size(); ++i) CHECK(rounded[i] == static_cast<float>(values[i]));
  CHECK(values != values_of(initial.normal("b", {3, 5}, 1.0)));
  CHECK(values != values_of(other_seed.normal("a", {3, 5}, 1.0)));
  // The published bits: a change here would change every model that a seed has made.
  CHECK(initial.uniform("golden", {2}, 1.0).to_vector<double>()[0] == doctest::Approx(0.045134345052814107).epsilon(1e-15));
  CHECK(initial.normal("golden", {2}, 1.0).to_vector<double>()[1] == doctest::Approx(0.74332583938861407).epsilon(1e-14));
  if constexpr (has_cuda) {
    const Initialiser there{7, DType::f32, {DeviceType::cuda, 0}};
    CHECK(there.orthogonal("o", {4, 6}).to_vector<float>() == single.orthogonal("o", {4, 6}).to_vector<float>());
  }
  CHECK(initial.constant({3}, 0.25).to_vector<double>() == std::vector<double>{0.25, 0.25, 0.25});
  CHECK(initial.zeros({2}).to_vector<double>() == std::vector<double>{0.0, 0.0});
  CHECK_THROWS_AS((Initialiser{7, DType::bf16, {}}.normal("a", {3}, 1.0)), Error);
}
