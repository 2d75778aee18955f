#include "engine/ops/nearest.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "engine/autograd/tape.h"
#include "engine/core/build_info.h"
#include "engine/nn/assignment.h"
#include "engine/nn/quantise.h"
#include "engine/ops/elementwise.h"
#include "engine/ops/embedding.h"
#include "engine/ops/reduce.h"
#include "tests/ops/op_cases.h"
#include "tests/support/oracle.h"
#include "tests/support/paths.h"

using namespace expctr;
using namespace expctr::test;

namespace {

/// [rows, codes] all squared distances, in double.
std::vector<double> all_distances(const Operand& x, const Operand& codebook) {
  const std::int64_t width = x.shape[1];
  std::vector<double> distances;
  for (std::int64_t r = 0; r < x.shape[0]; ++r)
    for (std::int64_t c = 0; c < codebook.shape[0]; ++c) {
      double sum = 0;
      for (std::int64_t i = 0; i < width; ++i) {
        const double difference = x.values[r * width + i] - codebook.values[c * width + i];
        sum += difference * difference;
      }
      distances.push_back(sum);
    }
  return distances;
}

/// Multiples of 1/8: every sum is exact in float, so the order of equal and nearly equal distances is the same in every precision.
Operand eighths(const Shape& shape, std::uint64_t seed) {
  Operand operand = uniform(shape, -16.0, 16.0, seed);
  for (double& value : operand.values) value = std::floor(value) / 8.0;
  return constant(operand);
}

}  // namespace

OP_CASES(nearest) {
  struct Case {
    std::int64_t rows, codes, width, k;
  };
  for (const Case& c : {Case{1, 1, 1, 1}, Case{0, 3, 2, 2}, Case{3, 4, 0, 2}, Case{5, 3, 2, 3}, Case{70, 65, 3, 40}, Case{9, 700, 5, 16},
                        Case{66, 131, 36, 64}, Case{50, 90, 72, 33}}) {
    add_case(
        Shape{c.rows, c.width}.text() + " to " + std::to_string(c.k) + " of " + std::to_string(c.codes),
        {eighths({c.rows, c.width}, 1), eighths({c.codes, c.width}, 2)},
        [k = c.k](std::span<const Tensor> in) { return nearest(in[0], in[1], k).distances; },
        [k = c.k](std::span<const Operand> in) {
          std::vector<double> distances = all_distances(in[0], in[1]), y;
          const std::int64_t codes = in[1].shape[0];
          for (std::int64_t r = 0; r < in[0].shape[0]; ++r) {
            std::sort(distances.begin() + r * codes, distances.begin() + (r + 1) * codes);
            y.insert(y.end(), distances.begin() + r * codes, distances.begin() + r * codes + k);
          }
          return y;
        });
  }
  add_error([] { nearest(Tensor::zeros({2, 3}), Tensor::zeros({4, 2})); }, "nearest: codebook is [4, 2], expected [4, 3]");
  add_error([] { nearest(Tensor::zeros({2, 3}), Tensor::zeros({4, 3}), 5); }, "nearest: 5 of the rows of a codebook [4, 3]");
  add_error([] { nearest(Tensor::zeros({2, 3}), Tensor::zeros({4, 3}), 0); }, "nearest: 0 of the rows of a codebook [4, 3]");
  add_error([] { nearest(Tensor::zeros({2, 3}), Tensor::zeros({99, 3}), 65); }, "at least 1, at most 64");
}

namespace {

std::vector<Device> devices() {
  std::vector<Device> all = {cpu_device};
  if constexpr (has_cuda) all.push_back({DeviceType::cuda, 0});
  return all;
}

}  // namespace

TEST_CASE("nearest: indices, ties to the lowest, on every backend") {
  const Operand x = eighths({67, 5}, 3);
  Operand codebook = eighths({300, 5}, 4);
  for (std::int64_t i = 0; i < 5 * 40; ++i)
    codebook.values[static_cast<std::size_t>(i + 5 * 200)] = codebook.values[static_cast<std::size_t>(i)];  // equal codes
  const std::vector<double> distances = all_distances(x, codebook);
  for (const std::int64_t k : {1, 17, 64}) {
    std::vector<std::int32_t> expected;
    for (std::int64_t r = 0; r < 67; ++r) {
      std::vector<std::int32_t> order(300);
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(),
                       [&](std::int32_t a, std::int32_t b) { return distances[r * 300 + a] < distances[r * 300 + b]; });
      expected.insert(expected.end(), order.begin(), order.begin() + k);
    }
    for (const Device device : devices())
      CHECK(nearest(tensor_of(x.values, x.shape, DType::f32, device), tensor_of(codebook.values, codebook.shape, DType::f32, device), k)
                .indices.to_vector<std::int32_t>() == expected);
    CHECK(nearest(tensor_of(x.values, x.shape, DType::f64), tensor_of(codebook.values, codebook.shape, DType::f64), k)
              .indices.to_vector<std::int32_t>() == expected);
  }
}

TEST_CASE("nearest: what is not a number is never near") {
  for (const Device device : devices()) {
    const float nan = std::nanf("");
    const Tensor x = Tensor::of(std::vector<float>{0, 0, nan, 1}, {2, 2}, device),
                 codebook = Tensor::of(std::vector<float>{nan, 0, 3, 0, 1, 0}, {3, 2}, device);
    const NearestResult result = nearest(x, codebook, 3);
    CHECK(result.indices.to_vector<std::int32_t>() == std::vector<std::int32_t>{2, 1, -1, -1, -1, -1});
    CHECK(result.distances.to_vector<float>()[0] == 1.0f);
  }
}

TEST_CASE("the reference case of nearest codes") {
  const std::filesystem::path folder = oracle_root() / "vq" / "nearest";
  const SafetensorsFile file = SafetensorsFile::open(folder / "tensors.safetensors");
  for (const Device device : devices()) {
    OracleReport report(folder, device_name(device));
    const Shape order = shape_of(file, "out.order");
    const NearestResult result =
        nearest(tensor_of(doubles(file, "in.z"), shape_of(file, "in.z"), DType::f32, device),
                tensor_of(doubles(file, "in.codebook"), shape_of(file, "in.codebook"), DType::f32, device), order[1]);
    report.require("order", result.indices.to_vector<std::int32_t>() == integers(file, "out.order"));
    std::vector<double> sorted = doubles(file, "out.distance");
    for (std::int64_t r = 0; r < order[0]; ++r) std::sort(sorted.begin() + r * order[1], sorted.begin() + (r + 1) * order[1]);
    report.compare("distance", doubles(result.distances), sorted, 0.0);
    CHECK(report.finish());
  }
}

TEST_CASE("the reference case of unique codes") {
  const std::filesystem::path folder = oracle_root() / "vq" / "unique_assignment";
  const SafetensorsFile file = SafetensorsFile::open(folder / "tensors.safetensors");
  OracleReport report(folder);
  for (const std::string part : {"", "hand_"}) {
    const Shape shape = shape_of(file, "in." + part + "distance");
    const std::vector<double> distance = doubles(file, "in." + part + "distance");
    const std::int64_t concepts = shape[1], codes = shape[2];
    std::vector<std::int32_t> candidates;  // the nearest `concepts` codes, ties to the lowest
    for (std::int64_t row = 0; row < shape[0] * concepts; ++row) {
      std::vector<std::int32_t> order(static_cast<std::size_t>(codes));
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(),
                       [&](std::int32_t a, std::int32_t b) { return distance[row * codes + a] < distance[row * codes + b]; });
      candidates.insert(candidates.end(), order.begin(), order.begin() + concepts);
    }
    report.require(part + "token", unique_codes(candidates, concepts, concepts) == integers(file, "out." + part + "token"));
  }
  CHECK(report.finish());
  CHECK_THROWS_WITH_AS(unique_codes(std::vector<std::int32_t>{3, 3}, 2, 1), doctest::Contains("concept 1 of entity 0 has no free code"),
                       ShapeError);
}

TEST_CASE("straight-through: the value of one, the gradient to the other; distances of chosen codes carry gradients") {
  for (const Device device : devices()) {
    Tensor z = Tensor::of(std::vector<float>{1, 2, 3, 4}, {2, 2}, device),
           codebook = Tensor::of(std::vector<float>{0, 0, 5, 5, 1, 1}, {3, 2}, device);
    z.require_gradient();
    codebook.require_gradient();
    const Tensor ids = Tensor::of(std::vector<std::int32_t>{2, 2}, {2}, device);
    {
      Tape tape;
      const Tensor y = straight_through(z, gather(codebook, ids));
      CHECK(y.to_vector<float>() == std::vector<float>{1, 1, 1, 1});
      tape.backward(sum_all(multiply(y, y)));
      CHECK(z.gradient().to_vector<float>() == std::vector<float>{2, 2, 2, 2});
      CHECK(!codebook.has_gradient());
    }
    z.clear_gradient();
    Tape tape;
    const Tensor distances = chosen_distances(z, codebook, ids);
    CHECK(distances.to_vector<float>() == std::vector<float>{1, 13});
    tape.backward(sum_all(distances));
    CHECK(z.gradient().to_vector<float>() == std::vector<float>{0, 2, 4, 6});
    CHECK(codebook.gradient().to_vector<float>() == std::vector<float>{0, 0, 0, 0, -4, -8});
  }
}

TEST_CASE("optimal assignment equals the best permutation") {
  // The published example: largest first would take .9.
  const std::vector<double> example = {.9, .8, .1, .85, .2, .3, .1, .4, .6};
  CHECK(optimal_assignment(example, 3, 3) == std::vector<std::int32_t>{1, 0, 2});
  CHECK(optimal_assignment(std::vector<double>(4, 1.0), 2, 2) == std::vector<std::int32_t>{0, 1});  // ties
  CHECK(optimal_assignment({}, 0, 0).empty());
  CHECK(optimal_assignment({}, 2, 0) == std::vector<std::int32_t>{-1, -1});
  for (int rows = 1; rows <= 5; ++rows) {
    for (int columns = 1; columns <= 5; ++columns) {
      const std::vector<double> similarity = uniform({rows, columns}, -1, 1, static_cast<std::uint64_t>(rows * 10 + columns)).values;
      const int n = std::max(rows, columns), pairs = std::min(rows, columns);
      std::vector<int> permutation(static_cast<std::size_t>(n));
      std::iota(permutation.begin(), permutation.end(), 0);
      double most = -1e9;
      do {
        double sum = 0;
        for (int r = 0; r < rows; ++r)
          if (permutation[static_cast<std::size_t>(r)] < columns)
            sum += similarity[static_cast<std::size_t>(r * columns + permutation[static_cast<std::size_t>(r)])];
        most = std::max(most, sum);
      } while (std::next_permutation(permutation.begin(), permutation.end()));
      double sum = 0;
      int made = 0;
      std::vector<bool> taken(static_cast<std::size_t>(columns));
      const std::vector<std::int32_t> result = optimal_assignment(similarity, rows, columns);
      for (int r = 0; r < rows; ++r) {
        const std::int32_t c = result[static_cast<std::size_t>(r)];
        if (c < 0) continue;
        CHECK(!taken[static_cast<std::size_t>(c)]);
        taken[static_cast<std::size_t>(c)] = true;
        sum += similarity[static_cast<std::size_t>(r * columns + c)];
        ++made;
      }
      CHECK(made == pairs);
      CHECK(sum == doctest::Approx(most).epsilon(1e-12));
    }
  }
  CHECK_THROWS_WITH_AS(optimal_assignment(std::vector<double>(81), 9, 9), doctest::Contains("at most 8 rows"), ShapeError);
  CHECK_THROWS_WITH_AS(optimal_assignment(std::vector<double>{std::nan("")}, 1, 1), doctest::Contains("a similarity is nan"), Error);
}
