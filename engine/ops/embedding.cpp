#include "engine/ops/embedding.h"

#include <fmt/format.h>

#include "base/error.h"
#include "engine/autograd/tape.h"
#include "engine/core/op_scope.h"
#include "engine/core/run.h"
#include "engine/ops/embedding_rows.h"
#include "engine/ops/layout.h"

namespace expctr {

Tensor gather(const Tensor& table, const Tensor& ids, std::int64_t frozen_row) {
  const OpScope scope("gather", table, ids);
  if (!scope.dense()) return gather(dense(table), dense(ids), frozen_row);
  require_rank("gather", "table", table, 2);
  require_rank("gather", "ids", ids, 1);
  Tensor y = Tensor::empty({ids.dim(0), table.dim(1)}, table.dtype() == DType::f64 ? DType::f64 : DType::f32, table.device());
  run(table.device(), Gather{table, ids, y});
  return record("gather", y, {table}, [=](const Tensor& dy, const GradientSlots& d) {
    if (!table.wants_row_gradient()) return run(table.device(), GatherBackward{frozen_row, dy, ids, d[0], {}});
    const SortedIds sorted = sort_ids(std::vector<IdSpace>{{table.dim(0), frozen_row}}, std::vector<Tensor>{ids}, std::vector<int>{0});
    const std::int64_t width = table.dim(1);
    accumulate_row_gradient(table, reduce_rows(dy.reshape({dy.size()}), sorted, std::vector<ListPlace>{{0, width}}, std::vector<Tensor>(1),
                                               std::vector<std::int64_t>{width})[0]);
  });
}

Tensor concat_columns(std::span<const Tensor> parts) {
  const OpScope scope("concat_columns", parts);
  if (!scope.dense()) return concat_columns(dense(parts));
  if (parts.empty()) throw ShapeError("concat_columns: no parts");
  std::int64_t width = 0;
  for (const Tensor& part : parts) {
    require_rank("concat_columns", "part", part, 2);
    require_same_place("concat_columns", parts[0], part);
    if (part.dim(0) != parts[0].dim(0)) {
      throw ShapeError(fmt::format("concat_columns: {} beside {}", parts[0].shape().text(), part.shape().text()), "all parts have the same number of rows");
    }
    width += part.dim(1);
  }
  Tensor y = Tensor::empty({parts[0].dim(0), width}, parts[0].dtype(), parts[0].device());
  std::int64_t column = 0;
  for (const Tensor& part : parts) {
    run(y.device(), CopyColumns{part.dim(1), 0, column, false, part, y});
    column += part.dim(1);
  }
  std::vector<std::int64_t> widths;
  for (const Tensor& part : parts) widths.push_back(part.dim(1));
  return record("concat_columns", y, parts, [widths](const Tensor& dy, const GradientSlots& d) {
    std::int64_t at = 0;
    for (std::size_t i = 0; i < widths.size(); ++i) {
      if (const Tensor part = d[i]; part.defined()) run(dy.device(), CopyColumns{widths[i], at, 0, true, dy, part});
      at += widths[i];
    }
  });
}

Tensor slice_columns(const Tensor& x, std::int64_t begin, std::int64_t count) {
  const OpScope scope("slice_columns", x);
  if (!scope.dense()) return slice_columns(dense(x), begin, count);
  require_rank("slice_columns", "x", x, 2);
  if (begin < 0 || count < 0 || begin + count > x.dim(1)) throw ShapeError(fmt::format("slice_columns: columns {} to {} of {}", begin, begin + count, x.shape().text()));
  Tensor y = Tensor::empty({x.dim(0), count}, x.dtype(), x.device());
  run(x.device(), CopyColumns{count, begin, 0, false, x, y});
  return record("slice_columns", y, {x}, [=](const Tensor& dy, const GradientSlots& d) { run(x.device(), CopyColumns{count, 0, begin, true, dy, d[0]}); });
}

}  // namespace expctr
