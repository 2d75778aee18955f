#include "engine/ops/sparse_matrix.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "engine/autograd/tape.h"
#include "engine/core/op_scope.h"
#include "engine/core/run.h"
#include "engine/ops/layout.h"

namespace expctr {
namespace {

View view_of(const Tensor& tensor) { return tensor.defined() ? tensor.view() : View{}; }

void multiply(const SparseMatrix& a, const Tensor& x, const Tensor& y, bool accumulate) {
  run(x.device(), SparseMatMul{accumulate, a.offsets, a.column_ids, view_of(a.values), x, y});
}

}  // namespace

Tensor sparse_matmul(const SparseMatrix& a, const SparseMatrix& a_transposed, const Tensor& x) {
  const OpScope scope("sparse_matmul", x);
  if (!scope.dense()) return sparse_matmul(a, a_transposed, dense(x));
  require_rank("sparse_matmul", "x", x, 2);
  require_rank("sparse_matmul", "offsets", a.offsets, 1);
  require_shape("sparse_matmul", "x", x, {a.columns, x.dim(1)}, "a row for every column of the matrix");
  if (a_transposed.rows() != a.columns || a_transposed.columns != a.rows() || a_transposed.entries() != a.entries()) {
    throw ShapeError(fmt::format("sparse_matmul: a [{}, {}] with {} entries, the transposed [{}, {}] with {}", a.rows(), a.columns,
                                 a.entries(), a_transposed.rows(), a_transposed.columns, a_transposed.entries()),
                     "pass the transposed of the same matrix");
  }
  Tensor y = Tensor::empty({a.rows(), x.dim(1)}, x.dtype(), x.device());
  multiply(a, x, y, false);
  return record("sparse_matmul", y, {x}, [=](const Tensor& dy, const GradientSlots& d) { multiply(a_transposed, dy, d[0], true); });
}

SparseMatrix sparse_matrix(std::int64_t rows, std::int64_t columns, std::span<const std::int32_t> row_ids,
                           std::span<const std::int32_t> column_ids, std::span<const double> values, DType dtype, Device device) {
  const std::size_t n = row_ids.size();
  constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();
  if (column_ids.size() != n || (!values.empty() && values.size() != n) || rows < 0 || columns < 0 || rows >= most || columns > most ||
      n > static_cast<std::size_t>(most)) {
    throw ShapeError(fmt::format("sparse_matrix: [{}, {}] from {} row ids, {} column ids, {} values", rows, columns, n, column_ids.size(),
                                 values.size()),
                     "one row, one column and at most one value an entry");
  }
  std::vector<std::int32_t> offsets(static_cast<std::size_t>(rows) + 1);
  for (std::size_t i = 0; i < n; ++i) {
    if (row_ids[i] < 0 || row_ids[i] >= rows || column_ids[i] < 0 || column_ids[i] >= columns) {
      throw InputError(
          fmt::format("sparse_matrix: entry {} lies at ({}, {}), outside [{}, {}]", i, row_ids[i], column_ids[i], rows, columns));
    }
    ++offsets[static_cast<std::size_t>(row_ids[i]) + 1];
  }
  std::partial_sum(offsets.begin(), offsets.end(), offsets.begin());
  std::vector<std::int32_t> order(n), sorted_columns(n);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
    const auto i = static_cast<std::size_t>(a), j = static_cast<std::size_t>(b);
    return row_ids[i] != row_ids[j] ? row_ids[i] < row_ids[j] : column_ids[i] < column_ids[j];
  });
  std::vector<double> sorted_values(values.size());
  for (std::size_t i = 0; i < n; ++i) {
    sorted_columns[i] = column_ids[static_cast<std::size_t>(order[i])];
    if (!values.empty()) sorted_values[i] = values[static_cast<std::size_t>(order[i])];
  }
  SparseMatrix a;
  a.columns = columns;
  a.offsets = Tensor::of(offsets, {rows + 1}, device);
  a.column_ids = Tensor::of(sorted_columns, {static_cast<std::int64_t>(n)}, device);
  if (values.empty()) return a;
  a.values = dtype == DType::f64
                 ? Tensor::of(sorted_values, {static_cast<std::int64_t>(n)}, device)
                 : Tensor::of(std::vector<float>(sorted_values.begin(), sorted_values.end()), {static_cast<std::int64_t>(n)}, device);
  return a;
}

}  // namespace expctr
