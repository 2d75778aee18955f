#include "engine/ops/elementwise.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/philox.h"
#include "base/scalar_math.h"
#include "engine/autograd/tape.h"
#include "engine/core/op_scope.h"
#include "engine/core/run.h"
#include "engine/ops/layout.h"

namespace expctr {
namespace {

Shape broadcast_shape(const Shape& a, const Shape& b) {
  const int rank = std::max(a.rank(), b.rank());
  std::vector<std::int64_t> extents(static_cast<std::size_t>(rank));
  for (int i = 0; i < rank; ++i) {
    const int ia = i - (rank - a.rank()), ib = i - (rank - b.rank());
    const std::int64_t ea = ia < 0 ? 1 : a[ia], eb = ib < 0 ? 1 : b[ib];
    if (ea != eb && ea != 1 && eb != 1) {
      throw ShapeError(fmt::format("elementwise: {} and {} do not broadcast", a.text(), b.text()), "shapes are aligned at the right; extents must be equal or 1");
    }
    extents[static_cast<std::size_t>(i)] = ea == 1 ? eb : ea;
  }
  return Shape(extents);
}

}  // namespace

Tensor unary(Unary function, const Tensor& x, const UnaryParameters& parameters) {
  const OpScope scope("unary", x);
  if (!scope.dense()) return unary(function, dense(x), parameters);
  Tensor y = x.detached().empty_like();
  run(x.device(), UnaryForward{function, x, y, parameters});
  return record("unary", y, {x}, [=](const Tensor& dy, const GradientSlots& d) { run(x.device(), UnaryBackward{function, x, dy, d[0], parameters}); });
}

Tensor clamp(const Tensor& x, double low, double high) {
  if (!(low <= high)) throw ShapeError(fmt::format("clamp: from {} to {}", low, high), "the lower bound comes first");
  return unary(Unary::clamp, x, {low, high});
}

Tensor binary(Binary function, const Tensor& a, const Tensor& b) {
  const OpScope scope("binary", a, b);
  if (!scope.dense()) return binary(function, dense(a), dense(b));
  require_same_place("elementwise", a, b);
  Tensor y = Tensor::empty(broadcast_shape(a.shape(), b.shape()), a.dtype(), a.device());
  run(a.device(), BinaryForward{function, a, b, y});
  if (!scalar::has_gradient(function)) return y;
  return record("binary", y, {a, b}, [=](const Tensor& dy, const GradientSlots& d) { run(a.device(), BinaryBackward{function, a, b, dy, d[0], d[1], {}}); });
}

Tensor where(const Tensor& mask, const Tensor& a, const Tensor& b) {
  const OpScope scope("where", mask, a, b);
  if (!scope.dense()) return where(dense(mask), dense(a), dense(b));
  require_same_place("where", a, b);
  require_same_place("where", mask, a);
  Tensor y = Tensor::empty(broadcast_shape(broadcast_shape(a.shape(), b.shape()), mask.shape()), a.dtype(), a.device());
  run(a.device(), WhereForward{mask, a, b, y});
  return record("where", y, {a, b}, [=](const Tensor& dy, const GradientSlots& d) { run(a.device(), WhereBackward{mask, a, b, dy, d[0], d[1], {}}); });
}

Tensor affine(const Tensor& x, double scale, double shift) {
  const OpScope scope("affine", x);
  if (!scope.dense()) return affine(dense(x), scale, shift);
  Tensor y = x.empty_like();
  run(x.device(), Affine{scale, shift, x, y});
  return record("affine", y, {x}, [=](const Tensor& dy, const GradientSlots& d) { run(x.device(), Axpy{scale, dy, d[0]}); });
}

Tensor swiglu(const Tensor& gate, const Tensor& up) {
  const OpScope scope("swiglu", gate, up);
  if (!scope.dense()) return swiglu(dense(gate), dense(up));
  require_same_place("swiglu", gate, up);
  require_shape("swiglu", "up", up, gate.shape(), "gate and up have the same shape");
  Tensor y = gate.empty_like();
  run(gate.device(), SwigluForward{gate, up, y});
  return record("swiglu", y, {gate, up}, [=](const Tensor& dy, const GradientSlots& d) { run(gate.device(), SwigluBackward{gate, up, dy, d[0], d[1]}); });
}

Tensor dropout(const Tensor& x, const Tensor& sample_ids, double probability, const DropoutKey& key) {
  const OpScope scope("dropout", x, sample_ids);
  if (!scope.dense()) return dropout(dense(x), dense(sample_ids), probability, key);
  require_rank("dropout", "x", x, 2);
  require_shape("dropout", "sample_ids", sample_ids, {x.dim(0)}, "one id per row");
  if (!(probability >= 0.0 && probability < 1.0)) throw ShapeError(fmt::format("dropout: probability {}", probability), "it lies in [0, 1)");
  if (probability == 0.0) return x;
  const RandomKey random = random_key(key.seed, "dropout");
  Dropout args{static_cast<float>(probability), random.low, random.high, key.step, key.channel, false, x, sample_ids, {}};
  Tensor y = x.empty_like();
  args.y = y;
  run(x.device(), args);
  return record("dropout", y, {x}, [=](const Tensor& dy, const GradientSlots& d) {
    Dropout backward = args;
    backward.accumulate = true;
    backward.x = dy;
    backward.sample = sample_ids;
    backward.y = d[0];
    run(x.device(), backward);
  });
}

Tensor convert(const Tensor& x, DType dtype) {
  const OpScope scope("convert", x);
  if (!scope.dense()) return convert(dense(x), dtype);
  Tensor y = Tensor::empty(x.shape(), dtype, x.device());
  run(x.device(), Convert{x, y});
  if (!is_floating(x.dtype()) && x.dtype() != DType::bf16) return y;
  return record("convert", y, {x}, [=](const Tensor& dy, const GradientSlots& d) {
    const Tensor slot = d[0], same = Tensor::empty(slot.shape(), slot.dtype(), slot.device());
    run(slot.device(), Convert{dy, same});
    run(slot.device(), Axpy{1.0, same, slot});
  });
}

void axpy(double alpha, const Tensor& x, const Tensor& y) {
  const OpScope scope("axpy", x, y);
  if (!scope.dense()) {
    WrittenInPlace written;
    axpy(alpha, dense(x), written(y));
    return written.copy_back();
  }
  require_same_place("axpy", x, y);
  require_shape("axpy", "x", x, y.shape());
  run(x.device(), Axpy{alpha, x, y});
}

}  // namespace expctr
