#include "engine/ops/softmax.h"

#include <fmt/format.h>

#include <cmath>

#include "base/error.h"
#include "engine/autograd/tape.h"
#include "engine/core/op_scope.h"
#include "engine/core/run.h"
#include "engine/ops/layout.h"

namespace expctr {

namespace {

void require_groups(const char* op, const char* name, const Tensor& tensor, std::int64_t groups, const Tensor& x, DType dtype) {
  const std::int64_t rows = x.rows();
  if (tensor.dtype() != dtype || !(tensor.device() == x.device())) {
    throw ShapeError(fmt::format("{}: {} is {} on {}, x is on {}", op, name, dtype_name(tensor.dtype()), device_name(tensor.device()),
                                 device_name(x.device())),
                     fmt::format("pass {} on the device of x", dtype_name(dtype)));
  }
  if (rows > 0 && (groups == 0 || rows % groups != 0)) {
    throw ShapeError(fmt::format("{}: {} is {}, x is {}", op, name, tensor.shape().text(), x.shape().text()),
                     "the rows of x are a multiple of the groups");
  }
}

Tensor softmax_of(const char* op, bool logarithm, const Tensor& x, const SoftmaxMask& mask, double scale) {
  const OpScope scope(op, x, mask.mask, mask.lengths);
  if (!scope.dense()) return softmax_of(op, logarithm, dense(x), {dense(mask.mask), dense(mask.lengths)}, scale);
  if (x.rank() < 1) throw ShapeError(fmt::format("{}: x is {}", op, x.shape().text()), "softmax runs over the last axis");
  if (!(scale > 0.0) || !std::isfinite(scale)) throw ShapeError(fmt::format("{}: scale {}", op, scale), "the scale is positive");
  if (mask.mask.defined()) {
    require_groups(op, "mask", mask.mask, mask.mask.rows(), x, DType::u8);
    if (mask.mask.width() != x.width()) {
      throw ShapeError(fmt::format("{}: mask is {}, x is {}", op, mask.mask.shape().text(), x.shape().text()), "one mask value per column");
    }
  }
  if (mask.lengths.defined()) require_groups(op, "lengths", mask.lengths, mask.lengths.size(), x, DType::i32);
  Tensor y = x.empty_like();
  run(x.device(), SoftmaxForward{scale, logarithm, x, mask.mask, mask.lengths, y});
  return record(op, y, {x}, [=, saved = y.detached()](const Tensor& dy, const GradientSlots& d) {
    run(x.device(), SoftmaxBackward{scale, logarithm, saved, mask.mask, mask.lengths, dy, d[0]});
  });
}

}  // namespace

Tensor softmax(const Tensor& x, const SoftmaxMask& mask, double scale) { return softmax_of("softmax", false, x, mask, scale); }

Tensor log_softmax(const Tensor& x, const SoftmaxMask& mask, double scale) { return softmax_of("log_softmax", true, x, mask, scale); }

}  // namespace expctr
