#include "base/kernels/optim.h"

#include "guarded.h"

using namespace expctr;
using namespace expctr::kernel_test;

TEST_CASE_TEMPLATE("adamw follows its formula for several tensors and steps", T, float, double) {
  const std::vector<std::int64_t> sizes = {5, 0, 33001, 1};
  const double rate = 1e-2, b1 = 0.9, b2 = 0.99, epsilon = 1e-6, decay = 0.1, scale = 0.5;
  const auto results = on_one_and_two_threads([&] {
    std::vector<std::unique_ptr<Guarded<T>>> memory;
    std::vector<AdamTensor> tensors;
    for (std::size_t t = 0; t < sizes.size(); ++t) {
      for (const std::uint64_t part : {0, 1, 2, 3})
        memory.push_back(std::make_unique<Guarded<T>>(
            std::initializer_list<std::int64_t>{sizes[t]},
            part < 2 ? values<T>(sizes[t], 4 * t + part) : std::vector<T>(static_cast<std::size_t>(sizes[t]))));
      tensors.push_back({memory[4 * t]->view(), memory[4 * t + 1]->view(), memory[4 * t + 2]->view(), memory[4 * t + 3]->view()});
    }
    for (const std::int64_t step : {1, 2, 3}) cpu::run(AdamW{rate, b1, b2, epsilon, decay, scale, step, tensors.data(), 4}, {});
    std::vector<std::vector<T>> all;
    for (const auto& array : memory) all.push_back(array->values());
    return all;
  });
  for (std::size_t t = 0; t < sizes.size(); ++t) {
    std::vector<double> p = in_double(values<T>(sizes[t], 4 * t)), m(p.size()), v(p.size());
    const std::vector<T> gradient = values<T>(sizes[t], 4 * t + 1);
    for (int step = 1; step <= 3; ++step) {
      for (std::size_t i = 0; i < p.size(); ++i) {
        const double g = scale * static_cast<double>(gradient[i]);
        p[i] -= rate * decay * p[i];
        m[i] = b1 * m[i] + (1 - b1) * g;
        v[i] = b2 * v[i] + (1 - b2) * g * g;
        p[i] -= rate * (m[i] / (1 - std::pow(b1, step))) / (std::sqrt(v[i] / (1 - std::pow(b2, step))) + epsilon);
      }
    }
    check_close(results[4 * t], p);
    check_close(results[4 * t + 1], in_double(gradient));
    check_close(results[4 * t + 2], m);
    check_close(results[4 * t + 3], v);
  }
}

TEST_CASE("the first adamw step moves by the learning rate against the gradient's sign") {
  Guarded<double> p({2}, {1.0, 1.0}), g({2}, {0.3, -7.0}), m({2}, {0.0, 0.0}), v({2}, {0.0, 0.0});
  const AdamTensor tensor{p.view(), g.view(), m.view(), v.view()};
  cpu::run(AdamW{0.1, 0.9, 0.999, 0.0, 0.0, 1.0, 1, &tensor, 1}, {});
  CHECK(p.values()[0] == doctest::Approx(0.9));
  CHECK(p.values()[1] == doctest::Approx(1.1));
}

TEST_CASE("adamw errors name the op and the shapes") {
  Guarded<float> a({2}, values<float>(2, 1)), b({3}, values<float>(3, 2));
  const AdamTensor wrong{a.view(), b.view(), a.view(), a.view()}, right{a.view(), a.view(), a.view(), a.view()};
  CHECK(contains(message_of([&] {
                   cpu::run(AdamW{0.1, 0.9, 0.999, 1e-8, 0, 1, 1, &wrong, 1}, {});
                 }),
                 "adamw: operands must have one shape"));
  CHECK(contains(message_of([&] { cpu::run(AdamW{0.1, 0.9, 0.999, 1e-8, 0, 1, 0, &right, 1}, {}); }), "step is 0"));
}
