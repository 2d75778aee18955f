// The optimisers against PyTorch 2.15 (float64): scripts/optim_torch.py makes the constants. A table of 6 x 2 and a vector of 3, five
// steps; the table's gradient dense or by rows, on every backend.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cmath>
#include <functional>

#include "engine/autograd/row_gradient.h"
#include "engine/core/build_info.h"
#include "engine/optim/adam.h"
#include "engine/optim/schedule.h"
#include "engine/optim/sgd.h"

using namespace expctr;

namespace {

const std::vector<double> sgd = {0.9800665778412416,    0.4535961214255773,    -0.4068122166994731, -1.0025061671898714,
                                 -0.7666216975711838,   -0.029641111527906695, 0.8898945350351115,  1.0455364857880551,
                                 0.4863120861884005,    -0.37063612594557077,  -0.93824576060639,   -0.721319404967591,
                                 -0.000280356016051579, 0.7935820361014383,    0.9890292109447855};
const std::vector<double> sgd_momentum = {0.9164126726212867,  0.42413571008805284,  -0.395556754630487,  -0.8913980305565766,
                                          -0.5987113945153333, -0.13720070692134476, 0.9313608755471565,  0.8385032371558399,
                                          0.38423849325319676, -0.43722940649736847, -0.6648666213194993, -0.3476968618506494,
                                          0.28823887270720444, 1.0147291674393826,   1.0534204854833766};
const std::vector<double> sgd_nesterov = {0.8992603009594253,  0.41619721954569855,  -0.37678375271860826, -0.9097625572109002,
                                          -0.5779247842420898, -0.13970536107644038, 1.0080354725625462,   0.9019186097273869,
                                          0.4306556539550981,  -0.36021351938392127, -0.6403428042813117,  -0.32049134614138797,
                                          0.24672114416583066, 0.9710235946440864,   1.0320234302049844};
const std::vector<double> adam = {0.9800665778412416,    0.4535961214255773,  -0.428181209912996,  -0.9507699113618412, -0.778979744823699,
                                  -0.014506421464350347, 0.7927246487105843,  0.9773131777106887,  0.4233793520370694,  -0.4427423687061485,
                                  -0.9536663623508312,   -0.7567042591425851, 0.03192817779498724, 0.8096591643868974,  0.9886045964989214};
const std::vector<double> adamw = {0.9751760358220474,  0.45133267224596996,  -0.42605192638517253, -0.9459987292571179,
                                   -0.7750610576638859, -0.01445248063938547, 0.7888084823849509,   0.9724313770906682,
                                   0.4212565393607486,  -0.4405319658953994,  -0.9488445862053542,  -0.7528556471491887,
                                   0.03182125494119993, 0.8056574034961147,   0.9836885777802042};
const std::vector<double> adam_l2_clipped = {0.9303634083661985,  0.4039779643929773,    -0.4285755942894201, -0.9488072336311824,
                                             -0.7669632999576921, -0.004003119104959346, 0.7921128406437145,  0.9757848497068934,
                                             0.4218265854007982,  -0.4440219948970993,   -0.9422570670150592, -0.7462331862784429,
                                             0.03254503582703278, 0.8110889873517387,    0.9903014400506844};
const std::vector<double> adam_clipped_values = {0.9800665778412416,   0.4535961214255773,    -0.43604906630470563, -0.9453017317315883,
                                                 -0.7858456620378625,  -0.009278288093903528, 0.7867913040214116,   0.9815608582105071,
                                                 0.4212189661963366,   -0.4399773861548498,   -0.9521579154586463,  -0.7558497806802389,
                                                 0.036662617633620456, 0.8060287583937522,    0.990612261583573};
const std::vector<double> sparse_adam = {0.9800665778412416,  0.4535961214255773,   -0.4225635587099158, -0.9548165344707943,
                                         -0.7805675082826491, -0.01065760185471372, 0.7919018417180286,  0.981922335150469,
                                         0.42660808012232637, -0.4394649169349281,  -0.9591866852768481, -0.7632544104894727};
const std::vector<double> sparse_adam_large_epsilon = {0.9800665778412416, 0.4535961214255773,    -0.4225633628005189, -0.9548171265862607,
                                                       -0.780567638551667, -0.010657948202618794, 0.791901643127396,   0.9819211908229126,
                                                       0.4266083112429987, -0.4394648251285111,   -0.9591871905409817, -0.7632545923500524};

constexpr std::int64_t rows = 6, width = 2, vector_size = 3, steps = 5;
constexpr AdamOptions adam_options{.learning_rate = 0.01, .beta1 = 0.9, .beta2 = 0.99, .epsilon = 1e-6, .weight_decay = 0.0};

struct Place {
  Device device;
  DType dtype;
  double tolerance;
};
std::vector<Place> places() {
  std::vector<Place> all = {{cpu_device, DType::f64, 1e-14}, {cpu_device, DType::f32, 1e-6}};
  if constexpr (has_cuda) all.push_back({{DeviceType::cuda, 0}, DType::f32, 1e-6});
  return all;
}

Tensor tensor_of(const std::vector<double>& values, const Shape& shape, const Place& place) {
  if (place.dtype == DType::f64) return Tensor::of(values, shape, place.device);
  return Tensor::of(std::vector<float>(values.begin(), values.end()), shape, place.device);
}

std::vector<double> start(std::int64_t first, std::int64_t n) {
  std::vector<double> p;
  for (std::int64_t i = 0; i < n; ++i) p.push_back(std::cos(0.9 * static_cast<double>(first + i) + 0.2));
  return p;
}
std::vector<double> gradient(std::int64_t first, std::int64_t n, std::int64_t t) {
  std::vector<double> g;
  for (std::int64_t i = 0; i < n; ++i) g.push_back(std::sin(0.7 * static_cast<double>(first + i) + 1.3 * static_cast<double>(t)));
  return g;
}
bool touched(std::int64_t row, std::int64_t t) { return row > 0 && (t + row) % 3 != 0; }

struct Problem {
  Place place;
  bool by_rows;
  Tensor table, vector;

  Problem(const Place& p, bool row_gradient)
      : place(p),
        by_rows(row_gradient),
        table(tensor_of(start(0, rows * width), {rows, width}, p)),
        vector(tensor_of(start(rows * width, vector_size), {vector_size}, p)) {
    if (by_rows)
      table.require_row_gradient();
    else
      table.require_gradient();
    vector.require_gradient();
  }
  std::vector<NamedTensor> parameters() const { return {{"table", table}, {"vector", vector}}; }

  void set_gradients(std::int64_t t) const {
    table.clear_gradient();
    vector.clear_gradient();
    vector.gradient().copy_from(tensor_of(gradient(rows * width, vector_size, t), {vector_size}, place));
    const std::vector<double> all = gradient(0, rows * width, t);
    std::vector<double> dense(all.size()), named;
    std::vector<std::int32_t> ids;
    for (std::int64_t r = 0; r < rows; ++r) {
      if (!touched(r, t)) continue;
      ids.push_back(static_cast<std::int32_t>(r));
      for (std::int64_t c = 0; c < width; ++c) {
        named.push_back(all[static_cast<std::size_t>(r * width + c)]);
        dense[static_cast<std::size_t>(r * width + c)] = named.back();
      }
    }
    const std::int64_t n = std::ssize(ids);
    if (by_rows)
      accumulate_row_gradient(table, {Tensor::of(ids, {n}, place.device), tensor_of(named, {n, width}, place)});
    else
      table.gradient().copy_from(tensor_of(dense, {rows, width}, place));
  }
};

std::vector<double> values_of(const Tensor& tensor) {
  if (tensor.dtype() == DType::f64) return tensor.to_vector<double>();
  const std::vector<float> values = tensor.to_vector<float>();
  return {values.begin(), values.end()};
}

void check(const Problem& problem, const std::vector<double>& expected, double tolerance, const std::string& what) {
  std::vector<double> got = values_of(problem.table);
  const std::vector<double> rest = values_of(problem.vector);
  got.insert(got.end(), rest.begin(), rest.end());
  for (std::size_t i = 0; i < expected.size(); ++i)
    CHECK_MESSAGE(std::abs(got[i] - expected[i]) <= tolerance,
                  fmt::format("{}: element {} is {}, expected {}", what, i, got[i], expected[i]));
}

std::string name_of(const char* what, const Place& place, bool by_rows) {
  return fmt::format("{} on {} {}{}", what, device_name(place.device), dtype_name(place.dtype), by_rows ? " by rows" : "");
}

void check_sgd(const char* what, const SgdOptions& options, const std::vector<double>& expected) {
  for (const Place& place : places()) {
    const Problem problem(place, false);
    Sgd sgd(problem.parameters(), options);
    for (std::int64_t t = 1; t <= steps; ++t) {
      problem.set_gradients(t);
      sgd.step();
    }
    check(problem, expected, place.tolerance, name_of(what, place, false));
  }
}

// before_step may change the gradients; step takes the step.
using Step = std::function<void(Adam&, std::int64_t t, double tolerance)>;
void check_adam(const char* what, const AdamOptions& options, const std::vector<AdamRule>& rules, const std::vector<double>& expected,
                const Step& step) {
  for (const Place& place : places()) {
    for (const bool by_rows : {false, true}) {
      if (!rules.empty() && rules[0].lazy && !by_rows) continue;
      const Problem problem(place, by_rows);
      Adam adam(problem.parameters(), options, rules);
      for (std::int64_t t = 1; t <= steps; ++t) {
        problem.set_gradients(t);
        step(adam, t, place.tolerance);
      }
      check(problem, expected, place.tolerance, name_of(what, place, by_rows));
    }
  }
}

void plain_step(Adam& adam, std::int64_t, double) { adam.step(); }

}  // namespace

TEST_CASE("SGD takes PyTorch's steps") {
  check_sgd("SGD", {.learning_rate = 0.1}, sgd);
  check_sgd("SGD with momentum and decay", {.learning_rate = 0.1, .momentum = 0.9, .weight_decay = 0.05}, sgd_momentum);
  check_sgd("Nesterov", {.learning_rate = 0.1, .momentum = 0.9, .weight_decay = 0.05, .nesterov = true}, sgd_nesterov);
}

TEST_CASE("Adam and AdamW take PyTorch's steps, with dense gradients and by rows") {
  check_adam("Adam", adam_options, {}, adam, plain_step);
  AdamOptions decaying = adam_options;
  decaying.weight_decay = 0.1;
  check_adam("AdamW", decaying, {}, adamw, plain_step);
}

TEST_CASE("the regulariser of a whole table, clipped by the norm, gives PyTorch's steps and norms") {
  const std::vector<AdamRule> rules = {{.l2 = 0.02}, {}};
  const double norms[] = {1.9354780586468456, 2.0228013542938927, 2.2498949325423228, 2.2395904976756795, 2.105256991985124};
  check_adam("norm on the host", adam_options, rules, adam_l2_clipped, [&](Adam& a, std::int64_t t, double tolerance) {
    const double norm = a.gradient_norm();
    CHECK(norm == doctest::Approx(norms[t - 1]).epsilon(tolerance));
    a.step(0.01, clip_factor(norm, 1.5));
  });
  check_adam("norm on the device", adam_options, rules, adam_l2_clipped, [&](Adam& a, std::int64_t t, double tolerance) {
    const Tensor squared = a.step_clipped(0.01, 1.5);
    CHECK(std::sqrt(squared.to_vector<double>()[0]) == doctest::Approx(norms[t - 1]).epsilon(tolerance));
  });
}

TEST_CASE("clipping by value gives PyTorch's steps") {
  check_adam("values", adam_options, {}, adam_clipped_values, [](Adam& a, std::int64_t, double) {
    clip_gradient_values(a.parameters(), 0.4);
    a.step();
  });
}

// SparseAdam adds epsilon to sqrt(v) before the bias correction: the same where epsilon is small, and close where it is not.
TEST_CASE("lazy rows take the steps of PyTorch's SparseAdam") {
  const std::vector<AdamRule> rules = {{.l2 = 0.0, .lazy = true}, {}};
  AdamOptions options = adam_options;
  options.epsilon = 1e-15;
  check_adam("SparseAdam", options, rules, sparse_adam, plain_step);
  for (const Place& place : places()) {
    const Problem problem(place, true);
    Adam a(problem.parameters(), adam_options, rules);
    for (std::int64_t t = 1; t <= steps; ++t) {
      problem.set_gradients(t);
      a.step();
    }
    check(problem, sparse_adam_large_epsilon, 2e-6, "SparseAdam with a large epsilon");
    check(problem, sparse_adam, 2e-6, "SparseAdam with a small epsilon");
  }
}

TEST_CASE("schedules take PyTorch's values") {
  const double cosine[] = {1.0,  0.9657457896300791, 0.8681980515339464, 0.7222075445642905,
                           0.55, 0.3777924554357097, 0.2318019484660537, 0.134254210369921,
                           0.1};
  const double linear[] = {1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0.0, 0.0};
  const double stairs[] = {1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25};
  for (std::int64_t s = 0; s < 9; ++s)
    CHECK(LearningRateSchedule{LearningRateKind::cosine, 0, 8, 0.1}.factor(s) == doctest::Approx(cosine[s]).epsilon(1e-14));
  for (std::int64_t s = 0; s < 10; ++s)
    CHECK(LearningRateSchedule{LearningRateKind::linear, 0, 8, 0.0}.factor(s) == doctest::Approx(linear[s]).epsilon(1e-14));
  for (std::int64_t s = 0; s < 8; ++s) CHECK(LearningRateSchedule{LearningRateKind::step, 0, 8, 0.0, 0.5, 3}.factor(s) == stairs[s]);
}
