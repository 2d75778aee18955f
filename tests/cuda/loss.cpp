#include "base/kernels/loss.h"

#include <doctest/doctest.h>

#include "tests/cuda/device_tensor.h"

using namespace expctr;
using namespace expctr::test;

TEST_CASE("cross-entropy per row, skipped rows, far logits, and its gradient") {
  struct Size {
    std::int64_t rows, classes;
  };
  for (const Size& size : std::vector<Size>{{0, 3}, {1, 1}, {9, 5}, {17, 64}, {3, 1500}, {2, 2048}})
    for (const std::size_t shift : {0u, 4u}) {
      const auto [rows, classes] = size;
      std::vector<float> logits = random_floats(rows * classes, 1, -20, 20);
      if (rows > 2) logits[0] = 90, logits[static_cast<std::size_t>(classes)] = -INFINITY;
      std::vector<std::int32_t> targets = random_ids(rows, 2, 0, static_cast<std::int32_t>(classes));
      if (rows > 2) {
        targets[1] = static_cast<std::int32_t>(classes) - 1;
        targets[2] = -1;
      }
      const std::vector<float> gradient = random_floats(rows, 3), old = random_floats(rows * classes, 4);
      const DeviceTensor lt(logits, {rows, classes}, shift), tt(targets, {rows}),
          log_probability = DeviceTensor::output({rows}), log_sum = DeviceTensor::output({rows}), g(gradient, {rows}),
          dlogits(old, {rows, classes});
      launch(CrossEntropyForward{lt, tt, log_probability, log_sum});
      launch(CrossEntropyBackward{lt, tt, log_sum, g, dlogits});
      std::vector<double> want_p(rows), want_s(rows), want_d(old.begin(), old.end());
      for (std::int64_t r = 0; r < rows; ++r) {
        double most = -INFINITY, sum = 0;
        for (std::int64_t c = 0; c < classes; ++c) most = std::max(most, static_cast<double>(logits[r * classes + c]));
        for (std::int64_t c = 0; c < classes; ++c) sum += std::exp(logits[r * classes + c] - most);
        want_s[r] = most + std::log(sum);
        if (targets[r] < 0) continue;
        want_p[r] = logits[r * classes + targets[r]] - want_s[r];
        for (std::int64_t c = 0; c < classes; ++c)
          want_d[r * classes + c] += gradient[r] * ((c == targets[r] ? 1.0 : 0.0) - std::exp(logits[r * classes + c] - want_s[r]));
      }
      check_close(log_probability.read(), want_p, classes);
      check_close(log_sum.read(), want_s, classes);
      check_close(dlogits.read(), want_d, 400);  // exp(logit - sum) with both around 20
    }
}

TEST_CASE("a target that is no class gives NaN") {
  const DeviceTensor logits(std::vector<float>(6), {2, 3}), targets(std::vector<std::int32_t>{3, 0}, {2}), p = DeviceTensor::output({2}),
                                                                                                           s = DeviceTensor::output({2});
  launch(CrossEntropyForward{logits, targets, p, s});
  CHECK(std::isnan(p.read()[0]));
  CHECK(p.read()[1] == doctest::Approx(-std::log(3.0)));
}

TEST_CASE("binary cross-entropy on logits") {
  for (const std::int64_t n : {0, 1, 7, 1030}) {
    std::vector<float> logits = random_floats(n, 1, -8, 8), labels = random_floats(n, 2, 0, 1);
    if (n > 2) logits[0] = 200, logits[1] = -200, labels[0] = 1, labels[1] = 1;
    const std::vector<float> dy = random_floats(n, 3), old = random_floats(n, 4);
    const DeviceTensor lt(logits, {n}), yt(labels, {n}), loss = DeviceTensor::output({n}), g(dy, {n}), d(old, {n});
    launch(BceForward{lt, yt, loss});
    launch(BceBackward{lt, yt, g, d});
    std::vector<double> want, want_d;
    for (std::int64_t i = 0; i < n; ++i) {
      const double z = logits[i];
      want.push_back(std::max(z, 0.0) + std::log1p(std::exp(-std::fabs(z))) - labels[i] * z);
      want_d.push_back(old[i] + dy[i] * (1 / (1 + std::exp(-z)) - labels[i]));
    }
    check_close(loss.read(), want, 4);
    check_close(d.read(), want_d, 4);
  }
}

TEST_CASE("the clipped policy loss on both sides of the clip range") {
  const std::int64_t n = 1025;
  const double clip = 0.2;
  const std::vector<float> now = random_floats(n, 1, -2, -1), before = random_floats(n, 2, -2, -1), advantage = random_floats(n, 3),
                           dy = random_floats(n, 4), old = random_floats(n, 5);
  const DeviceTensor a(now, {n}), b(before, {n}), c(advantage, {n}), loss = DeviceTensor::output({n}), clipped = DeviceTensor::output({n}),
                                                                     g(dy, {n}), d(old, {n});
  launch(PolicyLossForward{clip, a, b, c, loss, clipped});
  launch(PolicyLossBackward{clip, a, b, c, g, d});
  std::vector<double> want, want_c, want_d;
  int clipped_count = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const double rho = std::exp(static_cast<double>(now[i]) - before[i]), free = -advantage[i] * rho,
                 bounded = -advantage[i] * std::min(std::max(rho, 1 - clip), 1 + clip);
    want.push_back(std::max(free, bounded));
    want_c.push_back(bounded > free);
    clipped_count += bounded > free;
    want_d.push_back(old[i] + (free >= bounded ? dy[i] * free : 0.0));
  }
  CHECK(clipped_count > 100);
  check_close(loss.read(), want, 4);
  check_close(clipped.read(), want_c, 0);
  check_close(d.read(), want_d, 4);
}

TEST_CASE("the clipped value loss and its gradient") {
  const std::int64_t n = 1030;
  const double clip = 0.2;
  const std::vector<float> value = random_floats(n, 1), before = random_floats(n, 2), target = random_floats(n, 3),
                           dy = random_floats(n, 4), old = random_floats(n, 5);
  const DeviceTensor v(value, {n}), b(before, {n}), t(target, {n}), loss = DeviceTensor::output({n}), g(dy, {n}), d(old, {n});
  launch(ValueLossForward{clip, v, b, t, loss});
  launch(ValueLossBackward{clip, v, b, t, g, d});
  std::vector<double> want, want_d;
  for (std::int64_t i = 0; i < n; ++i) {
    const double free = static_cast<double>(value[i]) - target[i],
                 bounded = std::min(std::max(static_cast<double>(value[i]), before[i] - clip), before[i] + clip) - target[i];
    want.push_back(0.5 * std::max(free * free, bounded * bounded));
    want_d.push_back(old[i] + (free * free >= bounded * bounded ? dy[i] * free : 0.0));
  }
  check_close(loss.read(), want, 4);
  check_close(d.read(), want_d, 4);
}
