// Products of sparse and dense matrices.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/kernels/sparse_matrix.h"
#include "engine/core/tensor.h"

namespace expctr {

/// A [rows, columns] in compressed rows: row r has values[i] in column column_ids[i] for offsets[r] <= i < offsets[r + 1].
struct SparseMatrix {
  std::int64_t columns = 0;
  Tensor offsets;     ///< [rows + 1] i32
  Tensor column_ids;  ///< [entries] i32
  Tensor values;      ///< [entries]; undefined: all 1
  std::int64_t rows() const { return offsets.dim(0) - 1; }
  std::int64_t entries() const { return column_ids.dim(0); }
};

/// y = A x; x [columns, width] -> y [rows, width]. dx = A^T dy, for which A^T is given (`a` itself where it is symmetric); the values have
/// no gradient.
Tensor sparse_matmul(const SparseMatrix& a, const SparseMatrix& a_transposed, const Tensor& x);

/// A from entries (row, column, value) in any order, values in `dtype` (empty: all 1); entries of a row are sorted by column, equal ones
/// stay in order. Throws InputError for an id outside the matrix.
SparseMatrix sparse_matrix(std::int64_t rows, std::int64_t columns, std::span<const std::int32_t> row_ids,
                           std::span<const std::int32_t> column_ids, std::span<const double> values, DType dtype = DType::f32,
                           Device device = {});

}  // namespace expctr
