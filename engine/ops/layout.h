// From strided views to dense memory.
#pragma once

#include "base/kernels/layout.h"
#include "engine/core/tensor.h"

namespace expctr {

/// y = x, row-major without gaps: x itself where it is dense (and its gradient too), else a copy. Any plain dtype.
/// dx += dy through x's strides; over axes that x repeats (Tensor::expand) dy is summed first, in a fixed order.
/// An undefined tensor stays undefined.
Tensor dense(const Tensor& x);

}  // namespace expctr
