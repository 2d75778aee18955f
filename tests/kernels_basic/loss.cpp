#include "base/kernels/loss.h"

#include "guarded.h"

using namespace expctr;
using namespace expctr::kernel_test;

TEST_CASE_TEMPLATE("cross_entropy", T, float, double) {
  struct Shape {
    std::int64_t rows, classes;
  };
  for (const auto [rows, classes] : {Shape{0, 3}, Shape{1, 1}, Shape{9, 5}, Shape{5, 1031}, Shape{40, 300}}) {
    const std::int64_t r = rows, c = classes;
    const std::vector<T> logits = values<T>(r * c, 1, -30, 30), d = values<T>(r, 2), d0 = values<T>(r * c, 3);
    const std::vector<std::int32_t> targets = ids(r, 4, -1, static_cast<int>(c));
    const auto results = on_one_and_two_threads([&] {
      const std::vector<T> nines(static_cast<std::size_t>(r), T(9));
      Guarded<T> vl({r, c}, logits), lp({r}, nines), lse({r}, nines), vd({r}, d), dl({r, c}, d0);
      Guarded<std::int32_t> vt({r}, targets);
      cpu::run(CrossEntropyForward{vl.view(), vt.view(), lp.view(), lse.view()}, {});
      cpu::run(CrossEntropyBackward{vl.view(), vt.view(), lse.view(), vd.view(), dl.view()}, {});
      return Outputs<T>{lp.values(), lse.values(), dl.values()};
    });
    std::vector<double> lp, lse, dl = in_double(d0);
    for (std::size_t row = 0; row < targets.size(); ++row) {
      long double sum = 0;
      const auto at = [&](std::int64_t i) { return row * static_cast<std::size_t>(c) + static_cast<std::size_t>(i); };
      for (std::int64_t i = 0; i < c; ++i) sum += std::exp(static_cast<long double>(logits[at(i)]));
      lse.push_back(static_cast<double>(std::log(sum)));
      lp.push_back(targets[row] < 0 ? 0.0 : static_cast<double>(logits[at(targets[row])]) - lse.back());
      if (targets[row] < 0) continue;
      for (std::int64_t i = 0; i < c; ++i)
        dl[at(i)] +=
            static_cast<double>(d[row]) * ((i == targets[row] ? 1 : 0) - std::exp(static_cast<double>(logits[at(i)]) - lse.back()));
    }
    check_close(results[0], lp);
    check_close(results[1], lse);
    check_close(results[2], dl, sizeof(T) == 4 ? 4 : 10);
  }
}

TEST_CASE("cross_entropy survives logits that overflow exp") {
  Guarded<float> logits({1, 3}, {1000.0f, 999.0f, -1000.0f}), lp({1}, {0.0f}), lse({1}, {0.0f});
  Guarded<std::int32_t> target({1}, {1});
  cpu::run(CrossEntropyForward{logits.view(), target.view(), lp.view(), lse.view()}, {});
  CHECK(lp.values()[0] == doctest::Approx(-1 - std::log(1 + std::exp(-1.0))));
}

TEST_CASE_TEMPLATE("bce", T, float, double) {
  for (const std::int64_t n : {0, 1, 13, 9001}) {
    const std::vector<T> logits = values<T>(n, 1, -8, 8), labels = values<T>(n, 2, 0, 1), d = values<T>(n, 3), d0 = values<T>(n, 4);
    const auto results = on_one_and_two_threads([&] {
      Guarded<T> vl({n}, logits), vy({n}, labels), loss({n}, std::vector<T>(d.size())), vd({n}, d), dl({n}, d0);
      cpu::run(BceForward{vl.view(), vy.view(), loss.view()}, {});
      cpu::run(BceBackward{vl.view(), vy.view(), vd.view(), dl.view()}, {});
      return Outputs<T>{loss.values(), dl.values()};
    });
    std::vector<double> loss, dl;
    for (std::size_t i = 0; i < d.size(); ++i) {
      const double p = 1 / (1 + std::exp(-static_cast<double>(logits[i]))), y = static_cast<double>(labels[i]);
      loss.push_back(-y * std::log(p) - (1 - y) * std::log1p(-p));
      dl.push_back(static_cast<double>(d0[i]) + static_cast<double>(d[i]) * (p - y));
    }
    check_close(results[0], loss);
    check_close(results[1], dl);
  }
  Guarded<T> far({2}, {T(2000), T(-2000)}), label({2}, {T(0), T(0)}), loss({2}, {T(0), T(0)});
  cpu::run(BceForward{far.view(), label.view(), loss.view()}, {});
  CHECK(loss.values() == std::vector<T>{T(2000), T(0)});
}

TEST_CASE_TEMPLATE("policy_loss clips as PPO does", T, float, double) {
  // rho = e^0.5 above the range, e^-0.5 below it, 1 inside; both signs of the advantage.
  const std::vector<T> now = {T(-0.5), T(-0.5), T(-1.5), T(-1.5), T(-1), T(-1)}, old(6, T(-1)), advantage = {2, -2, 2, -2, 2, -2};
  Guarded<T> vn({6}, now), vo({6}, old), va({6}, advantage), loss({6}, std::vector<T>(6)), clipped({6}, std::vector<T>(6)),
      vd({6}, std::vector<T>(6, T(0.5))), dn({6}, std::vector<T>(6, T(1)));
  cpu::run(PolicyLossForward{0.2, vn.view(), vo.view(), va.view(), loss.view(), clipped.view()}, {});
  cpu::run(PolicyLossBackward{0.2, vn.view(), vo.view(), va.view(), vd.view(), dn.view()}, {});
  const double up = std::exp(0.5), down = std::exp(-0.5);
  check_close(loss.values(), {-2 * 1.2, 2 * up, -2 * down, 2 * 0.8, -2, 2});
  CHECK(clipped.values() == std::vector<T>{1, 0, 0, 1, 0, 0});
  check_close(dn.values(), {1, 1 + up, 1 - down, 1, 0, 2});
}

TEST_CASE_TEMPLATE("policy_loss and value_loss against finite differences", T, float, double) {
  for (const std::int64_t n : {0, 1, 7, 20001}) {
    const std::vector<T> now = values<T>(n, 1, -1, 0), old = values<T>(n, 2, -1, 0), third = values<T>(n, 3), d = values<T>(n, 4),
                         d0 = values<T>(n, 5);
    const auto results = on_one_and_two_threads([&] {
      const std::vector<T> zeros(d.size());
      Guarded<T> vn({n}, now), vo({n}, old), vt({n}, third), policy({n}, zeros), clipped({n}, zeros), value({n}, zeros), vd({n}, d),
          dp({n}, d0), dv({n}, d0);
      cpu::run(PolicyLossForward{0.2, vn.view(), vo.view(), vt.view(), policy.view(), clipped.view()}, {});
      cpu::run(PolicyLossBackward{0.2, vn.view(), vo.view(), vt.view(), vd.view(), dp.view()}, {});
      cpu::run(ValueLossForward{0.2, vn.view(), vo.view(), vt.view(), value.view()}, {});
      cpu::run(ValueLossBackward{0.2, vn.view(), vo.view(), vt.view(), vd.view(), dv.view()}, {});
      return Outputs<T>{policy.values(), dp.values(), value.values(), dv.values()};
    });
    std::vector<double> policy, dp, value, dv;
    for (std::size_t i = 0; i < d.size(); ++i) {
      const double o = static_cast<double>(old[i]), t = static_cast<double>(third[i]), x = static_cast<double>(now[i]), h = 1e-6;
      const auto surrogate = [&](double v) { return std::max(-t * std::exp(v - o), -t * std::min(std::max(std::exp(v - o), 0.8), 1.2)); };
      const auto squared = [&](double v) {
        return 0.5 * std::max(std::pow(v - t, 2), std::pow(std::min(std::max(v, o - 0.2), o + 0.2) - t, 2));
      };
      policy.push_back(surrogate(x));
      value.push_back(squared(x));
      dp.push_back(static_cast<double>(d0[i]) + static_cast<double>(d[i]) * (surrogate(x + h) - surrogate(x - h)) / (2 * h));
      dv.push_back(static_cast<double>(d0[i]) + static_cast<double>(d[i]) * (squared(x + h) - squared(x - h)) / (2 * h));
    }
    check_close(results[0], policy);
    check_close(results[2], value);
    // A kink within h of x spoils the difference, not the kernel.
    const auto nearly_all_close = [&](const std::vector<T>& actual, const std::vector<double>& expected) {
      std::size_t far = 0;
      for (std::size_t i = 0; i < actual.size(); ++i) far += std::abs(static_cast<double>(actual[i]) - expected[i]) > 2e-5;
      CHECK(far <= actual.size() / 5000);
    };
    nearly_all_close(results[1], dp);
    nearly_all_close(results[3], dv);
  }
}

TEST_CASE("loss errors name the op and the shapes") {
  Guarded<float> logits({2, 3}, values<float>(6, 1)), two({2}, values<float>(2, 2)), three({3}, values<float>(3, 3));
  Guarded<std::int32_t> good({2}, {0, 1}), bad({2}, {0, 3});
  CHECK(contains(message_of([&] {
                   cpu::run(CrossEntropyForward{logits.view(), bad.view(), two.view(), two.view()}, {});
                 }),
                 "cross_entropy: targets holds 3"));
  CHECK(contains(message_of([&] {
                   cpu::run(CrossEntropyForward{logits.view(), good.view(), three.view(), two.view()}, {});
                 }),
                 "log_probability f32 [3]"));
  CHECK(contains(message_of([&] { cpu::run(BceForward{two.view(), three.view(), two.view()}, {}); }), "bce: "));
  CHECK(contains(message_of([&] {
                   cpu::run(PolicyLossForward{0.2, two.view(), two.view(), three.view(), two.view(), two.view()}, {});
                 }),
                 "advantage f32 [3]"));
  CHECK(contains(message_of([&] {
                   cpu::run(ValueLossBackward{0.2, two.view(), two.view(), two.view(), two.view(), three.view()}, {});
                 }),
                 "value_loss backward: "));
}
