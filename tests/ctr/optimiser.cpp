// Adam, clipping and learning-rate schedules against their formulas written out in double; initialisers against their moments.
#include <doctest/doctest.h>

#include <cmath>

#include "base/error.h"
#include "engine/autograd/tape.h"
#include "engine/ops/elementwise.h"
#include "engine/ops/embedding.h"
#include "engine/ops/reduce.h"
#include "engine/optim/adam.h"
#include "engine/optim/schedule.h"
#include "engine/optim/sgd.h"
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
  CHECK_THROWS_AS(parse_learning_rate_kind("sine"), UsageError);
  for (const char* name : {"constant", "cosine", "linear", "inverse_square_root", "step"}) CHECK_NOTHROW(parse_learning_rate_kind(name));

  const LearningRateSchedule linear{LearningRateKind::linear, 10, 110, 0.2};
  CHECK(linear.factor(9) == 1.0);
  CHECK(linear.factor(10) == 1.0);
  CHECK(linear.factor(60) == doctest::Approx(0.6).epsilon(1e-15));
  CHECK(linear.factor(1000) == doctest::Approx(0.2).epsilon(1e-15));
  // Vaswani et al.: rate proportional to min(t / warm_up^1.5, t^-0.5), t = s + 1, here with its peak at 1.
  const LearningRateSchedule inverse{LearningRateKind::inverse_square_root, 16, 1, 0.05};
  for (const std::int64_t s : {0, 7, 15, 16, 63, 399}) {
    const double t = static_cast<double>(s + 1);
    CHECK(inverse.factor(s) == doctest::Approx(4.0 * std::min(t / 64.0, 1.0 / std::sqrt(t))).epsilon(1e-14));
  }
  CHECK(inverse.factor(1000000) == 0.05);
  CHECK(LearningRateSchedule{LearningRateKind::inverse_square_root}.factor(3) == 0.5);
  const LearningRateSchedule stairs{LearningRateKind::step, 2, 1, 0.01, 0.1, 5};
  CHECK(stairs.factor(6) == 1.0);
  CHECK(stairs.factor(7) == doctest::Approx(0.1).epsilon(1e-15));
  CHECK(stairs.factor(1000) == 0.01);
}

TEST_CASE("the learning rate falls where a monitored value stands still, and a resumed schedule goes on") {
  PlateauSchedule schedule(1e-3);
  CHECK(schedule.observe(0.70));
  CHECK(schedule.observe(0.71));
  CHECK(schedule.rate() == 1e-3);
  CHECK(!schedule.observe(0.71 + 5e-7));  // less than the margin
  CHECK(schedule.rate() == doctest::Approx(1e-4).epsilon(1e-15));
  CHECK(!schedule.finished());
  PlateauSchedule resumed(1.0);
  resumed.set_state(schedule.state());
  for (PlateauSchedule* each : {&schedule, &resumed}) {
    CHECK(each->observe(0.72));  // an improvement: the count of failures begins anew, the rate stays
    CHECK(each->rate() == doctest::Approx(1e-4).epsilon(1e-15));
    CHECK(!each->observe(std::nan("")));
    CHECK(!each->finished());
    CHECK(!each->observe(0.5));
    CHECK(each->rate() == doctest::Approx(1e-6).epsilon(1e-12));
    CHECK(each->finished());
    CHECK(each->best() == 0.72);
    CHECK(!each->observe(0.1));
    CHECK(each->rate() >= 1e-6 * (1 - 1e-12));  // not below the least
  }
  PlateauSchedule falling(0.5, {.factor = 0.5, .larger_is_better = false, .patience = 1});
  CHECK(falling.observe(3.0));
  CHECK(falling.observe(2.0));
  CHECK(!falling.observe(2.5));
  CHECK(falling.finished());
  CHECK(falling.rate() == 0.25);
  CHECK_THROWS_AS(PlateauSchedule(0.0), UsageError);
  CHECK_THROWS_AS(PlateauSchedule(1.0, {.factor = 1.5}), UsageError);
  CHECK_THROWS_AS(PlateauSchedule(1.0, {.patience = 0}), UsageError);
}

namespace {

// A table of 50 x 6 with row gradients, one looked up lazily, and a weight: the loss is a function of the step.
struct TableProblem {
  Tensor table = Initialiser{5, DType::f32, {}}.normal("table", {50, 6}, 1.0),
         lazy = Initialiser{5, DType::f32, {}}.normal("lazy", {50, 6}, 1.0),
         weight = Initialiser{5, DType::f32, {}}.normal("weight", {6}, 1.0);
  TableProblem() {
    table.require_row_gradient();
    lazy.require_row_gradient();
    weight.require_gradient();
  }
  Adam adam() const {
    return Adam({{"table", table}, {"lazy", lazy}, {"weight", weight}}, {.learning_rate = 0.05},
                {{.l2 = 0.1}, {.lazy = true}, {.l2 = 0.01}});
  }
  void take(Adam& adam, int step, bool on_device) const {
    std::vector<std::int32_t> ids;
    for (int i = 0; i < 9; ++i) ids.push_back((7 * i * i + 5 * step) % 47);
    const Tensor list = Tensor::of(ids, {9});
    adam.clear_gradients();
    {
      Tape tape;
      const Tensor y = add(multiply(gather(table, list), weight), gather(lazy, list));
      tape.backward(sum_all(unary(Unary::square, y)));
    }
    if (on_device)
      adam.step_clipped(0.05, 3.0);
    else
      adam.step(0.05, clip_factor(adam.gradient_norm(), 3.0));
  }
  std::vector<NamedTensor> parameters() const { return {{"table", table}, {"lazy", lazy}, {"weight", weight}}; }
};

}  // namespace

TEST_CASE("Adam with tables, resumed from its state, ends with the same bits") {
  const TableProblem whole;
  Adam adam = whole.adam();
  std::vector<NamedTensor> parameters, state;
  std::int64_t steps = 0;
  for (int step = 0; step < 12; ++step) {
    if (step == 5) {
      parameters = snapshot(whole.parameters());
      state = snapshot(adam.state());
      steps = adam.steps();
    }
    whole.take(adam, step, false);
  }
  const TableProblem second;
  Adam resumed = second.adam();
  resumed.gradient_norm();  // a sum of squares that the parameters read next make wrong
  restore(second.parameters(), parameters);
  restore(resumed.state(), state);
  resumed.set_steps(steps);
  for (int step = 5; step < 12; ++step) second.take(resumed, step, false);
  CHECK(hash_of(second.parameters()) == hash_of(whole.parameters()));
  CHECK(hash_of(resumed.state()) == hash_of(adam.state()));
}

TEST_CASE("a step that clips on the device takes the step that clips on the host") {
  const TableProblem host, device;
  Adam a = host.adam(), b = device.adam();
  for (int step = 0; step < 5; ++step) {
    host.take(a, step, false);
    device.take(b, step, true);
  }
  for (std::size_t i = 0; i < 3; ++i) {
    const auto x = host.parameters()[i].tensor.to_vector<float>(), y = device.parameters()[i].tensor.to_vector<float>();
    for (std::size_t k = 0; k < x.size(); ++k) CHECK(std::abs(x[k] - y[k]) <= 1e-6);
  }
}

TEST_CASE("a table with a gradient by rows takes the steps of one with a dense gradient; a lazy one moves only where it was read") {
  for (const bool lazy : {false, true}) {
    Tensor sparse = Initialiser{6, DType::f64, {}}.normal("t", {30, 4}, 1.0), dense = sparse.clone();
    const std::vector<double> before = sparse.to_vector<double>();
    sparse.require_row_gradient();
    dense.require_gradient();
    Adam a({{"t", sparse}}, {}, {{.l2 = lazy ? 0.0 : 0.2, .lazy = lazy}}), b({{"t", dense}}, {}, {{.l2 = lazy ? 0.0 : 0.2}});
    for (int step = 0; step < 6; ++step) {
      const Tensor ids = Tensor::of(std::vector<std::int32_t>{3, 8, 3, -1, 11, 8, 0}, {7});
      double norm[2];
      for (Adam* adam : {&a, &b}) {
        adam->clear_gradients();
        Tape tape;
        tape.backward(sum_all(unary(Unary::square, gather(adam == &a ? sparse : dense, ids, 0))));
        norm[adam == &b] = adam->gradient_norm();
      }
      CHECK(norm[0] == doctest::Approx(norm[1]).epsilon(1e-13));
      a.step(0.1);
      b.step(0.1);
    }
    const auto x = sparse.to_vector<double>(), y = dense.to_vector<double>();
    for (std::size_t i = 0; i < x.size(); ++i) {
      const std::size_t row = i / 4;
      if (!lazy || row == 3 || row == 8 || row == 11)
        CHECK(x[i] == doctest::Approx(y[i]).epsilon(1e-13));
      else
        CHECK(x[i] == before[i]);
    }
  }
  Tensor table = Tensor::zeros({2, 2}), rows = Tensor::zeros({2, 2});
  table.require_gradient();
  rows.require_row_gradient();
  CHECK_THROWS_AS(Adam({{"t", table}}, {}, {{.lazy = true}}), Error);
  CHECK_THROWS_AS(Adam({{"t", rows}}, {}, {{.l2 = 0.1, .lazy = true}}), Error);
  CHECK_THROWS_AS(Adam({{"t", rows}}, {}, {{}, {}}), Error);
  CHECK_THROWS_AS(Sgd({{"t", rows}}), Error);
  CHECK_THROWS_AS(Sgd({{"t", table}}, {.nesterov = true}), Error);
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
