#include "base/kernels/optim.h"

#include <doctest/doctest.h>

#include "base/error.h"
#include "tests/cuda/device_tensor.h"

using namespace expctr;
using namespace expctr::test;

TEST_CASE("adamw over many tensors, several steps, against double") {
  for (const int count : {0, 1, 5, 1000}) {
    struct Reference {
      std::vector<double> p, m, v;
      std::vector<float> g;
    };
    std::vector<Reference> references;
    std::vector<DeviceTensor> tensors;
    for (int i = 0; i < count; ++i) {
      const std::int64_t n = i == 1 ? 5001 : i == 2 ? 0 : 1 + i % 9;
      const std::vector<float> p = random_floats(n, 4 * i), g = random_floats(n, 4 * i + 1), m = random_floats(n, 4 * i + 2),
                               v = random_floats(n, 4 * i + 3, 0, 1);
      references.push_back({{p.begin(), p.end()}, {m.begin(), m.end()}, {v.begin(), v.end()}, g});
      const std::size_t shift = i % 3 == 0 ? 4 : 0;
      tensors.emplace_back(p, Shape{n}, shift);
      tensors.emplace_back(g, Shape{n});
      tensors.emplace_back(m, Shape{n});
      tensors.emplace_back(v, Shape{n});
    }
    std::vector<AdamTensor> table;
    for (int i = 0; i < count; ++i) table.push_back({tensors[4 * i], tensors[4 * i + 1], tensors[4 * i + 2], tensors[4 * i + 3]});
    const double rate = 1e-2, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, decay = 0.1, scale = 0.5;
    for (int t = 1; t <= 3; ++t) {
      launch(AdamW{rate, beta1, beta2, epsilon, decay, scale, t, table.data(), count});
      for (Reference& r : references)
        for (std::size_t i = 0; i < r.p.size(); ++i) {
          const double g = scale * r.g[i];
          r.p[i] -= rate * decay * r.p[i];
          r.m[i] = beta1 * r.m[i] + (1 - beta1) * g;
          r.v[i] = beta2 * r.v[i] + (1 - beta2) * g * g;
          r.p[i] -= rate * (r.m[i] / (1 - std::pow(beta1, t))) / (std::sqrt(r.v[i] / (1 - std::pow(beta2, t))) + epsilon);
        }
    }
    for (int i = 0; i < count; ++i) {
      check_close(tensors[4 * i].read(), references[i].p, 16);
      check_close(tensors[4 * i + 2].read(), references[i].m, 4);
      check_close(tensors[4 * i + 3].read(), references[i].v, 4);
    }
  }
}

TEST_CASE("a small second moment is not lost to rounding of 1 - beta2") {
  const std::vector<float> zero = {0}, gradient = {1};
  const DeviceTensor p(zero, {1}), g(gradient, {1}), m(zero, {1}), v(zero, {1});
  const AdamTensor tensor{p, g, m, v};
  launch(AdamW{0.1, 0.9, 0.999, 0, 0, 1, 1, &tensor, 1});
  CHECK(v.read()[0] == doctest::Approx(1e-3).epsilon(1e-6));
  CHECK(p.read()[0] == doctest::Approx(-0.1).epsilon(1e-6));
  CHECK_THROWS_AS(cuda::run(AdamW{0.1, 0.9, 0.999, 0, 0, 1, 0, &tensor, 1}, stream()), Error);
}
