// Adam, clipping and learning-rate schedules against their formulas written out in double; initialisers against their moments.
#include <doctest/doctest.h>

#include <cmath>

#include "base/error.h"
#include "engine/autograd/tape.h"
#include "engine/ops/elementwise.h"
#include "engine/ops/reduce.h"
#include "engine/optim/adam.h"
#include "engine/optim/schedule.h"
#include "models/parameters.h"

using namespace expctr;

TEST_CASE("Adam follows its formula, step by step, with decay and a gradient scale") {
  const std::vector<double> start = {0.5, -1.25, 2.0};
  Tensor parameter = Tensor::of(start, {3});
  parameter.require_gradient();
  Adam adam({{"p", parameter}}, {.learning_rate = 0.01, .weight_decay = 0.1});
  std::vector<double> p = start, m(3, 0.0), v(3, 0.0);
  for (int t = 1; t <= 10; ++t) {
    {
      Tape tape;
      tape.backward(sum_all(unary(Unary::square, parameter)));  // gradient 2 p
    }
    const double rate = 0.01 / t, scale = 0.5;
    CHECK(gradient_norm(adam.parameters()) == doctest::Approx(2 * std::sqrt(p[0] * p[0] + p[1] * p[1] + p[2] * p[2])).epsilon(1e-12));
    adam.step(rate, scale);
    adam.clear_gradients();
    for (std::size_t i = 0; i < 3; ++i) {
      const double g = scale * 2 * p[i];
      p[i] -= rate * 0.1 * p[i];
      m[i] = 0.9 * m[i] + 0.1 * g;
      v[i] = 0.999 * v[i] + 0.001 * g * g;
      p[i] -= rate * (m[i] / (1 - std::pow(0.9, t))) / (std::sqrt(v[i] / (1 - std::pow(0.999, t))) + 1e-8);
    }
    const auto got = parameter.to_vector<double>();
    for (std::size_t i = 0; i < 3; ++i) CHECK(got[i] == doctest::Approx(p[i]).epsilon(1e-12));
  }
  CHECK(adam.steps() == 10);
  const auto state = adam.state();
  REQUIRE(state.size() == 2);
  CHECK(state[0].name == "adam/first_moment/p");
  CHECK(state[1].tensor.to_vector<double>()[0] == doctest::Approx(v[0]).epsilon(1e-12));
  CHECK_THROWS_AS(Adam({{"frozen", Tensor::zeros({1})}}), Error);
  CHECK_THROWS_AS(Adam({{"p", parameter}, {"p", parameter}}), Error);
}

TEST_CASE("clipping by global norm") {
  CHECK(clip_factor(5.0, 10.0) == 1.0);
  CHECK(clip_factor(20.0, 10.0) == doctest::Approx(10.0 / (20.0 + 1e-6)).epsilon(1e-15));
  CHECK(clip_factor(20.0, 0.0) == 1.0);
  CHECK(clip_factor(0.0, 1.0) == 1.0);
}

TEST_CASE("learning-rate schedules") {
  const LearningRateSchedule constant{LearningRateKind::constant, 4, 100, 0.0};
  CHECK(constant.factor(0) == 0.25);
  CHECK(constant.factor(3) == 1.0);
  CHECK(constant.factor(1000) == 1.0);
  const LearningRateSchedule cosine{LearningRateKind::cosine, 10, 110, 0.1};
  CHECK(cosine.factor(4) == 0.5);
  CHECK(cosine.factor(10) == 1.0);
  CHECK(cosine.factor(60) == doctest::Approx(0.55).epsilon(1e-12));
  CHECK(cosine.factor(110) == doctest::Approx(0.1).epsilon(1e-12));
  CHECK(cosine.factor(500) == doctest::Approx(0.1).epsilon(1e-12));
  CHECK_THROWS_AS(parse_learning_rate_kind("linear"), UsageError);
}

TEST_CASE("initial values: moments, bounds, and a stream of their own for each name") {
  const Initialiser initial{42, DType::f64, {}};
  const auto moments = [](const Tensor& tensor) {
    double sum = 0, squares = 0, largest = 0;
    const auto values = tensor.to_vector<double>();
    for (const double value : values) {
      sum += value;
      squares += value * value;
      largest = std::max(largest, std::abs(value));
    }
    const double n = static_cast<double>(values.size());
    return std::array{sum / n, squares / n, largest};
  };
  const auto normal = moments(initial.normal("a", {101, 99}, 0.5));
  CHECK(std::abs(normal[0]) < 0.02);
  CHECK(normal[1] == doctest::Approx(0.25).epsilon(0.05));
  const auto xavier = moments(initial.xavier_normal("b", 60, 140));
  CHECK(xavier[1] == doctest::Approx(0.01).epsilon(0.05));
  const auto uniform = moments(initial.xavier_uniform("c", 60, 140));
  CHECK(uniform[2] <= std::sqrt(0.03));
  CHECK(uniform[2] > 0.99 * std::sqrt(0.03));
  CHECK(uniform[1] == doctest::Approx(0.01).epsilon(0.05));
  const auto kaiming = moments(initial.kaiming_uniform("d", {64, 100}, 100));
  CHECK(kaiming[2] <= 0.1);
  CHECK(kaiming[1] == doctest::Approx(0.01 / 3).epsilon(0.05));

  const auto a = initial.normal("a", {7}, 1.0).to_vector<double>();
  CHECK(initial.normal("a", {7}, 1.0).to_vector<double>() == a);
  CHECK(initial.normal("b", {7}, 1.0).to_vector<double>() != a);
  const auto narrow = Initialiser{42, DType::f32, {}}.normal("a", {7}, 1.0).to_vector<float>();
  for (std::size_t i = 0; i < 7; ++i) CHECK(narrow[i] == static_cast<float>(a[i]));
}

TEST_CASE("hashes tell names, shapes and values apart; snapshots restore") {
  Tensor x = Tensor::of(std::vector<float>{1, 2, 3, 4}, {2, 2});
  const std::vector<NamedTensor> original{{"x", x}};
  const std::string hash = hash_of(original);
  CHECK(hash_of({{"y", x}}) != hash);
  CHECK(hash_of({{"x", x.reshape({4})}}) != hash);
  const auto kept = snapshot(original);
  x.fill(0.0);
  CHECK(hash_of(original) != hash);
  restore(original, kept);
  CHECK(hash_of(original) == hash);
  CHECK_THROWS_AS(restore({{"z", x}}, kept), Error);
  CHECK_THROWS_AS(restore({{"x", Tensor::zeros({4})}}, kept), ShapeError);
}
