// Views: who shares memory and gradient with whom, and what refuses a strided tensor.
#include <doctest/doctest.h>

#include <numeric>

#include "base/error.h"
#include "engine/autograd/tape.h"
#include "engine/core/build_info.h"
#include "engine/ops/elementwise.h"
#include "engine/ops/layout.h"

using namespace expctr;

namespace {

template <class T>
std::vector<T> counted(std::int64_t n) {
  std::vector<T> values(static_cast<std::size_t>(n));
  std::iota(values.begin(), values.end(), T(0));
  return values;
}

std::vector<Device> devices() {
  std::vector<Device> all = {cpu_device};
  if constexpr (has_cuda) all.push_back({DeviceType::cuda, 0});
  return all;
}

}  // namespace

TEST_CASE("views share memory and know whether they are dense") {
  const Tensor x = Tensor::of(counted<float>(12), {3, 4});
  CHECK(x.is_dense());
  const Tensor t = x.transpose(0, 1);
  CHECK(t.shape() == Shape{4, 3});
  CHECK_FALSE(t.is_dense());
  CHECK(t.transpose(-1, -2).is_dense());
  CHECK(t.to_vector<float>() == std::vector<float>{0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11});
  t.fill(7.0);
  CHECK(x.to_vector<float>() == std::vector<float>(12, 7.0f));
  CHECK(x.narrow(0, 1, 2).is_dense());
  CHECK_FALSE(x.narrow(1, 1, 2).is_dense());
  CHECK(x.narrow(0, 1, 1).narrow(1, 1, 2).is_dense());  // one row: its stride does not matter
  CHECK(x.narrow(1, 2, 0).is_dense());
  CHECK(x.expand({1, 3, 4}).is_dense());
  CHECK_FALSE(x.expand({2, 3, 4}).is_dense());
}

TEST_CASE("a strided tensor is never taken for a dense one") {
  const Tensor t = Tensor::zeros({3, 4}).transpose(0, 1);
  CHECK_THROWS_AS(t.view(), ShapeError);
  CHECK_THROWS_AS(t.data(), ShapeError);
  CHECK_THROWS_AS(t.reshape({12}), ShapeError);
  CHECK(t.reshape({4, 3}).shape() == Shape{4, 3});
  CHECK(t.strided_view().stride[0] == 1);
  CHECK(t.strided_view().stride[1] == 4);
  const Tensor wide = Tensor::zeros({1, 3}).expand({2, 3});
  CHECK_THROWS_WITH_AS(wide.fill(1.0), doctest::Contains("expanded view"), ShapeError);
  CHECK_THROWS_AS(wide.copy_from(Tensor::zeros({2, 3})), ShapeError);
}

TEST_CASE("copies between layouts, dtypes of every width, in place of a view and across devices") {
  for (const Device device : devices()) {
    CAPTURE(device_name(device));
    const auto check = [&]<class T>(T) {
      const Tensor x = Tensor::of(counted<T>(96), {8, 12}, device);
      const std::vector<T> expected = [&] {
        std::vector<T> y;
        for (int c = 2; c < 10; ++c)
          for (int r = 0; r < 8; ++r) y.push_back(static_cast<T>(12 * r + c));
        return y;
      }();
      const Tensor view = x.narrow(1, 2, 8).transpose(0, 1);
      CHECK(view.to_vector<T>() == expected);
      CHECK(view.to(cpu_device).to_vector<T>() == expected);
      CHECK(dense(view).is_dense());
      CHECK(dense(view).to_vector<T>() == expected);
      // Into a strided view: the rest of the memory stays.
      const Tensor y = Tensor::zeros({8, 12}, x.dtype(), device);
      y.narrow(1, 2, 8).transpose(0, 1).copy_from(view);
      std::vector<T> whole(96, T(0));
      for (int r = 0; r < 8; ++r)
        for (int c = 2; c < 10; ++c) whole[static_cast<std::size_t>(12 * r + c)] = static_cast<T>(12 * r + c);
      CHECK(y.to_vector<T>() == whole);
      const Tensor host = Tensor::zeros({12, 8}, x.dtype()).transpose(0, 1);
      host.copy_from(x);
      CHECK(host.to_vector<T>() == counted<T>(96));
    };
    check(std::uint8_t{});
    check(std::int32_t{});
    check(std::int64_t{});
    check(float{});
    check(double{});
    // bf16: halves are exact.
    const Tensor half = convert(Tensor::of(counted<float>(96), {8, 12}, device), DType::bf16);
    const Tensor turned = half.transpose(0, 1);
    CHECK(convert(dense(turned), DType::f32).to_vector<float>() == convert(half, DType::f32).transpose(0, 1).to_vector<float>());
  }
}

TEST_CASE("a view's gradient lands in its original's") {
  for (const Device device : devices()) {
    CAPTURE(device_name(device));
    Tensor x = Tensor::of(counted<float>(6), {2, 3}, device);
    x.require_gradient();
    const Tensor column = x.narrow(1, 1, 1).expand({2, 4}), turned = x.transpose(0, 1);
    CHECK(column.requires_gradient());
    CHECK(turned.shares_gradient(x));
    Tape tape;
    const Tensor y = dense(column), z = dense(turned);
    const Tensor outputs[] = {y, z};
    const Tensor cotangents[] = {Tensor::of(counted<float>(8), {2, 4}, device), Tensor::of(counted<float>(6), {3, 2}, device)};
    tape.backward(outputs, cotangents);
    // d z^T = [[0, 2, 4], [1, 3, 5]]; the repeated column adds 0 + 1 + 2 + 3 and 4 + 5 + 6 + 7 to column 1.
    CHECK(x.gradient().to_vector<float>() == std::vector<float>{0, 8, 4, 1, 25, 5});
    CHECK(turned.gradient().to_vector<float>() == std::vector<float>{0, 1, 8, 25, 4, 5});
    CHECK(turned.has_gradient());
  }
}

TEST_CASE("a strided leaf has a dense gradient, and a view that is dense in memory but not in its gradient is copied") {
  Tensor leaf = Tensor::of(counted<float>(6), {2, 3}).transpose(0, 1);
  leaf.require_gradient();
  CHECK(leaf.gradient().is_dense());
  const Tensor back = leaf.transpose(0, 1);
  CHECK(back.is_contiguous());
  CHECK_FALSE(back.is_dense());
  Tape tape;
  const Tensor y = dense(back), dy = Tensor::of(counted<float>(6), {2, 3});
  tape.backward(std::span(&y, 1), std::span(&dy, 1));
  CHECK(leaf.gradient().to_vector<float>() == std::vector<float>{0, 3, 1, 4, 2, 5});
}

TEST_CASE("a bf16 tensor has a bf16 gradient") {
  Tensor x = convert(Tensor::of(counted<float>(6), {2, 3}), DType::bf16);
  x.require_gradient();
  CHECK(x.gradient().dtype() == DType::bf16);
  CHECK_THROWS_AS(Tensor::zeros({2}, DType::i32).require_gradient(), ShapeError);
}
