#include "engine/ops/layout.h"

#include "tests/ops/op_cases.h"

using namespace expctr;
using namespace expctr::test;

namespace {

/// A view of an operand by extents and strides of the operand's own elements, for references.
std::vector<double> plain_view(const Operand& x, const std::vector<std::int64_t>& extents, const std::vector<std::int64_t>& strides, std::int64_t begin) {
  std::vector<double> y;
  std::int64_t n = 1;
  for (const std::int64_t extent : extents) n *= extent;
  for (std::int64_t flat = 0; flat < n; ++flat) {
    std::int64_t rest = flat, at = begin;
    for (std::size_t i = extents.size(); i-- > 0;) {
      at += rest % extents[i] * strides[i];
      rest /= extents[i];
    }
    y.push_back(x.values[static_cast<std::size_t>(at)]);
  }
  return y;
}

}  // namespace

OP_CASES(dense) {
  struct Case {
    std::string label;
    Shape shape;
    std::function<Tensor(const Tensor&)> view;
    std::vector<std::int64_t> extents, strides;
    std::int64_t begin = 0;
  };
  const Case cases[] = {
      {"transposed", {3, 7}, [](const Tensor& x) { return x.transpose(0, 1); }, {7, 3}, {1, 7}},
      {"transposed, whole packets", {64, 40}, [](const Tensor& x) { return x.transpose(0, 1); }, {40, 64}, {1, 40}},
      {"transposed, several squares", {136, 72}, [](const Tensor& x) { return x.transpose(0, 1); }, {72, 136}, {1, 72}},
      {"transposed, odd", {67, 130}, [](const Tensor& x) { return x.transpose(0, 1); }, {130, 67}, {1, 130}},
      {"heads to the front", {5, 3, 8}, [](const Tensor& x) { return x.transpose(0, 1); }, {3, 5, 8}, {8, 24, 1}},
      {"heads to the front, odd", {5, 3, 7}, [](const Tensor& x) { return x.transpose(0, 1); }, {3, 5, 7}, {7, 21, 1}},
      {"batch of transposed", {3, 33, 16}, [](const Tensor& x) { return x.transpose(1, 2); }, {3, 16, 33}, {528, 1, 16}},
      {"outer axes exchanged", {4, 3, 2, 5}, [](const Tensor& x) { return x.transpose(0, -1); }, {5, 3, 2, 4}, {1, 10, 5, 30}},
      {"columns", {6, 24}, [](const Tensor& x) { return x.narrow(1, 4, 8); }, {6, 8}, {24, 1}, 4},
      {"columns, unaligned", {6, 23}, [](const Tensor& x) { return x.narrow(-1, 3, 9); }, {6, 9}, {23, 1}, 3},
      {"no columns", {6, 23}, [](const Tensor& x) { return x.narrow(1, 23, 0); }, {6, 0}, {23, 1}},
      {"columns of rows, transposed", {9, 11}, [](const Tensor& x) { return x.narrow(0, 2, 5).narrow(1, 1, 6).transpose(0, 1); }, {6, 5}, {1, 11}, 23},
      {"repeated rows", {7}, [](const Tensor& x) { return x.expand({5, 7}); }, {5, 7}, {0, 1}},
      {"repeated columns", {5, 1}, [](const Tensor& x) { return x.expand({5, 9}); }, {5, 9}, {1, 0}},
      {"repeated around", {4, 1, 3}, [](const Tensor& x) { return x.expand({2, 4, 6, 3}); }, {2, 4, 6, 3}, {0, 3, 0, 1}},
      {"repeated and transposed", {4, 1}, [](const Tensor& x) { return x.expand({4, 600}).transpose(0, 1); }, {600, 4}, {0, 1}},
      {"repeated and cut", {1, 6}, [](const Tensor& x) { return x.expand({3, 6}).narrow(1, 2, 3); }, {3, 3}, {0, 1}, 2},
      {"five axes reversed", {2, 3, 1, 4, 5}, [](const Tensor& x) { return x.transpose(0, 4).transpose(1, 3); }, {5, 4, 1, 3, 2}, {1, 5, 20, 20, 60}},
      {"one element", {1, 1}, [](const Tensor& x) { return x.transpose(0, 1); }, {1, 1}, {1, 1}},
      {"nothing", {0, 3}, [](const Tensor& x) { return x.transpose(0, 1); }, {3, 0}, {1, 3}},
  };
  for (const Case& c : cases) {
    std::int64_t repeats = 1;
    for (std::size_t i = 0; i < c.extents.size(); ++i)
      if (c.strides[i] == 0) repeats *= c.extents[i];
    add_case(
        c.label + " " + c.shape.text(), {uniform(c.shape)}, [c](std::span<const Tensor> in) { return dense(c.view(in[0])); },
        [c](std::span<const Operand> in) { return plain_view(in[0], c.extents, c.strides, c.begin); }, repeats);
  }
  add_error([] { Tensor::zeros({2, 3}).transpose(0, 2); }, "transpose: axis 2 of [2, 3]");
  add_error([] { Tensor::zeros({2, 3}).narrow(1, 2, 2); }, "narrow: 2 to 4 along axis 1 of [2, 3]");
  add_error([] { Tensor::zeros({2, 3}).expand({4, 3}); }, "expand: f32 [2, 3] to [4, 3]");
  add_error([] { Tensor::zeros({2, 32}, DType::q8_0).transpose(0, 1); }, "transpose: q8_0 [2, 32]");
  add_error([] { Tensor::zeros({2, 32}, DType::q8_0).narrow(1, 0, 16); }, "narrow: axis 1 of q8_0 [2, 32]");
}
