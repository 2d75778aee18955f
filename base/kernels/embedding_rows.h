// Arguments of look-ups in many tables at once, and of their gradients by rows: ids are sorted once, then each touched row is summed.
#pragma once

#include "base/view.h"

namespace expctr {

/// Fills a list of row numbers behind its last one: larger than any row of a table, so that a sorted list stays sorted.
constexpr std::int32_t no_row = 0x7FFFFFFF;

/// Row numbers [0, rows) that ids name: those of one table, or of several that are looked up with the same ids.
struct IdSpace {
  std::int64_t rows;
  std::int64_t frozen_row;  ///< gets no gradient (a padding row); -1: none
};
/// A list of ids [n] i32 of one space; a negative id names no row. The vector of entry i stands at element offset + i * stride of the
/// values.
struct IdList {
  int space;
  View ids;
  std::int64_t offset, stride;
};
/// values[offset_l + i stride_l + c] = tables[space_l][ids_l[i], c] for every list l, in one launch; a negative id gives a zero row.
/// tables [rows, width_s], one a space; y flat, at least as long as the lists reach. f32 (y: f32 or bf16 on CUDA) or f64.
struct GatherMany {
  const View* tables;
  int table_count;
  const IdList* lists;
  int list_count;
  View y;
};
/// Sorts the ids of each space, keeping the order of equal ones (entries are counted through the lists in their order). n_s ids of space s
/// occupy [base_s, base_s + n_s) of the outputs, base_s the sum of the n before; ids that name no row or the frozen one fall out.
///   unique [n]: ascending distinct ids, then no_row;  counts [spaces]: how many;
///   places [n]: entry numbers by ascending id;  starts [n + spaces]: unique id k of space s owns places starts[base_s + s + k] ..
///   starts[.. + 1] - 1 (counted from base_s);  segments [n]: k of each place. Beyond the last id places, starts and segments are
///   undefined.  All i32.
struct SortIds {
  const IdSpace* spaces;
  int space_count;
  const IdList* lists;
  int list_count;
  View unique, counts, places, starts, segments;
  View scratch;
};
/// Where the gradient of one space's table goes: `rows` [at least counts_s, width], row k = the sum of unique id k, rows behind the last
/// one zero; or `table` [rows, width], added to. Neither: the space is skipped.
struct RowTarget {
  View rows, table;
};
/// Sums of dy over equal ids, entries in ascending order (CUDA: in runs of 512 entries, the runs' sums in ascending order). Lists, spaces
/// and the sorted arrays are those of SortIds; list offsets and strides are those of dy.
struct ReduceRows {
  const IdSpace* spaces;
  const RowTarget* targets;
  int space_count;
  const IdList* lists;
  int list_count;
  View dy, unique, counts, places, starts, segments;
  View scratch;
};

}  // namespace expctr
