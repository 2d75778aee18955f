#include "engine/ops/nearest.h"

#include <fmt/format.h>

#include "base/error.h"
#include "engine/core/op_scope.h"
#include "engine/core/run.h"
#include "engine/ops/layout.h"

namespace expctr {

NearestResult nearest(const Tensor& x, const Tensor& codebook, std::int64_t k) {
  const OpScope scope("nearest", x, codebook);
  if (!scope.dense()) return nearest(dense(x), dense(codebook), k);
  require_rank("nearest", "x", x, 2);
  require_rank("nearest", "codebook", codebook, 2);
  require_same_place("nearest", x, codebook);
  require_shape("nearest", "codebook", codebook, {codebook.dim(0), x.dim(1)}, "codes are as wide as x");
  if (k < 1 || k > std::min<std::int64_t>(codebook.dim(0), most_nearest)) {
    throw ShapeError(fmt::format("nearest: {} of the rows of a codebook {}", k, codebook.shape().text()),
                     fmt::format("at least 1, at most {} and the number of codes", most_nearest));
  }
  const DType dtype = x.dtype() == DType::f64 ? DType::f64 : DType::f32;
  NearestResult result{Tensor::empty({x.dim(0), k}, DType::i32, x.device()), Tensor::empty({x.dim(0), k}, dtype, x.device())};
  run(x.device(), NearestCodes{x, codebook, result.indices, result.distances, {}});
  return result;
}

}  // namespace expctr
