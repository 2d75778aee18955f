#include "engine/ops/arrange.h"

#include <fmt/format.h>

#include <vector>

#include "base/error.h"
#include "base/kernels/embedding.h"
#include "engine/autograd/tape.h"
#include "engine/core/op_scope.h"
#include "engine/core/run.h"
#include "engine/ops/elementwise.h"
#include "engine/ops/layout.h"

namespace expctr {

namespace {

int axis_of(const char* op, const Tensor& x, int axis) {
  const int at = axis < 0 ? axis + x.rank() : axis;
  if (at < 0 || at >= x.rank()) throw ShapeError(fmt::format("{}: axis {} of {}", op, axis, x.shape().text()));
  return at;
}

/// The shape as [outer, n, inner] around an axis.
Shape folded(const Shape& shape, int axis) {
  std::int64_t outer = 1, inner = 1;
  for (int i = 0; i < axis; ++i) outer *= shape[i];
  for (int i = axis + 1; i < shape.rank(); ++i) inner *= shape[i];
  return {outer, shape[axis], inner};
}

Shape with_extent(const Shape& shape, int axis, std::int64_t extent) {
  std::vector<std::int64_t> extents;
  for (int i = 0; i < shape.rank(); ++i) extents.push_back(i == axis ? extent : shape[i]);
  return Shape(extents);
}

}  // namespace

Tensor concat(std::span<const Tensor> parts, int axis) {
  const OpScope scope("concat", parts);
  if (!scope.dense()) return concat(dense(parts), axis);
  if (parts.empty()) throw ShapeError("concat: no parts");
  const int at = axis_of("concat", parts[0], axis);
  std::int64_t total = 0;
  for (const Tensor& part : parts) {
    require_rank("concat", "part", part, parts[0].rank());
    require_same_place("concat", parts[0], part);
    if (!(with_extent(part.shape(), at, 1) == with_extent(parts[0].shape(), at, 1))) {
      throw ShapeError(fmt::format("concat: {} beside {} along axis {}", parts[0].shape().text(), part.shape().text(), at),
                       "the other extents are equal");
    }
    total += part.dim(at);
  }
  Tensor y = Tensor::empty(with_extent(parts[0].shape(), at, total), parts[0].dtype(), parts[0].device());
  const Shape whole = folded(y.shape(), at);
  std::vector<Shape> shapes;
  std::int64_t begin = 0;
  for (const Tensor& part : parts) {
    shapes.push_back(folded(part.shape(), at));
    run(y.device(), CopyAxis{part.dim(at), 0, begin, false, part.reshape(shapes.back()), y.reshape(whole)});
    begin += part.dim(at);
  }
  return record("concat", y, parts, [=](const Tensor& dy, const GradientSlots& d) {
    std::int64_t from = 0;
    for (std::size_t i = 0; i < shapes.size(); ++i) {
      if (const Tensor part = d[i]; part.defined())
        run(dy.device(), CopyAxis{shapes[i][1], from, 0, true, dy.reshape(whole), part.reshape(shapes[i])});
      from += shapes[i][1];
    }
  });
}

Tensor slice(const Tensor& x, int axis, std::int64_t begin, std::int64_t count) {
  const OpScope scope("slice", x);
  if (!scope.dense()) return slice(dense(x), axis, begin, count);
  const int at = axis_of("slice", x, axis);
  if (begin < 0 || count < 0 || count > x.dim(at) || begin > x.dim(at) - count) {
    throw ShapeError(fmt::format("slice: {} entries from {} along axis {} of {}", count, begin, at, x.shape().text()));
  }
  Tensor y = Tensor::empty(with_extent(x.shape(), at, count), x.dtype(), x.device());
  const Shape whole = folded(x.shape(), at), part = folded(y.shape(), at);
  run(x.device(), CopyAxis{count, begin, 0, false, x.reshape(whole), y.reshape(part)});
  return record("slice", y, {x}, [=](const Tensor& dy, const GradientSlots& d) {
    run(dy.device(), CopyAxis{count, 0, begin, true, dy.reshape(part), d[0].reshape(whole)});
  });
}

Tensor take_along(const Tensor& x, const Tensor& index, int axis) {
  const OpScope scope("take_along", x, index);
  if (!scope.dense()) return take_along(dense(x), dense(index), axis);
  const int at = axis_of("take_along", x, axis);
  const bool vectors = index.rank() == at + 1 && index.rank() < x.rank();
  bool fits = vectors || index.rank() == x.rank();
  for (int i = 0; fits && i < index.rank(); ++i) fits = i == at || index.dim(i) == x.dim(i);
  if (!fits) {
    throw ShapeError(fmt::format("take_along: index {} along axis {} of {}", index.shape().text(), at, x.shape().text()),
                     "index has the shape of x but for the axis, or stops at the axis");
  }
  const std::int64_t count = index.dim(at);
  Tensor y = Tensor::empty(with_extent(x.shape(), at, count), x.dtype(), x.device());
  const Shape whole = folded(x.shape(), at), part = folded(y.shape(), at);
  const Tensor flat = index.reshape(vectors ? Shape{part[0], count} : part);
  run(x.device(), TakeAlong{false, x.reshape(whole), flat, y.reshape(part)});
  return record("take_along", y, {x}, [=](const Tensor& dy, const GradientSlots& d) {
    run(dy.device(), TakeAlongBackward{dy.reshape(part), flat, d[0].reshape(whole)});
  });
}

Tensor scatter_rows(const Tensor& x, const Tensor& index, std::int64_t rows) {
  const OpScope scope("scatter_rows", x, index);
  if (!scope.dense()) return scatter_rows(dense(x), dense(index), rows);
  require_rank("scatter_rows", "x", x, 2);
  require_shape("scatter_rows", "index", index, {x.dim(0)}, "one index per row of x");
  if (rows < 0) throw ShapeError(fmt::format("scatter_rows: {} rows", rows));
  // Many rows may meet in one: they are added in float32 whatever the storage.
  const bool narrow = x.dtype() == DType::bf16;
  const Tensor sums = Tensor::zeros({rows, x.dim(1)}, narrow ? DType::f32 : x.dtype(), x.device());
  run(x.device(), GatherBackward{-1, narrow ? convert(x.detached(), DType::f32) : x, index, sums, {}});
  const Tensor y = narrow ? convert(sums, DType::bf16) : sums;
  const Shape from{1, rows, x.dim(1)}, to{1, x.dim(0), x.dim(1)};
  return record("scatter_rows", y, {x}, [=](const Tensor& dy, const GradientSlots& d) {
    run(dy.device(), TakeAlong{true, dy.reshape(from), index.reshape({1, to[1]}), d[0].reshape(to)});
  });
}

Tensor pad_rows(const Tensor& x, const Tensor& offsets, std::int64_t length, PadSide side) {
  const OpScope scope("pad_rows", x, offsets);
  if (!scope.dense()) return pad_rows(dense(x), dense(offsets), length, side);
  require_rank("pad_rows", "x", x, 2);
  require_rank("pad_rows", "offsets", offsets, 1);
  if (offsets.dim(0) < 1 || length < 0)
    throw ShapeError(fmt::format("pad_rows: offsets {} and length {}", offsets.shape().text(), length), "batch + 1 offsets are needed");
  const bool front = side == PadSide::front;
  Tensor y = Tensor::empty({offsets.dim(0) - 1, length, x.dim(1)}, x.dtype(), x.device());
  run(x.device(), PadRows{front, false, x, offsets, y});
  return record("pad_rows", y, {x}, [=](const Tensor& dy, const GradientSlots& d) {
    run(dy.device(), PackRows{front, true, dy, offsets, d[0]});
  });
}

Tensor pack_rows(const Tensor& x, const Tensor& offsets, std::int64_t rows, PadSide side) {
  const OpScope scope("pack_rows", x, offsets);
  if (!scope.dense()) return pack_rows(dense(x), dense(offsets), rows, side);
  require_rank("pack_rows", "x", x, 3);
  require_shape("pack_rows", "offsets", offsets, {x.dim(0) + 1}, "batch + 1 offsets");
  if (rows < 0) throw ShapeError(fmt::format("pack_rows: {} rows", rows));
  const bool front = side == PadSide::front;
  Tensor y = Tensor::empty({rows, x.dim(2)}, x.dtype(), x.device());
  run(x.device(), PackRows{front, false, x, offsets, y});
  return record("pack_rows", y, {x}, [=](const Tensor& dy, const GradientSlots& d) {
    run(dy.device(), PadRows{front, true, dy, offsets, d[0]});
  });
}

}  // namespace expctr
