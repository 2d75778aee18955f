#include "engine/ops/rotary.h"

#include <fmt/format.h>

#include "base/error.h"
#include "engine/autograd/tape.h"
#include "engine/core/op_scope.h"
#include "engine/core/run.h"
#include "engine/ops/layout.h"

namespace expctr {

Tensor rotary(const Tensor& x, const Tensor& positions, const Tensor& table) {
  const OpScope scope("rotary", x, positions, table);
  if (!scope.dense()) return rotary(dense(x), dense(positions), dense(table));
  require_rank("rotary", "x", x, 2);
  require_rank("rotary", "table", table, 2);
  require_parameter("rotary", "table", x, table);
  require_shape("rotary", "positions", positions, {x.dim(0)}, "one position per token");
  const std::int64_t head_dim = table.dim(1);
  if (head_dim <= 0 || head_dim % 2 != 0 || x.dim(1) % head_dim != 0) {
    throw ShapeError(fmt::format("rotary: x is {}, the table {}", x.shape().text(), table.shape().text()), "a row of x is a whole number of heads of the table's (even) width");
  }
  const Shape heads{x.dim(0), x.dim(1) / head_dim, head_dim};
  Tensor y = x.empty_like();
  run(x.device(), Rotary{false, false, x.reshape(heads), positions, table, y.reshape(heads)});
  return record("rotary", y, {x}, [=](const Tensor& dy, const GradientSlots& d) {
    run(x.device(), Rotary{true, true, dy.reshape(heads), positions, table, d[0].reshape(heads)});
  });
}

}  // namespace expctr
