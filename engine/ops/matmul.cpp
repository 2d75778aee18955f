#include "engine/ops/matmul.h"

#include <fmt/format.h>

#include "base/error.h"
#include "engine/autograd/tape.h"
#include "engine/core/op_scope.h"
#include "engine/core/run.h"
#include "engine/ops/layout.h"

namespace expctr {

Tensor matmul(const Tensor& a, const Tensor& b, bool transpose_a, bool transpose_b, double alpha) {
  const OpScope scope("matmul", a, b);
  if (!scope.dense()) return matmul(dense(a), dense(b), transpose_a, transpose_b, alpha);
  require_same_place("matmul", a, b);
  if (a.rank() != b.rank() || (a.rank() != 2 && a.rank() != 3) || (a.rank() == 3 && a.dim(0) != b.dim(0))) {
    throw ShapeError(fmt::format("matmul: {} times {}", a.shape().text(), b.shape().text()), "both have rank 2, or rank 3 with the same first extent");
  }
  const std::int64_t m = transpose_a ? a.dim(-1) : a.dim(-2), k = transpose_a ? a.dim(-2) : a.dim(-1);
  const std::int64_t kb = transpose_b ? b.dim(-1) : b.dim(-2), n = transpose_b ? b.dim(-2) : b.dim(-1);
  if (k != kb) {
    throw ShapeError(fmt::format("matmul: {}{} times {}{}", a.shape().text(), transpose_a ? "^T" : "", b.shape().text(), transpose_b ? "^T" : ""),
                     "the inner extents must be equal");
  }
  Tensor y = a.rank() == 2 ? Tensor::empty({m, n}, a.dtype(), a.device()) : Tensor::empty({a.dim(0), m, n}, a.dtype(), a.device());
  run(a.device(), MatMul{alpha, transpose_a, transpose_b, false, a, b, y});
  return record("matmul", y, {a, b}, [=](const Tensor& dy, const GradientSlots& d) {
    if (const Tensor da = d[0]; da.defined()) {
      // da = dy op(b)^T, or its transpose op(b) dy^T
      run(a.device(), transpose_a ? MatMul{alpha, transpose_b, true, true, b, dy, da} : MatMul{alpha, false, !transpose_b, true, dy, b, da});
    }
    if (const Tensor db = d[1]; db.defined()) {
      run(a.device(), transpose_b ? MatMul{alpha, true, transpose_a, true, dy, a, db} : MatMul{alpha, !transpose_a, false, true, a, dy, db});
    }
  });
}

}  // namespace expctr
