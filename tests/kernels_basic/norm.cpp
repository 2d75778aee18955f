#include "base/kernels/norm.h"

#include "guarded.h"

using namespace expctr;
using namespace expctr::kernel_test;

namespace {

using Doubles = std::vector<double>;

/// Gradient of sum(dy * forward(x)) with respect to x by central differences of fourth order.
template <class Forward>
Doubles difference_gradient(Doubles x, const Doubles& dy, Forward forward) {
  Doubles gradient;
  const auto objective = [&] {
    const Doubles y = forward(x);
    double sum = 0;
    for (std::size_t i = 0; i < y.size(); ++i) sum += dy[i] * y[i];
    return sum;
  };
  for (double& element : x) {
    const double at = element, h = 1e-3;
    double value[4];
    const double step[4] = {-2, -1, 1, 2};
    for (int i = 0; i < 4; ++i) {
      element = at + step[i] * h;
      value[i] = objective();
    }
    element = at;
    gradient.push_back((8 * (value[2] - value[1]) - (value[3] - value[0])) / (12 * h));
  }
  return gradient;
}

Doubles plus(const Doubles& a, const Doubles& b) {
  Doubles sum = a;
  for (std::size_t i = 0; i < a.size(); ++i) sum[i] += b[i];
  return sum;
}

Doubles rms_norm(const Doubles& x, const Doubles& gain, double epsilon) {
  Doubles y(x.size());
  const std::size_t width = gain.size();
  for (std::size_t r = 0; r < x.size(); r += width) {
    double squares = 0;
    for (std::size_t i = 0; i < width; ++i) squares += x[r + i] * x[r + i];
    for (std::size_t i = 0; i < width; ++i) y[r + i] = gain[i] * x[r + i] / std::sqrt(squares / static_cast<double>(width) + epsilon);
  }
  return y;
}

Doubles layer_norm(const Doubles& x, const Doubles& gain, const Doubles& bias, double epsilon) {
  Doubles y(x.size());
  const std::size_t width = gain.size();
  for (std::size_t r = 0; r < x.size(); r += width) {
    double mean = 0, variance = 0;
    for (std::size_t i = 0; i < width; ++i) mean += x[r + i] / static_cast<double>(width);
    for (std::size_t i = 0; i < width; ++i) variance += (x[r + i] - mean) * (x[r + i] - mean) / static_cast<double>(width);
    for (std::size_t i = 0; i < width; ++i) y[r + i] = gain[i] * (x[r + i] - mean) / std::sqrt(variance + epsilon) + bias[i];
  }
  return y;
}

/// Mean and biased variance of the columns.
std::pair<Doubles, Doubles> column_statistics(const Doubles& x, std::size_t width) {
  Doubles mean(width), variance(width);
  const double rows = static_cast<double>(x.size() / width);
  for (std::size_t i = 0; i < x.size(); ++i) mean[i % width] += x[i] / rows;
  for (std::size_t i = 0; i < x.size(); ++i) variance[i % width] += (x[i] - mean[i % width]) * (x[i] - mean[i % width]) / rows;
  return {mean, variance};
}

Doubles dice(const Doubles& x, const Doubles& alpha, const Doubles& mean, const Doubles& variance, double epsilon) {
  Doubles y;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const std::size_t c = i % alpha.size();
    const double p = 1 / (1 + std::exp(-(x[i] - mean[c]) / std::sqrt(variance[c] + epsilon)));
    y.push_back(p * x[i] + alpha[c] * (1 - p) * x[i]);
  }
  return y;
}

struct Shape {
  std::int64_t rows, width;
};

}  // namespace

TEST_CASE_TEMPLATE("rms_norm", T, float, double) {
  for (const auto [rows, width] : {Shape{1, 1}, Shape{3, 5}, Shape{7, 33}, Shape{2, 70}, Shape{0, 4}}) {
    const std::int64_t r = rows, w = width;  // structured bindings are not captured
    const std::vector<T> x = values<T>(r * w, 1), gain = values<T>(w, 2), dy = values<T>(r * w, 3), dx0 = values<T>(r * w, 4),
                         g0 = values<T>(w, 5);
    const auto results = on_one_and_two_threads([&] {
      Guarded<T> vx({r, w}, x), vg({w}, gain), vy({r, w}, std::vector<T>(x.size())),
          inverse({r}, std::vector<T>(static_cast<std::size_t>(r)));
      Guarded<T> vdy({r, w}, dy), dx({r, w}, dx0), dg({w}, g0), only_dx({r, w}, dx0), only_dg({w}, g0);
      cpu::run(RmsNormForward{1e-5, vx.view(), vg.view(), vy.view(), inverse.view()}, {});
      const RmsNormBackward args{vx.view(), vg.view(), inverse.view(), vdy.view(), dx.view(), dg.view(), {}};
      CHECK(cpu::scratch_bytes(args) == 0);
      cpu::run(args, {});
      cpu::run(RmsNormBackward{vx.view(), vg.view(), inverse.view(), vdy.view(), only_dx.view(), {}, {}}, {});
      cpu::run(RmsNormBackward{vx.view(), vg.view(), inverse.view(), vdy.view(), {}, only_dg.view(), {}}, {});
      CHECK(only_dx.values() == dx.values());
      CHECK(only_dg.values() == dg.values());
      return Outputs<T>{vy.values(), dx.values(), dg.values()};
    });
    const Doubles xd = in_double(x), gd = in_double(gain), d = in_double(dy);
    check_close(results[0], rms_norm(xd, gd, 1e-5));
    check_close(results[1], plus(in_double(dx0), difference_gradient(xd, d, [&](const Doubles& v) { return rms_norm(v, gd, 1e-5); })),
                sizeof(T) == 4 ? 10 : 1e5);
    check_close(results[2], plus(in_double(g0), difference_gradient(gd, d, [&](const Doubles& v) { return rms_norm(xd, v, 1e-5); })),
                sizeof(T) == 4 ? 4 : 1e3);
  }
}

TEST_CASE_TEMPLATE("layer_norm", T, float, double) {
  for (const auto [rows, width] : {Shape{1, 2}, Shape{3, 5}, Shape{7, 33}, Shape{2, 70}, Shape{0, 4}}) {
    const std::int64_t r = rows, w = width;
    const std::vector<T> x = values<T>(r * w, 1, -1, 3), gain = values<T>(w, 2), bias = values<T>(w, 6), dy = values<T>(r * w, 3);
    const std::vector<T> dx0 = values<T>(r * w, 4), g0 = values<T>(w, 5), b0 = values<T>(w, 7);
    const auto results = on_one_and_two_threads([&] {
      const std::vector<T> zeros(static_cast<std::size_t>(r));
      Guarded<T> vx({r, w}, x), vg({w}, gain), vb({w}, bias), vy({r, w}, std::vector<T>(x.size())), mean({r}, zeros), inverse({r}, zeros);
      Guarded<T> vdy({r, w}, dy), dx({r, w}, dx0), dg({w}, g0), db({w}, b0), only_dx({r, w}, dx0), only_db({w}, b0);
      cpu::run(LayerNormForward{1e-5, vx.view(), vg.view(), vb.view(), vy.view(), mean.view(), inverse.view()}, {});
      const LayerNormBackward args{vx.view(), vg.view(), mean.view(), inverse.view(), vdy.view(), dx.view(), dg.view(), db.view(), {}};
      CHECK(cpu::scratch_bytes(args) == 0);
      cpu::run(args, {});
      cpu::run(LayerNormBackward{vx.view(), vg.view(), mean.view(), inverse.view(), vdy.view(), only_dx.view(), {}, {}, {}}, {});
      cpu::run(LayerNormBackward{vx.view(), vg.view(), mean.view(), inverse.view(), vdy.view(), {}, {}, only_db.view(), {}}, {});
      CHECK(only_dx.values() == dx.values());
      CHECK(only_db.values() == db.values());
      return Outputs<T>{vy.values(), dx.values(), dg.values(), db.values()};
    });
    const Doubles xd = in_double(x), gd = in_double(gain), bd = in_double(bias), d = in_double(dy);
    const double slack = sizeof(T) == 4 ? 10 : 1e5;
    check_close(results[0], layer_norm(xd, gd, bd, 1e-5));
    check_close(results[1], plus(in_double(dx0), difference_gradient(xd, d, [&](const Doubles& v) { return layer_norm(v, gd, bd, 1e-5); })),
                slack);
    check_close(results[2], plus(in_double(g0), difference_gradient(gd, d, [&](const Doubles& v) { return layer_norm(xd, v, bd, 1e-5); })),
                slack);
    check_close(results[3], plus(in_double(b0), difference_gradient(bd, d, [&](const Doubles& v) { return layer_norm(xd, gd, v, 1e-5); })),
                slack);
  }
}

TEST_CASE("a row's bits do not depend on the other rows") {
  const std::int64_t width = 577;
  const std::vector<float> x = values<float>(5 * width, 1), gain = values<float>(width, 2);
  Guarded<float> all({5, width}, x), vg({width}, gain), y({5, width}, std::vector<float>(x.size())), inverse({5}, std::vector<float>(5));
  cpu::run(RmsNormForward{1e-6, all.view(), vg.view(), y.view(), inverse.view()}, {});
  Guarded<float> one({1, width}, {x.begin() + 3 * width, x.begin() + 4 * width}), alone({1, width}, std::vector<float>(577)),
      one_inverse({1}, {0.0f});
  cpu::run(RmsNormForward{1e-6, one.view(), vg.view(), alone.view(), one_inverse.view()}, {});
  CHECK(std::memcmp(y.values().data() + 3 * width, alone.values().data(), 577 * sizeof(float)) == 0);
}

TEST_CASE_TEMPLATE("dice in training and in evaluation", T, float, double) {
  const double epsilon = 1e-3, momentum = 0.1;
  for (const bool training : {true, false}) {
    for (const auto [rows, width] : {Shape{2, 1}, Shape{5, 3}, Shape{9, 67}}) {
      const std::int64_t r = rows, w = width;
      CAPTURE(training);
      CAPTURE(w);
      const std::vector<T> x = values<T>(r * w, 1), alpha = values<T>(w, 2), dy = values<T>(r * w, 3), dx0 = values<T>(r * w, 4),
                           a0 = values<T>(w, 5);
      const std::vector<T> mean0 = values<T>(w, 6), variance0 = values<T>(w, 7, 0.5, 2);
      const auto results = on_one_and_two_threads([&] {
        const std::vector<T> zeros(static_cast<std::size_t>(w));
        Guarded<T> vx({r, w}, x), va({w}, alpha), vy({r, w}, std::vector<T>(x.size())), running_mean({w}, mean0),
            running_variance({w}, variance0);
        Guarded<T> mean({w}, zeros), inverse({w}, zeros), vdy({r, w}, dy), dx({r, w}, dx0), da({w}, a0), only_dx({r, w}, dx0),
            only_da({w}, a0);
        cpu::run(DiceForward{epsilon,
                             momentum,
                             training,
                             vx.view(),
                             va.view(),
                             running_mean.view(),
                             running_variance.view(),
                             vy.view(),
                             mean.view(),
                             inverse.view(),
                             {}},
                 {});
        cpu::run(DiceBackward{training, vx.view(), va.view(), mean.view(), inverse.view(), vdy.view(), dx.view(), da.view(), {}}, {});
        cpu::run(DiceBackward{training, vx.view(), va.view(), mean.view(), inverse.view(), vdy.view(), only_dx.view(), {}, {}}, {});
        cpu::run(DiceBackward{training, vx.view(), va.view(), mean.view(), inverse.view(), vdy.view(), {}, only_da.view(), {}}, {});
        CHECK(only_dx.values() == dx.values());
        CHECK(only_da.values() == da.values());
        return Outputs<T>{
            vy.values(), dx.values(), da.values(), mean.values(), inverse.values(), running_mean.values(), running_variance.values()};
      });
      const Doubles xd = in_double(x), ad = in_double(alpha), d = in_double(dy), m0 = in_double(mean0), v0 = in_double(variance0);
      const std::size_t columns = static_cast<std::size_t>(w);
      const auto forward = [&](const Doubles& at, const Doubles& slope) {
        const auto [mean, variance] = training ? column_statistics(at, columns) : std::pair{m0, v0};
        return dice(at, slope, mean, variance, epsilon);
      };
      const auto [mean, variance] = training ? column_statistics(xd, columns) : std::pair{m0, v0};
      const double slack = sizeof(T) == 4 ? 20 : 1e6;
      check_close(results[0], forward(xd, ad), 2);
      check_close(results[1], plus(in_double(dx0), difference_gradient(xd, d, [&](const Doubles& v) { return forward(v, ad); })), slack);
      check_close(results[2], plus(in_double(a0), difference_gradient(ad, d, [&](const Doubles& v) { return forward(xd, v); })), slack);
      check_close(results[3], mean);
      Doubles inverse, running_mean = m0, running_variance = v0;
      for (std::size_t i = 0; i < columns; ++i) {
        inverse.push_back(1 / std::sqrt(variance[i] + epsilon));
        if (!training) continue;
        running_mean[i] = (1 - momentum) * m0[i] + momentum * mean[i];
        running_variance[i] = (1 - momentum) * v0[i] + momentum * variance[i] * static_cast<double>(r) / static_cast<double>(r - 1);
      }
      check_close(results[4], inverse, 2);
      check_close(results[5], running_mean);
      check_close(results[6], running_variance);
    }
  }
}

TEST_CASE("dice with one row and with none stays finite") {
  Guarded<float> x({1, 3}, {1.0f, -2.0f, 0.0f}), none({0, 3}, {}), alpha({3}, {0.1f, 0.2f, 0.3f}), y({1, 3}, {9.0f, 9.0f, 9.0f});
  Guarded<float> running_mean({3}, {0.0f, 0.0f, 0.0f}), running_variance({3}, {1.0f, 1.0f, 1.0f}), mean({3}, {9.0f, 9.0f, 9.0f}),
      inverse({3}, {9.0f, 9.0f, 9.0f});
  cpu::run(DiceForward{1e-9,
                       0.1,
                       true,
                       none.view(),
                       alpha.view(),
                       running_mean.view(),
                       running_variance.view(),
                       none.view(),
                       mean.view(),
                       inverse.view(),
                       {}},
           {});
  CHECK(running_mean.values() == std::vector<float>{0.0f, 0.0f, 0.0f});
  CHECK(mean.values() == std::vector<float>{0.0f, 0.0f, 0.0f});
  cpu::run(
      DiceForward{
          1e-9, 0.1, true, x.view(), alpha.view(), running_mean.view(), running_variance.view(), y.view(), mean.view(), inverse.view(), {}},
      {});
  CHECK(running_variance.values() == std::vector<float>{1.0f, 1.0f, 1.0f});
  CHECK(y.values()[0] == doctest::Approx(0.55));
}

TEST_CASE("normalisation errors name the op and the shapes") {
  Guarded<float> x({2, 3}, values<float>(6, 1)), y({2, 3}, values<float>(6, 2)), gain({4}, values<float>(4, 3)),
      three({3}, values<float>(3, 4)), inverse({2}, {0.0f, 0.0f});
  CHECK(contains(message_of([&] {
                   cpu::run(RmsNormForward{1e-5, x.view(), gain.view(), y.view(), inverse.view()}, {});
                 }),
                 "rms_norm: gain must have x's dtype and 3 elements; x f32 [2, 3], gain f32 [4]"));
  CHECK(contains(message_of([&] {
                   cpu::run(LayerNormForward{1e-5, x.view(), three.view(), three.view(), y.view(), inverse.view(), three.view()}, {});
                 }),
                 "layer_norm: inverse_deviation"));
  CHECK(contains(
      message_of([&] {
        cpu::run(DiceForward{1e-5, 0.1, true, x.view(), three.view(), three.view(), gain.view(), y.view(), three.view(), three.view(), {}},
                 {});
      }),
      "dice: running_variance"));
}
