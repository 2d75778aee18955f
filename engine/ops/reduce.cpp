#include "engine/ops/reduce.h"

#include <fmt/format.h>

#include <cmath>

#include "base/error.h"
#include "engine/autograd/tape.h"
#include "engine/core/op_scope.h"
#include "engine/core/run.h"
#include "engine/ops/elementwise.h"
#include "engine/ops/layout.h"

namespace expctr {

Tensor sum(const Tensor& x, int axis, double scale) {
  const OpScope scope("sum", x);
  if (!scope.dense()) return sum(dense(x), axis, scale);
  const int rank = x.rank(), at = axis < 0 ? axis + rank : axis;
  if (at < 0 || at >= rank) throw ShapeError(fmt::format("sum: axis {} of {}", axis, x.shape().text()));
  std::int64_t outer = 1, inner = 1;
  std::vector<std::int64_t> extents;
  for (int i = 0; i < rank; ++i) {
    if (i < at) outer *= x.dim(i);
    if (i > at) inner *= x.dim(i);
    if (i != at) extents.push_back(x.dim(i));
  }
  const Shape folded{outer, x.dim(at), inner};
  Tensor y = Tensor::empty(Shape(extents), x.dtype(), x.device());
  run(x.device(), SumForward{scale, x.reshape(folded), y.reshape({outer, inner}), {}});
  return record("sum", y, {x}, [=](const Tensor& dy, const GradientSlots& d) {
    run(x.device(), SumBackward{scale, dy.reshape({outer, inner}), d[0].reshape(folded)});
  });
}

Tensor sum_all(const Tensor& x, double scale) { return sum(dense(x).reshape({1, x.size()}), 1, scale); }

Tensor segment_mean(const Tensor& x, const Tensor& offsets) {
  const OpScope scope("segment_mean", x, offsets);
  if (!scope.dense()) return segment_mean(dense(x), dense(offsets));
  require_rank("segment_mean", "x", x, 2);
  require_rank("segment_mean", "offsets", offsets, 1);
  if (offsets.dim(0) < 1) throw ShapeError("segment_mean: no offsets", "segments + 1 offsets are needed");
  Tensor y = Tensor::empty({offsets.dim(0) - 1, x.dim(1)}, x.dtype(), x.device());
  run(x.device(), SegmentMeanForward{x, offsets, y});
  return record("segment_mean", y, {x}, [=](const Tensor& dy, const GradientSlots& d) { run(x.device(), SegmentMeanBackward{dy, offsets, d[0]}); });
}

Tensor squared_norm(std::span<const Tensor> tensors) {
  const OpScope scope("squared_norm", tensors);
  if (!scope.dense()) return squared_norm(dense(tensors));
  if (tensors.empty()) throw ShapeError("squared_norm: no tensors", "pass at least one");
  std::vector<View> views;
  views.reserve(tensors.size());
  std::vector<Tensor> floats;  // the CPU kernel reads f32 and f64
  for (const Tensor& tensor : tensors) {
    if (tensor.dtype() == DType::bf16 && !tensor.device().is_cuda())
      views.push_back(floats.emplace_back(convert(tensor.detached(), DType::f32)).view());
    else
      views.push_back(tensor.view());
  }
  Tensor total = Tensor::empty({1}, DType::f64, tensors[0].device());
  run(tensors[0].device(), SquaredNorm{views.data(), static_cast<int>(views.size()), total, {}});
  return total;
}

double global_norm(std::span<const Tensor> tensors) {
  return tensors.empty() ? 0.0 : std::sqrt(squared_norm(tensors).to_vector<double>()[0]);
}

}  // namespace expctr
