#include "engine/ops/segment.h"

#include "base/error.h"
#include "engine/autograd/tape.h"
#include "engine/core/op_scope.h"
#include "engine/core/run.h"
#include "engine/ops/layout.h"

namespace expctr {

namespace {

Shape segments_of(const char* op, const Tensor& x, const Tensor& offsets) {
  require_rank(op, "x", x, 2);
  require_rank(op, "offsets", offsets, 1);
  if (offsets.dim(0) < 1) throw ShapeError(std::string(op) + ": no offsets", "segments + 1 offsets are needed");
  return {offsets.dim(0) - 1, x.dim(1)};
}

}  // namespace

Tensor segment_sum(const Tensor& x, const Tensor& offsets) {
  const OpScope scope("segment_sum", x, offsets);
  if (!scope.dense()) return segment_sum(dense(x), dense(offsets));
  Tensor y = Tensor::empty(segments_of("segment_sum", x, offsets), x.dtype(), x.device());
  run(x.device(), SegmentSumForward{x, offsets, y});
  return record("segment_sum", y, {x}, [=](const Tensor& dy, const GradientSlots& d) {
    run(x.device(), SegmentSumBackward{dy, offsets, d[0]});
  });
}

SegmentMaximum segment_max(const Tensor& x, const Tensor& offsets) {
  const OpScope scope("segment_max", x, offsets);
  if (!scope.dense()) return segment_max(dense(x), dense(offsets));
  Tensor y = Tensor::empty(segments_of("segment_max", x, offsets), x.dtype(), x.device()), argument = Tensor::empty(y.shape(), DType::i32, x.device());
  run(x.device(), SegmentMaxForward{x, offsets, y, argument});
  y = record("segment_max", y, {x}, [=](const Tensor& dy, const GradientSlots& d) {
    run(x.device(), SegmentMaxBackward{dy, argument, d[0]});
  });
  return {y, argument};
}

}  // namespace expctr
