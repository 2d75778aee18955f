// From strided views to dense memory.
#pragma once

#include <span>
#include <vector>

#include "base/kernels/layout.h"
#include "engine/core/tensor.h"

namespace expctr {

/// y = x, row-major without gaps: x itself where it is dense (and its gradient too), else a copy. Any plain dtype.
/// dx += dy through x's strides; over axes that x repeats (Tensor::expand) dy is summed first, in a fixed order.
/// An undefined tensor stays undefined.
Tensor dense(const Tensor& x);
/// dense of each.
std::vector<Tensor> dense(std::span<const Tensor> tensors);

/// Dense stand-ins for tensors that an op writes into:
///     WrittenInPlace written;
///     axpy(alpha, dense(x), written(y));
///     written.copy_back();
class WrittenInPlace {
 public:
  /// The tensor itself where it is dense, else a copy that copy_back() brings home.
  Tensor operator()(const Tensor& tensor);
  void copy_back() const;

 private:
  struct Copy {
    Tensor home, copy;
  };
  std::vector<Copy> copies_;
};

}  // namespace expctr
