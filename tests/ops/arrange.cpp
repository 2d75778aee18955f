#include "engine/ops/arrange.h"

#include "tests/ops/op_cases.h"

using namespace expctr;
using namespace expctr::test;

namespace {

/// Extents before, at and after an axis.
struct Folded {
  std::int64_t outer = 1, n, inner = 1;
  Folded(const Shape& shape, int axis) : n(shape[axis]) {
    for (int i = 0; i < axis; ++i) outer *= shape[i];
    for (int i = axis + 1; i < shape.rank(); ++i) inner *= shape[i];
  }
};

Shape with_extent(const Shape& shape, int axis, std::int64_t extent) {
  std::vector<std::int64_t> extents;
  for (int i = 0; i < shape.rank(); ++i) extents.push_back(i == axis ? extent : shape[i]);
  return Shape(extents);
}

std::vector<double> plain_concat(std::span<const Operand> in, int axis) {
  std::vector<double> y;
  const Folded first(in[0].shape, axis);
  for (std::int64_t o = 0; o < first.outer; ++o) {
    for (const Operand& part : in) {
      const Folded f(part.shape, axis);
      for (std::int64_t i = 0; i < f.n * f.inner; ++i) y.push_back(part.values[o * f.n * f.inner + i]);
    }
  }
  return y;
}

std::vector<std::int32_t> some_ids(std::int64_t n, std::int64_t limit) {
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < n; ++i) ids.push_back(i % 7 == 4 ? -1 : static_cast<std::int32_t>((i * i + 3 * i) % limit));
  return ids;
}

/// Row of the packed sequences at each step of the batch, -1 at padding.
std::vector<std::int64_t> plain_places(const std::vector<std::int32_t>& offsets, std::int64_t length, PadSide side) {
  std::vector<std::int64_t> places;
  for (std::size_t b = 0; b + 1 < offsets.size(); ++b) {
    const std::int64_t rows = offsets[b + 1] - offsets[b];
    for (std::int64_t t = 0; t < length; ++t) {
      const std::int64_t row = side == PadSide::end ? t : t - (length - rows);  // of the sequence
      places.push_back(row >= 0 && row < rows ? offsets[b] + row : -1);
    }
  }
  return places;
}

const std::vector<std::int32_t> offsets = {1, 4, 4, 5, 12};  // rows 0 and 12 belong to nobody, one sequence is empty, the last too long

}  // namespace

OP_CASES(concat) {
  struct Case {
    Shape shape;
    int axis;
    std::vector<std::int64_t> extents;
  };
  const Case cases[] = {{Shape{1}, 0, {2, 0, 3}},       {Shape{0, 3}, 1, {1, 2}},       {Shape{3, 1, 4}, 1, {2, 5}},
                        {Shape{3, 1, 4}, 0, {1, 2, 3}}, {Shape{2, 3, 1}, 2, {4, 8, 4}}, {Shape{2, 3, 1}, 2, {1, 5, 3}},
                        {Shape{67, 1}, 1, {64, 3}},     {Shape{9, 1, 2, 8}, 1, {16, 1}}};
  for (const Case& c : cases) {
    std::vector<Operand> parts;
    std::string label = "axis " + std::to_string(c.axis);
    for (const std::int64_t extent : c.extents) {
      parts.push_back(uniform(with_extent(c.shape, c.axis, extent), -1.0, 1.0, parts.size() + 1));
      label += " " + parts.back().shape.text();
    }
    add_case(
        label, parts, [axis = c.axis](std::span<const Tensor> in) { return concat(in, axis); },
        [axis = c.axis](std::span<const Operand> in) { return plain_concat(in, axis); });
  }
  add_case(
      "last axis, one part frozen", {uniform({3, 4}), constant(uniform({3, 2}, -1.0, 1.0, 2)), uniform({3, 3}, -1.0, 1.0, 3)},
      [](std::span<const Tensor> in) { return concat(in, -1); }, [](std::span<const Operand> in) { return plain_concat(in, 1); });
  add_case(
      "ids", {integers({2, 2}, {1, 2, 3, 4}), integers({2, 1}, {5, -6})},
      [](std::span<const Tensor> in) {
        const std::vector<std::int32_t> joined = concat(in, 1).to_vector<std::int32_t>();
        return Tensor::of(std::vector<float>(joined.begin(), joined.end()), {6});
      },
      [](std::span<const Operand>) { return std::vector<double>{1, 2, 5, 3, 4, -6}; });
  add_error([] { concat({Tensor::zeros({2, 3}), Tensor::zeros({3, 3})}, 1); }, "concat: [2, 3] beside [3, 3] along axis 1");
  add_error([] { concat(std::span<const Tensor>(), 0); }, "concat: no parts");
  add_error([] { concat({Tensor::zeros({2, 3})}, 2); }, "concat: axis 2 of [2, 3]");
}

OP_CASES(slice) {
  struct Case {
    Shape shape;
    int axis;
    std::int64_t begin, count;
  };
  for (const Case& c : {Case{{1}, 0, 0, 1}, Case{{0, 4}, 1, 1, 2}, Case{{3, 7, 2}, 1, 2, 5}, Case{{3, 7}, 1, 7, 0},
                        Case{{3, 8, 4}, 1, 3, 4}, Case{{67, 130}, 1, 1, 127}, Case{{5, 9, 3}, 0, 1, 3}}) {
    add_case(
        std::to_string(c.count) + " from " + std::to_string(c.begin) + " along " + std::to_string(c.axis) + " of " + c.shape.text(),
        {uniform(c.shape)}, [c](std::span<const Tensor> in) { return slice(in[0], c.axis, c.begin, c.count); },
        [c](std::span<const Operand> in) {
          const Folded f(c.shape, c.axis);
          std::vector<double> y;
          for (std::int64_t o = 0; o < f.outer; ++o)
            for (std::int64_t i = 0; i < c.count * f.inner; ++i) y.push_back(in[0].values[(o * f.n + c.begin) * f.inner + i]);
          return y;
        });
  }
  add_error([] { slice(Tensor::zeros({2, 3}), 1, 2, 2); }, "slice: 2 entries from 2 along axis 1 of [2, 3]");
  add_error([] { slice(Tensor::zeros({2, 3}), 1, -1, 2); }, "slice: 2 entries from -1");
}

OP_CASES(take_along) {
  struct Case {
    Shape shape;
    int axis;
    std::int64_t count;
    bool vectors;
  };
  const Case cases[] = {{Shape{1, 1}, 1, 1, false},    {Shape{5}, 0, 9, false},         {Shape{0, 4}, 1, 2, false},
                        {Shape{3, 7}, 1, 9, false},    {Shape{3, 7, 5}, 1, 4, false},   {Shape{3, 7, 5}, 1, 4, true},
                        {Shape{3, 7, 64}, 1, 9, true}, {Shape{2, 3, 4, 5}, 0, 3, true}, {Shape{33, 4, 130}, 1, 2, true}};
  for (const Case& c : cases) {
    const Folded f(c.shape, c.axis);
    std::vector<std::int64_t> extents;
    for (int i = 0; i < c.shape.rank() && (i <= c.axis || !c.vectors); ++i) extents.push_back(i == c.axis ? c.count : c.shape[i]);
    const Shape index{std::span<const std::int64_t>(extents)};
    add_case((c.vectors ? "vectors along " : "along ") + std::to_string(c.axis) + " of " + c.shape.text(),
             {uniform(c.shape), integers(index, some_ids(index.size(), f.n))},
             [axis = c.axis](std::span<const Tensor> in) { return take_along(in[0], in[1], axis); },
             [c](std::span<const Operand> in) {
               const Folded f(c.shape, c.axis);
               std::vector<double> y;
               for (std::int64_t o = 0; o < f.outer; ++o) {
                 for (std::int64_t k = 0; k < c.count; ++k) {
                   for (std::int64_t i = 0; i < f.inner; ++i) {
                     const std::int32_t from = in[1].ids[c.vectors ? o * c.count + k : (o * c.count + k) * f.inner + i];
                     y.push_back(from < 0 ? 0.0 : in[0].values[(o * f.n + from) * f.inner + i]);
                   }
                 }
               }
               return y;
             },
             c.count);
  }
  add_error(
      [] {
        take_along(Tensor::zeros({2, 3}), Tensor::zeros({3, 3}, DType::i32), 1);
      },
      "take_along: index [3, 3] along axis 1 of [2, 3]");
  add_error(
      [] {
        take_along(Tensor::zeros({1, 3}), Tensor::of(std::vector<std::int32_t>{3}, {1, 1}), 1);
      },
      "index holds 3, but must stay below 3");
}

OP_CASES(scatter_rows) {
  for (const auto& [n, width, rows] : {std::tuple{1, 1, 1}, {0, 3, 4}, {5, 3, 0}, {9, 5, 4}, {64, 8, 200}, {131, 67, 30}}) {
    const std::vector<std::int32_t> ids = rows == 0 ? std::vector<std::int32_t>(5, -1) : some_ids(n, rows);
    add_case(
        Shape{n, width}.text() + " to " + std::to_string(rows), {uniform({n, width}), integers({n}, ids)},
        [rows = rows](std::span<const Tensor> in) { return scatter_rows(in[0], in[1], rows); },
        [rows = rows](std::span<const Operand> in) {
          const std::int64_t width = in[0].shape[1];
          std::vector<double> y(static_cast<std::size_t>(rows * width));
          for (std::size_t r = 0; r < in[1].ids.size(); ++r)
            for (std::int64_t i = 0; in[1].ids[r] >= 0 && i < width; ++i)
              y[in[1].ids[r] * width + i] += in[0].values[static_cast<std::int64_t>(r) * width + i];
          return y;
        },
        n);
  }
  add_error([] { scatter_rows(Tensor::zeros({2, 3}), Tensor::zeros({3}, DType::i32), 4); }, "scatter_rows: index is [3], expected [2]");
}

OP_CASES(pad_rows) {
  for (const PadSide side : {PadSide::front, PadSide::end}) {
    for (const auto& [length, width] : {std::pair{5, 3}, {5, 8}, {1, 1}, {0, 2}, {9, 12}}) {
      add_case(
          std::string(side == PadSide::front ? "front " : "end ") + Shape{length, width}.text(),
          {uniform({13, width}), integers({5}, offsets)},
          [side, length = length](std::span<const Tensor> in) { return pad_rows(in[0], in[1], length, side); },
          [side, length = length](std::span<const Operand> in) {
            std::vector<double> y;
            for (const std::int64_t row : plain_places(in[1].ids, length, side))
              for (std::int64_t i = 0; i < in[0].shape[1]; ++i) y.push_back(row < 0 ? 0.0 : in[0].values[row * in[0].shape[1] + i]);
            return y;
          });
    }
  }
  add_error([] { pad_rows(Tensor::zeros({2, 3}), Tensor::zeros({0}, DType::i32), 4, PadSide::end); }, "pad_rows: offsets [0] and length 4");
  add_error(
      [] {
        pad_rows(Tensor::zeros({2, 3}), Tensor::of(std::vector<std::int32_t>{0, 3}, {2}), 4, PadSide::end);
      },
      "pad_rows: offsets must ascend within [0, 2]");
}

OP_CASES(pack_rows) {
  for (const PadSide side : {PadSide::front, PadSide::end}) {
    for (const auto& [length, width] : {std::pair{5, 3}, {5, 8}, {1, 1}, {9, 12}}) {
      add_case(
          std::string(side == PadSide::front ? "front " : "end ") + Shape{length, width}.text(),
          {uniform({4, length, width}), integers({5}, offsets)},
          [side](std::span<const Tensor> in) { return pack_rows(in[0], in[1], 13, side); },
          [side](std::span<const Operand> in) {
            const std::int64_t width = in[0].shape[2];
            std::vector<double> y(static_cast<std::size_t>(13 * width));
            const std::vector<std::int64_t> places = plain_places(in[1].ids, in[0].shape[1], side);
            for (std::size_t step = 0; step < places.size(); ++step)
              for (std::int64_t i = 0; places[step] >= 0 && i < width; ++i)
                y[places[step] * width + i] = in[0].values[static_cast<std::int64_t>(step) * width + i];
            return y;
          });
    }
  }
  add_error(
      [] {
        pack_rows(Tensor::zeros({2, 4, 3}), Tensor::zeros({2}, DType::i32), 4, PadSide::end);
      },
      "pack_rows: offsets is [2], expected [3]");
}
