#include "engine/ops/cholesky.h"

#include <fmt/format.h>

#include "base/error.h"
#include "engine/autograd/tape.h"
#include "engine/core/op_scope.h"
#include "engine/core/run.h"
#include "engine/ops/layout.h"

namespace expctr {

CholeskyFactor cholesky(const Tensor& a) {
  const OpScope scope("cholesky", a);
  if (!scope.dense()) return cholesky(dense(a));
  require_rank("cholesky", "a", a, 3);
  require_shape("cholesky", "a", a, {a.dim(0), a.dim(1), a.dim(1)}, "square matrices");
  CholeskyFactor result{a.empty_like(), Tensor::empty({a.dim(0)}, DType::i32, a.device())};
  run(a.device(), Cholesky{a, result.factor, result.status});
  return result;
}

Tensor cholesky_solve(const Tensor& factor, const Tensor& b) {
  const OpScope scope("cholesky_solve", factor, b);
  if (!scope.dense()) return cholesky_solve(dense(factor), dense(b));
  require_rank("cholesky_solve", "factor", factor, 3);
  require_rank("cholesky_solve", "b", b, 3);
  require_same_place("cholesky_solve", factor, b);
  require_shape("cholesky_solve", "factor", factor, {factor.dim(0), factor.dim(1), factor.dim(1)}, "square matrices");
  require_shape("cholesky_solve", "b", b, {factor.dim(0), factor.dim(1), b.dim(2)}, "as many rows as the factor");
  Tensor x = b.empty_like();
  run(b.device(), CholeskySolve{false, factor, b, x});
  return record("cholesky_solve", x, {b}, [=](const Tensor& dx, const GradientSlots& d) {
    run(factor.device(), CholeskySolve{true, factor, dx, d[0]});
  });
}

void require_positive_definite(const CholeskyFactor& factor) {
  const std::vector<std::int32_t> status = factor.status.to_vector<std::int32_t>();
  for (std::size_t i = 0; i < status.size(); ++i) {
    if (status[i] != 0) {
      throw Error(fmt::format("cholesky: matrix {} of {} is not positive definite: the pivot of row {} is not positive", i, status.size(),
                              status[i] - 1),
                  "add a small multiple of the identity, or check for dependent rows");
    }
  }
}

}  // namespace expctr
