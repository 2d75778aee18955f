#include "engine/ops/layout.h"

#include "base/kernels/reduce.h"
#include "engine/autograd/tape.h"
#include "engine/core/op_scope.h"
#include "engine/core/run.h"

namespace expctr {
namespace {

// Adds dy into a gradient that may repeat elements: its repeated axes are summed away one by one, the rest is copied in place.
void add_strided(const Tensor& dy, Tensor gradient) {
  Tensor rest = dy;
  for (int axis = 0; axis < gradient.rank(); ++axis) {
    if (gradient.stride(axis) != 0 || gradient.dim(axis) == 1) continue;
    std::int64_t extents[max_rank], outer = 1, inner = 1;
    for (int i = 0; i < rest.rank(); ++i) {
      extents[i] = i == axis ? 1 : rest.dim(i);
      (i < axis ? outer : inner) *= extents[i];
    }
    const Tensor sum = Tensor::empty(Shape(std::span<const std::int64_t>(extents, static_cast<std::size_t>(rest.rank()))), rest.dtype(), rest.device());
    run(rest.device(), SumForward{1.0, rest.reshape({outer, rest.dim(axis), inner}), sum.reshape({outer, inner}), {}});
    rest = sum;
    gradient = gradient.narrow(axis, 0, gradient.dim(axis) == 0 ? 0 : 1);
    if (gradient.dim(axis) == 0) return;
  }
  run(rest.device(), CopyStrided{true, rest.strided_view(), gradient.strided_view()});
}

}  // namespace

Tensor WrittenInPlace::operator()(const Tensor& tensor) {
  if (!tensor.defined() || tensor.is_dense()) return tensor;
  copies_.push_back({tensor.detached(), tensor.clone()});
  return copies_.back().copy;
}

void WrittenInPlace::copy_back() const {
  for (const Copy& copy : copies_) copy.home.copy_from(copy.copy);
}

std::vector<Tensor> dense(std::span<const Tensor> tensors) {
  std::vector<Tensor> copies;
  for (const Tensor& tensor : tensors) copies.push_back(dense(tensor));
  return copies;
}

Tensor dense(const Tensor& x) {
  if (!x.defined() || x.is_dense()) return x;
  const OpScope scope("dense", x);
  Tensor y = x.empty_like();
  run(x.device(), CopyStrided{false, x.strided_view(), y.strided_view()});
  return record("dense", y, {x}, [](const Tensor& dy, const GradientSlots& d) { add_strided(dy, d[0]); });
}

}  // namespace expctr
