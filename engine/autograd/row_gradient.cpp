#include "engine/autograd/row_gradient.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "base/kernels/elementwise.h"
#include "base/kernels/embedding.h"
#include "base/kernels/embedding_rows.h"
#include "engine/core/run.h"

namespace expctr {
namespace {

void require_row_gradient_shapes(const RowGradient& g) {
  require_rank("row gradient", "ids", g.ids, 1);
  require_rank("row gradient", "rows", g.rows, 2);
  require_shape("row gradient", "rows", g.rows, {g.ids.dim(0), g.rows.dim(1)}, "one row per id");
  if (g.ids.dtype() != DType::i32) throw ShapeError(fmt::format("row gradient: ids are {}", dtype_name(g.ids.dtype())), "ids are i32");
}

// rows[at[i]] for each i, a zero row where at[i] is negative.
Tensor take_rows(const Tensor& rows, const std::vector<std::int32_t>& at) {
  Tensor y = Tensor::empty({static_cast<std::int64_t>(at.size()), rows.dim(1)}, rows.dtype(), rows.device());
  run(rows.device(), Gather{rows, Tensor::of(at, {y.dim(0)}, rows.device()), y});
  return y;
}

}  // namespace

RowGradient merge(const RowGradient& first, const RowGradient& second) {
  require_row_gradient_shapes(first);
  require_row_gradient_shapes(second);
  require_same_place("row gradient", first.rows, second.rows);
  require_shape("row gradient", "rows", second.rows, {second.rows.dim(0), first.rows.dim(1)}, "rows of one width");
  std::vector<std::int32_t> a = first.ids.to_vector<std::int32_t>(), b = second.ids.to_vector<std::int32_t>();
  for (std::vector<std::int32_t>* list : {&a, &b}) list->erase(std::find(list->begin(), list->end(), no_row), list->end());
  std::vector<std::int32_t> ids, from_a, from_b;
  for (std::size_t i = 0, j = 0; i < a.size() || j < b.size();) {
    const bool take_a = i < a.size() && (j >= b.size() || a[i] <= b[j]), take_b = j < b.size() && (i >= a.size() || b[j] <= a[i]);
    const std::int32_t id = take_a ? a[i] : b[j];
    if (!ids.empty() && id <= ids.back()) {
      throw ShapeError(fmt::format("row gradient: id {} after {}", id, ids.back()), "ids ascend, each once");
    }
    ids.push_back(id);
    from_a.push_back(take_a ? static_cast<std::int32_t>(i++) : -1);
    from_b.push_back(take_b ? static_cast<std::int32_t>(j++) : -1);
  }
  RowGradient sum{Tensor::of(ids, {static_cast<std::int64_t>(ids.size())}, first.ids.device()), take_rows(first.rows, from_a)};
  run(sum.rows.device(), Axpy{1.0, take_rows(second.rows, from_b), sum.rows});
  return sum;
}

void accumulate_row_gradient(const Tensor& leaf, const RowGradient& contribution) {
  require_row_gradient_shapes(contribution);
  require_same_place("row gradient", leaf, contribution.rows);
  require_shape("row gradient", "rows", contribution.rows, {contribution.ids.dim(0), leaf.dim(-1)}, "rows as wide as the table");
  leaf.set_row_gradient(leaf.has_gradient() ? merge(leaf.row_gradient(), contribution) : contribution);
}

}  // namespace expctr
