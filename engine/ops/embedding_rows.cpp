#include "engine/ops/embedding_rows.h"

#include <fmt/format.h>

#include "base/error.h"
#include "engine/autograd/tape.h"
#include "engine/core/op_scope.h"
#include "engine/core/run.h"
#include "engine/ops/layout.h"

namespace expctr {
namespace {

std::vector<IdList> id_lists(std::span<const Tensor> lists, std::span<const int> space_of_list, std::span<const ListPlace> places) {
  std::vector<IdList> result;
  for (std::size_t l = 0; l < lists.size(); ++l) {
    const ListPlace place = places.empty() ? ListPlace{} : places[l];
    result.push_back({space_of_list[l], lists[l], place.offset, place.stride});
  }
  return result;
}

// One memory, laid out in one way.
bool same_table(const Tensor& a, const Tensor& b) {
  return a.strided_view().data == b.strided_view().data && (!(a.shape() == b.shape()) || (a.stride(0) == b.stride(0) && a.stride(1) == b.stride(1)));
}

// The lists of a gather, with each table once.
struct GatherPlan {
  std::vector<Tensor> tables, lists;
  std::vector<IdSpace> spaces;
  std::vector<int> space_of_list;
  std::vector<ListPlace> places;
  Tensor y;  // flat

  GatherPlan(const char* op, std::span<const Lookup> lookups) {
    if (lookups.empty()) throw ShapeError(fmt::format("{}: no lookups", op));
    std::vector<std::size_t> first;  // lookup of each table
    for (const Lookup& lookup : lookups) {
      require_rank(op, "table", lookup.table, 2);
      require_rank(op, "ids", lookup.ids, 1);
      if (lookup.table.dtype() != lookups[0].table.dtype() || lookup.table.device() != lookups[0].table.device())
        throw ShapeError(fmt::format("{}: tables of different types or on different devices", op));
      std::size_t s = 0;
      while (s < tables.size() && !same_table(lookups[first[s]].table, lookup.table)) ++s;
      if (s == tables.size()) {
        tables.push_back(dense(lookup.table));
        spaces.push_back({lookup.table.dim(0), -1});
        first.push_back(static_cast<std::size_t>(&lookup - lookups.data()));
      } else {
        require_shape(op, "table", lookup.table, tables[s].shape());
      }
      spaces[s].frozen_row = lookup.frozen_row;
      lists.push_back(dense(lookup.ids));
      space_of_list.push_back(static_cast<int>(s));
    }
  }

  std::int64_t width(std::size_t list) const { return tables[static_cast<std::size_t>(space_of_list[list])].dim(1); }

  // Fills y; `elements` is its size.
  void gather(std::int64_t elements) {
    const Device device = tables[0].device();
    y = Tensor::empty({elements}, tables[0].dtype(), device);
    const std::vector<View> views(tables.begin(), tables.end());
    const std::vector<IdList> parts = id_lists(lists, space_of_list, places);
    run(device, GatherMany{views.data(), static_cast<int>(views.size()), parts.data(), static_cast<int>(parts.size()), y});
  }
};

Tensor record_gather(const char* op, const GatherPlan& plan) {
  return record(op, plan.y, plan.tables,
                [lists = plan.lists, spaces = plan.spaces, space_of_list = plan.space_of_list, places = plan.places, tables = plan.tables](
                    const Tensor& dy, const GradientSlots& d) {
                  std::vector<Tensor> dense(tables.size());
                  std::vector<std::int64_t> widths(tables.size(), 0);
                  for (std::size_t s = 0; s < tables.size(); ++s) {
                    if (tables[s].wants_row_gradient())
                      widths[s] = tables[s].dim(1);
                    else
                      dense[s] = d[s];
                  }
                  const std::vector<RowGradient> rows = reduce_rows(dy, sort_ids(spaces, lists, space_of_list), places, dense, widths);
                  for (std::size_t s = 0; s < tables.size(); ++s)
                    if (widths[s] > 0) accumulate_row_gradient(tables[s], rows[s]);
                });
}

}  // namespace

std::int64_t SortedIds::entries(int space) const {
  std::int64_t n = 0;
  for (std::size_t l = 0; l < lists.size(); ++l) n += space_of_list[l] == space ? lists[l].size() : 0;
  return n;
}

std::int64_t SortedIds::base(int space) const {
  std::int64_t n = 0;
  for (std::size_t l = 0; l < lists.size(); ++l) n += space_of_list[l] < space ? lists[l].size() : 0;
  return n;
}

std::vector<Tensor> gather_many(std::span<const Lookup> lookups) {
  const Lookup nothing, &one = lookups.empty() ? nothing : lookups[0];
  const OpScope scope("gather_many", one.table, one.ids);
  GatherPlan plan("gather_many", lookups);
  std::int64_t end = 0;
  for (std::size_t l = 0; l < plan.lists.size(); ++l) {
    plan.places.push_back({end, plan.width(l)});
    end += (plan.lists[l].size() * plan.width(l) + 3) / 4 * 4;  // every part begins at a 16-byte boundary
  }
  plan.gather(end);
  const Tensor y = record_gather("gather_many", plan);
  std::vector<Tensor> parts;
  for (std::size_t l = 0; l < plan.lists.size(); ++l) {
    const std::int64_t n = plan.lists[l].size(), width = plan.width(l);
    parts.push_back(y.slice_rows(plan.places[l].offset, n * width).reshape({n, width}));
  }
  return parts;
}

Tensor gather_columns(std::span<const Lookup> lookups) {
  const Lookup nothing, &one = lookups.empty() ? nothing : lookups[0];
  const OpScope scope("gather_columns", one.table, one.ids);
  GatherPlan plan("gather_columns", lookups);
  const std::int64_t n = plan.lists[0].size();
  std::int64_t columns = 0;
  for (std::size_t l = 0; l < plan.lists.size(); ++l) {
    if (plan.lists[l].size() != n)
      throw ShapeError(fmt::format("gather_columns: {} ids beside {}", plan.lists[l].size(), n), "all lists have one id a row");
    plan.places.push_back({columns, 0});
    columns += plan.width(l);
  }
  for (ListPlace& place : plan.places) place.stride = columns;
  plan.gather(n * columns);
  return record_gather("gather_columns", plan).reshape({n, columns});
}

SortedIds sort_ids(std::span<const IdSpace> spaces, std::span<const Tensor> lists, std::span<const int> space_of_list) {
  const OpScope scope("sort_ids", lists);
  if (!scope.dense()) return sort_ids(spaces, dense(lists), space_of_list);
  SortedIds sorted{{spaces.begin(), spaces.end()}, {lists.begin(), lists.end()}, {space_of_list.begin(), space_of_list.end()}, {}, {}, {}, {}, {}};
  if (lists.empty() || space_of_list.size() != lists.size()) throw ShapeError(fmt::format("sort_ids: {} lists, {} spaces named", lists.size(), space_of_list.size()));
  const Device device = lists[0].device();
  std::int64_t n = 0;
  for (const Tensor& list : lists) {
    require_rank("sort_ids", "ids", list, 1);
    require_same_place("sort_ids", lists[0], list);
    n += list.size();
  }
  const std::int64_t count = std::ssize(spaces);
  sorted.unique = Tensor::empty({n}, DType::i32, device);
  sorted.counts = Tensor::empty({count}, DType::i32, device);
  sorted.places = Tensor::empty({n}, DType::i32, device);
  sorted.starts = Tensor::empty({n + count}, DType::i32, device);
  sorted.segments = Tensor::empty({n}, DType::i32, device);
  const std::vector<IdList> parts = id_lists(lists, space_of_list, {});
  run(device, SortIds{spaces.data(),
                      static_cast<int>(count),
                      parts.data(),
                      static_cast<int>(parts.size()),
                      sorted.unique,
                      sorted.counts,
                      sorted.places,
                      sorted.starts,
                      sorted.segments,
                      {}});
  return sorted;
}

std::vector<RowGradient> reduce_rows(const Tensor& dy, const SortedIds& sorted, std::span<const ListPlace> place_of_list,
                                     std::span<const Tensor> tables, std::span<const std::int64_t> widths) {
  const OpScope scope("reduce_rows", dy);
  if (!scope.dense()) return reduce_rows(dense(dy), sorted, place_of_list, tables, widths);
  const std::size_t spaces = sorted.spaces.size();
  if (place_of_list.size() != sorted.lists.size() || tables.size() != spaces || widths.size() != spaces)
    throw ShapeError(fmt::format("reduce_rows: places of {} lists, {} tables and {} widths for {} lists and {} spaces",
                                 place_of_list.size(), tables.size(), widths.size(), sorted.lists.size(), spaces));
  std::vector<RowGradient> result(spaces);
  std::vector<RowTarget> targets(spaces);
  const std::vector<std::int32_t> counts = dy.device().is_cuda() ? std::vector<std::int32_t>() : sorted.counts.to_vector<std::int32_t>();
  for (std::size_t s = 0; s < spaces; ++s) {
    if (tables[s].defined()) {
      targets[s].table = tables[s];
    } else if (widths[s] > 0) {
      // On the device the number of ids is not known here: reading it would wait for the sort.
      const int space = static_cast<int>(s);
      const std::int64_t room = counts.empty() ? sorted.entries(space) : counts[s];
      result[s] = {sorted.unique.slice_rows(sorted.base(space), room),
                   Tensor::empty({room, widths[s]}, dy.dtype() == DType::f64 ? DType::f64 : DType::f32, dy.device())};
      targets[s].rows = result[s].rows;
    }
  }
  const std::vector<IdList> parts = id_lists(sorted.lists, sorted.space_of_list, place_of_list);
  run(dy.device(), ReduceRows{sorted.spaces.data(),
                              targets.data(),
                              static_cast<int>(spaces),
                              parts.data(),
                              static_cast<int>(parts.size()),
                              dy,
                              sorted.unique,
                              sorted.counts,
                              sorted.places,
                              sorted.starts,
                              sorted.segments,
                              {}});
  return result;
}

}  // namespace expctr
