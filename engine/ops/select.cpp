#include "engine/ops/select.h"

#include <fmt/format.h>

#include "base/error.h"
#include "engine/autograd/tape.h"
#include "engine/core/op_scope.h"
#include "engine/core/run.h"
#include "engine/ops/layout.h"

namespace expctr {

TopEntries top_k(const Tensor& x, std::int64_t k, const ExcludedColumns& excluded) {
  const OpScope scope("top_k", x, excluded.offsets, excluded.columns);
  if (!scope.dense()) return top_k(dense(x), k, {dense(excluded.offsets), dense(excluded.columns)});
  require_rank("top_k", "x", x, 2);
  if (k < 1 || k > most_selected) throw ShapeError(fmt::format("top_k: k {}", k), fmt::format("1 <= k <= {}", most_selected));
  if (excluded.offsets.defined() != excluded.columns.defined())
    throw ShapeError("top_k: excluded columns without offsets, or offsets without columns");
  if (excluded.offsets.defined()) {
    require_shape("top_k", "offsets of the excluded columns", excluded.offsets, {x.dim(0) + 1}, "rows + 1 offsets");
    require_rank("top_k", "excluded columns", excluded.columns, 1);
  }
  Tensor values = Tensor::empty({x.dim(0), k}, x.dtype(), x.device()), indices = Tensor::empty({x.dim(0), k}, DType::i32, x.device());
  run(x.device(), TopK{x, excluded.offsets, excluded.columns, values, indices, {}});
  values = record("top_k", values, {x}, [=](const Tensor& dy, const GradientSlots& d) {
    run(dy.device(), TopKBackward{dy, indices, d[0]});
  });
  return {values, indices};
}

}  // namespace expctr
