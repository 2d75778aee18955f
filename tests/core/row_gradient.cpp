#include "engine/autograd/row_gradient.h"

#include <doctest/doctest.h>

#include "base/error.h"
#include "engine/core/build_info.h"

using namespace expctr;

namespace {

RowGradient rows(const std::vector<std::int32_t>& ids, const std::vector<float>& values, Device device) {
  const auto n = static_cast<std::int64_t>(ids.size());
  return {Tensor::of(ids, {n}, device), Tensor::of(values, {n, 2}, device)};
}

}  // namespace

TEST_CASE("row gradients merge by id, in order") {
  std::vector<Device> devices = {cpu_device};
  if constexpr (has_cuda) devices.push_back({DeviceType::cuda, 0});
  for (const Device device : devices) {
    CAPTURE(device_name(device));
    Tensor table = Tensor::zeros({10, 2}, DType::f32, device);
    table.require_row_gradient();
    CHECK(table.requires_gradient());
    CHECK(table.wants_row_gradient());
    CHECK_FALSE(table.has_gradient());
    CHECK_FALSE(table.row_gradient().rows.defined());
    accumulate_row_gradient(table, rows({1, 4, 9}, {1, 2, 3, 4, 5, 6}, device));
    CHECK(table.has_gradient());
    accumulate_row_gradient(table, rows({0, 4, 8}, {10, 20, 30, 40, 50, 60}, device));
    const RowGradient g = table.row_gradient();
    CHECK(g.ids.to_vector<std::int32_t>() == std::vector<std::int32_t>{0, 1, 4, 8, 9});
    CHECK(g.rows.to_vector<float>() == std::vector<float>{10, 20, 1, 2, 33, 44, 50, 60, 5, 6});
    accumulate_row_gradient(table, rows({}, {}, device));
    CHECK(table.row_gradient().ids.to_vector<std::int32_t>() == std::vector<std::int32_t>{0, 1, 4, 8, 9});
    table.clear_gradient();
    CHECK_FALSE(table.has_gradient());
    CHECK_FALSE(table.row_gradient().ids.defined());
  }
}

TEST_CASE("a row gradient that does not fit is refused") {
  Tensor table = Tensor::zeros({10, 2});
  CHECK_THROWS_WITH_AS(accumulate_row_gradient(table, rows({1}, {1, 2}, {})), doctest::Contains("require_row_gradient"), Error);
  CHECK_THROWS_AS(Tensor::zeros({10}).require_row_gradient(), ShapeError);
  table.require_row_gradient();
  CHECK_THROWS_WITH_AS(table.gradient(), doctest::Contains("by rows"), Error);
  accumulate_row_gradient(table, rows({1}, {1, 2}, {}));
  CHECK_THROWS_WITH_AS(accumulate_row_gradient(table, rows({4, 4}, {1, 2, 3, 4}, {})), doctest::Contains("id 4 after 4"), ShapeError);
  CHECK_THROWS_AS(accumulate_row_gradient(table, {Tensor::zeros({2}, DType::i32), Tensor::zeros({1, 2})}), ShapeError);
  CHECK_THROWS_AS(accumulate_row_gradient(table, {Tensor::zeros({1}, DType::i32), Tensor::zeros({1, 3})}), ShapeError);
  CHECK(table.row_gradient().rows.to_vector<float>() == std::vector<float>{1, 2});
}
