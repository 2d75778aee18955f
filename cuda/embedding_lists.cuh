// Lists of ids of several tables as one kernel parameter: which list an entry belongs to, and where its vector stands.
#pragma once

#include <algorithm>
#include <string>

#include "base/kernels/embedding_rows.h"
#include "cuda/launch.cuh"

namespace expctr::cuda {

constexpr int most_lists = 128;

struct ListTable {
  int count, spaces;
  std::int32_t first[most_lists + 1];  ///< number of the first entry of each list
  const std::int32_t* ids[most_lists];
  std::int32_t space[most_lists];
  std::int64_t offset[most_lists], stride[most_lists];
  // Of each space:
  std::int32_t base[most_lists + 1];  ///< first place of the space in the sorted arrays
  std::int64_t rows[most_lists], frozen_row[most_lists];
  std::uint32_t first_key[most_lists];                        ///< key of its row 0; its key first_key + rows stands for "no row"
  std::int32_t list_begin[most_lists], list_end[most_lists];  ///< its lists lie in this range of lists

  __device__ __forceinline__ static int find(const std::int32_t* starts, int low, int high, std::int64_t i) {
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (starts[middle] <= i ? low : high) = middle;
    }
    return low;
  }
  __device__ __forceinline__ int list_of(std::int64_t entry) const { return find(first, 0, count, entry); }
  __device__ __forceinline__ int space_of(std::int64_t place) const { return find(base, 0, spaces, place); }
  /// Element offset of the vector of an entry of a space.
  __device__ __forceinline__ std::int64_t element(int of_space, std::int64_t entry) const {
    const int list = find(first, list_begin[of_space], list_end[of_space], entry);
    return offset[list] + (entry - first[list]) * stride[list];
  }
};

/// Throws Error when there are too many lists, spaces, ids or rows for one call.
inline ListTable list_table(const char* kernel, const IdSpace* spaces, int space_count, const IdList* lists, int list_count) {
  if (space_count > most_lists || list_count > most_lists)
    throw Error(std::string("cuda: ") + kernel + " of " + std::to_string(std::max(space_count, list_count)) + " lists, at most " +
                    std::to_string(most_lists) + " go into one call",
                "make several calls");
  ListTable table{};
  table.count = list_count;
  table.spaces = space_count;
  std::int64_t sizes[most_lists] = {}, n = 0, keys = 0;
  for (int s = 0; s < space_count; ++s) {
    table.rows[s] = spaces[s].rows;
    table.frozen_row[s] = spaces[s].frozen_row;
    table.first_key[s] = static_cast<std::uint32_t>(keys);
    keys += spaces[s].rows + 1;
    table.list_begin[s] = list_count;
  }
  for (int l = 0; l < list_count; ++l) {
    require(kernel, DType::i32, {&lists[l].ids});
    const int s = lists[l].space;
    if (s < 0 || s >= space_count) throw Error(std::string("cuda: ") + kernel + ": a list names space " + std::to_string(s));
    table.first[l] = static_cast<std::int32_t>(n);
    table.ids[l] = lists[l].ids.as<std::int32_t>();
    table.space[l] = s;
    table.offset[l] = lists[l].offset;
    table.stride[l] = lists[l].stride;
    table.list_begin[s] = std::min(table.list_begin[s], l);
    table.list_end[s] = l + 1;
    sizes[s] += lists[l].ids.size();
    n += lists[l].ids.size();
  }
  if (n >= no_row || keys > 0xFFFFFFFFll)
    throw Error(std::string("cuda: ") + kernel + " of " + std::to_string(n) + " ids in " + std::to_string(keys) + " rows",
                "split the batch or the tables into several calls");
  table.first[list_count] = static_cast<std::int32_t>(n);
  std::int64_t base = 0;
  for (int s = 0; s < space_count; ++s) {
    table.base[s] = static_cast<std::int32_t>(base);
    base += sizes[s];
  }
  table.base[space_count] = static_cast<std::int32_t>(base);
  return table;
}

}  // namespace expctr::cuda
