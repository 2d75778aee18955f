#include "engine/ops/reduce_extreme.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "engine/autograd/tape.h"
#include "engine/core/op_scope.h"
#include "engine/core/run.h"
#include "engine/ops/layout.h"

namespace expctr {

namespace {

/// x seen as [outer, n, inner], and the shape that is left.
struct Folded {
  Shape folded, rest;
  std::int64_t outputs() const { return folded[0] * folded[2]; }
};

int axis_of(const char* op, const Tensor& x, int axis) {
  const int at = axis < 0 ? axis + x.rank() : axis;
  if (at < 0 || at >= x.rank()) throw ShapeError(fmt::format("{}: axis {} of {}", op, axis, x.shape().text()));
  return at;
}

Folded fold(const char* op, const Tensor& x, int axis) {
  const int at = axis_of(op, x, axis);
  std::int64_t outer = 1, inner = 1;
  std::vector<std::int64_t> rest;
  for (int i = 0; i < x.rank(); ++i) {
    if (i < at) outer *= x.dim(i);
    if (i > at) inner *= x.dim(i);
    if (i != at) rest.push_back(x.dim(i));
  }
  const Folded result{{outer, x.dim(at), inner}, Shape(rest)};
  if (x.dim(at) == 0 && result.outputs() > 0) {
    throw ShapeError(fmt::format("{}: axis {} of {} is empty", op, axis, x.shape().text()), "there must be an entry to choose");
  }
  return result;
}

Extreme extreme(const char* op, bool maximum, const Tensor& x, int axis) {
  const OpScope scope(op, x);
  if (!scope.dense()) return extreme(op, maximum, dense(x), axis);
  const Folded f = fold(op, x, axis);
  Tensor y = Tensor::empty(f.rest, x.dtype(), x.device()), index = Tensor::empty(f.rest, DType::i32, x.device());
  const Shape flat{f.folded[0], f.folded[2]};
  run(x.device(), ExtremeForward{maximum, x.reshape(f.folded), y.reshape(flat), index.reshape(flat), {}});
  y = record(op, y, {x}, [=](const Tensor& dy, const GradientSlots& d) {
    run(x.device(), ExtremeBackward{dy.reshape(flat), index.reshape(flat), d[0].reshape(f.folded)});
  });
  return {y, index};
}

}  // namespace

Extreme reduce_max(const Tensor& x, int axis) { return extreme("reduce_max", true, x, axis); }

Extreme reduce_min(const Tensor& x, int axis) { return extreme("reduce_min", false, x, axis); }

Tensor argmax(const Tensor& x, int axis) {
  const OpScope scope("argmax", x);
  if (!scope.dense()) return argmax(dense(x), axis);
  const Folded f = fold("argmax", x, axis);
  Tensor index = Tensor::empty(f.rest, DType::i32, x.device());
  run(x.device(), ExtremeForward{true, x.reshape(f.folded), {}, index.reshape({f.folded[0], f.folded[2]}), {}});
  return index;
}

Tensor sum_axes(const Tensor& x, std::span<const int> axes, double scale) {
  const OpScope scope("sum_axes", x);
  if (!scope.dense()) return sum_axes(dense(x), axes, scale);
  std::vector<int> order;
  for (const int axis : axes) order.push_back(axis_of("sum_axes", x, axis));
  std::sort(order.begin(), order.end(), std::greater<>());
  if (std::adjacent_find(order.begin(), order.end()) != order.end())
    throw ShapeError(fmt::format("sum_axes: an axis of {} stands twice", x.shape().text()));
  if (order.empty()) throw ShapeError("sum_axes: no axes", "name the axes to sum over");
  // Neighbouring axes go in one sum: each run is first flattened into its first axis. Later axes first, so that the earlier ones keep their
  // place.
  Tensor y = x;
  for (std::size_t i = 0; i < order.size();) {
    std::size_t last = i + 1;
    while (last < order.size() && order[last] == order[last - 1] - 1) ++last;
    const int first_axis = order[last - 1], end_axis = order[i] + 1;
    std::vector<std::int64_t> extents;
    for (int a = 0; a < y.rank(); ++a) {
      if (a > first_axis && a < end_axis)
        extents.back() *= y.dim(a);
      else
        extents.push_back(y.dim(a));
    }
    i = last;
    y = sum(y.reshape(Shape(extents)), first_axis, i == order.size() ? scale : 1.0);
  }
  return y;
}

}  // namespace expctr
