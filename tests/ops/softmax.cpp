#include "engine/ops/softmax.h"

#include <cmath>

#include "tests/ops/op_cases.h"

using namespace expctr;
using namespace expctr::test;

namespace {

/// Which entries count: every third one does not, and lengths 0, 1, ... cut the groups.
struct PlainMask {
  std::vector<std::uint8_t> mask;     // [groups, columns] or empty
  std::vector<std::int32_t> lengths;  // [groups] or empty

  bool counts(std::int64_t row, std::int64_t rows, std::int64_t column, std::int64_t columns) const {
    if (!mask.empty()) {
      const std::int64_t groups = static_cast<std::int64_t>(mask.size()) / columns;
      if (mask[static_cast<std::size_t>(row / (rows / groups) * columns + column)] == 0) return false;
    }
    if (!lengths.empty()) return column < lengths[static_cast<std::size_t>(row / (rows / static_cast<std::int64_t>(lengths.size())))];
    return true;
  }
  SoftmaxMask on(Device device, std::int64_t columns) const {
    SoftmaxMask result;
    if (!mask.empty()) result.mask = Tensor::of(mask, {static_cast<std::int64_t>(mask.size()) / columns, columns}, device);
    if (!lengths.empty()) result.lengths = Tensor::of(lengths, {static_cast<std::int64_t>(lengths.size())}, device);
    return result;
  }
};

std::vector<double> plain_softmax(const Operand& x, const PlainMask& mask, double scale, bool logarithm) {
  const std::int64_t columns = x.shape[-1], rows = x.shape.size() / columns;
  std::vector<double> y(x.values.size(), 0.0);
  for (std::int64_t r = 0; r < rows; ++r) {
    double most = -INFINITY, sum = 0.0;
    for (std::int64_t i = 0; i < columns; ++i)
      if (mask.counts(r, rows, i, columns)) most = std::max(most, scale * x.values[r * columns + i]);
    for (std::int64_t i = 0; i < columns; ++i)
      if (mask.counts(r, rows, i, columns)) sum += std::exp(scale * x.values[r * columns + i] - most);
    for (std::int64_t i = 0; i < columns; ++i) {
      if (!mask.counts(r, rows, i, columns)) continue;
      const double shifted = scale * x.values[r * columns + i] - most;
      y[r * columns + i] = logarithm ? shifted - std::log(sum) : std::exp(shifted) / sum;
    }
  }
  return y;
}

PlainMask some_mask(std::int64_t groups, std::int64_t columns, bool bytes, bool cut) {
  PlainMask mask;
  for (std::int64_t i = 0; bytes && i < groups * columns; ++i)
    mask.mask.push_back(i % 3 == 1 || i / columns == 2 ? 0 : static_cast<std::uint8_t>(1 + i % 7));
  for (std::int64_t g = 0; cut && g < groups; ++g)
    mask.lengths.push_back(static_cast<std::int32_t>(g == 1 ? 0 : g == 3 ? columns + 5 : columns - columns / 3));
  return mask;
}

void add_softmax_cases(bool logarithm) {
  const auto op = logarithm ? log_softmax : softmax;
  const auto add = [&](const Shape& shape, const PlainMask& mask, double scale, const std::string& label) {
    OpCase& added = add_case(
        label + shape.text(), {uniform(shape, -5.0, 5.0)},
        [=](std::span<const Tensor> in) { return op(in[0], mask.on(in[0].device(), shape[-1]), scale); },
        [=](std::span<const Operand> in) { return plain_softmax(in[0], mask, scale, logarithm); }, shape[-1]);
    // The gradient of a softmax is the small rest of terms of size y; the logarithm cancels numbers of the size of x.
    added.magnitude = logarithm ? 5.0 * scale : 0.1;
  };
  for (const Shape& shape : {Shape{1, 1}, Shape{0, 3}, Shape{7}, Shape{3, 7}, Shape{5, 128}, Shape{2, 3, 50}, Shape{9, 576}, Shape{3, 1030},
                             Shape{2, 2, 2, 3, 5}})
    add(shape, {}, 1.0, "");
  for (const Shape& shape : {Shape{3, 2051}, Shape{2, 8196}, Shape{1, 10001}}) add(shape, {}, 0.5, "scale 0.5 ");
  for (const Shape& shape : {Shape{4, 3, 7}, Shape{4, 2, 64}, Shape{4, 2, 1100}}) {
    add(shape, some_mask(4, shape[-1], true, false), 1.0, "mask ");
    add(shape, some_mask(4, shape[-1], false, true), 2.0, "lengths ");
    add(shape, some_mask(4, shape[-1], true, true), 1.0, "mask and lengths ");
  }
}

}  // namespace

OP_CASES(softmax) {
  add_softmax_cases(false);
  // Entries of minus infinity, rows of nothing else, and NaN, which must not vanish: 1 in place of NaN below.
  add_case(
      "infinities and NaN", {integers({1}, {0})},
      [](std::span<const Tensor> in) {
        const float none = -INFINITY, nan = std::nanf("");
        const Tensor x = Tensor::of(std::vector<float>{0, none, 0, none, none, none, nan, none, none}, {3, 3}, in[0].device());
        std::vector<float> y = softmax(x).to_vector<float>();
        for (float& value : y) value = std::isnan(value) ? 1.0f : value;
        return Tensor::of(y, {9});
      },
      [](std::span<const Operand>) { return std::vector<double>{0.5, 0, 0.5, 0, 0, 0, 1, 0, 0}; });
  add_error([] { softmax(Tensor::zeros({2, 3}), {}, 0.0); }, "softmax: scale 0");
  add_error([] { softmax(Tensor::zeros({4, 3}), {.mask = Tensor::zeros({2, 4}, DType::u8)}); }, "softmax: mask is [2, 4], x is [4, 3]");
  add_error([] { softmax(Tensor::zeros({4, 3}), {.mask = Tensor::zeros({3, 3}, DType::u8)}); }, "softmax: mask is [3, 3], x is [4, 3]");
  add_error([] { softmax(Tensor::zeros({4, 3}), {.lengths = Tensor::zeros({3}, DType::i32)}); }, "softmax: lengths is [3], x is [4, 3]");
  add_error([] { softmax(Tensor::zeros({4, 3}), {.lengths = Tensor::zeros({4})}); }, "softmax: lengths is f32 on cpu");
}

OP_CASES(log_softmax) {
  add_softmax_cases(true);
  add_error([] { log_softmax(Tensor::zeros({2, 3}), {}, -1.0); }, "log_softmax: scale -1");
}
