#include "inference/metrics/calibration.h"

#include <doctest/doctest.h>

#include <vector>

#include "base/error.h"

using namespace expctr;

TEST_CASE("calibration by hand") {
  const std::vector<double> p = {0.05, 0.15, 0.15, 0.95, 1.0};
  const std::vector<std::uint8_t> y = {0, 0, 1, 1, 0};
  const Calibration c = calibration(p, y, 10);
  CHECK(c.bins[0].rows == 1);
  CHECK(c.bins[1].rows == 2);
  CHECK(c.bins[1].positive_share == doctest::Approx(0.5));
  CHECK(c.bins[9].rows == 2);
  CHECK(c.bins[9].mean_probability == doctest::Approx(0.975));
  // 1/5 |.05 - 0| + 2/5 |.15 - .5| + 2/5 |.975 - .5|
  CHECK(c.expected_error == doctest::Approx(0.01 + 0.14 + 0.19));
}

TEST_CASE("calibration: right probabilities have no error, wrong input is refused") {
  CHECK(calibration(std::vector<double>{0.0, 1.0}, std::vector<std::uint8_t>{0, 1}).expected_error == 0.0);
  CHECK_THROWS_AS(calibration(std::vector<double>{1.5}, std::vector<std::uint8_t>{0}), Error);
  CHECK_THROWS_AS(calibration(std::vector<double>{0.5}, std::vector<std::uint8_t>{}), Error);
}
