// Look-ups in many tables at once, and their gradients by rows. Ids are sorted once for all tables; nothing is of the size of a table.
#pragma once

#include <span>
#include <vector>

#include "base/kernels/embedding_rows.h"
#include "engine/autograd/row_gradient.h"
#include "engine/core/tensor.h"

namespace expctr {

/// A list of ids and the table it is looked up in. Several lists may name one table.
struct Lookup {
  Tensor table;                  ///< [rows, width]
  Tensor ids;                    ///< [n] i32; a negative id gives zeros
  std::int64_t frozen_row = -1;  ///< a padding row: read, but without gradient; of one table the last lookup decides
};

/// y_l[i] = table_l[ids_l[i]] for each lookup l, [n_l, width_l], in one launch; the gradients of all tables come from one sort and one
/// reduction. A table gets a dense gradient, or (require_row_gradient) the RowGradient of all its lists: the entries of a row are added in
/// the order of the lists. Throws ShapeError.
std::vector<Tensor> gather_many(std::span<const Lookup> lookups);

/// The same side by side: [n, sum of widths], every list with n ids. (With equal widths it is [n, lists, width] flattened.)
Tensor gather_columns(std::span<const Lookup> lookups);

/// Ids of several lists, sorted by space; see SortIds in base/kernels/embedding_rows.h. Places count the entries of all lists.
struct SortedIds {
  std::vector<IdSpace> spaces;
  std::vector<Tensor> lists;
  std::vector<int> space_of_list;
  Tensor unique, counts, places, starts, segments;

  /// First place of a space, and entries of a space.
  std::int64_t base(int space) const;
  std::int64_t entries(int space) const;
};
/// Sorts the ids of each space. lists[l] [n_l] i32 belongs to spaces[space_of_list[l]]. Throws ShapeError. no_gradient.
SortedIds sort_ids(std::span<const IdSpace> spaces, std::span<const Tensor> lists, std::span<const int> space_of_list);

/// Where the vectors of a list stand in a flat tensor: entry i at element offset + i * stride.
struct ListPlace {
  std::int64_t offset = 0, stride = 0;
};
/// Gradient of the tables from that of their vectors. For space s: tables[s] defined [rows, width]: the sums are added to it; else
/// widths[s] > 0: result[s] is a RowGradient (on CUDA it has room for every entry: behind the last id stands no_row, the rows are zero);
/// else skipped. dy: flat, the vectors of list l at place_of_list[l]. Throws ShapeError. no_gradient.
std::vector<RowGradient> reduce_rows(const Tensor& dy, const SortedIds& sorted, std::span<const ListPlace> place_of_list,
                                     std::span<const Tensor> tables, std::span<const std::int64_t> widths);

}  // namespace expctr
