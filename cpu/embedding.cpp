// Table look-ups, bounded by random reads of rows. The backward pass gives every task a range of table rows and lets it scan all ids: a
// row's contributions arrive in ascending order without sorting, and no two tasks write one row.
#include "base/kernels/embedding.h"

#include "cpu/arguments.h"
#include "cpu/convert.h"
#include "cpu/dispatch.h"
#include "cpu/run.h"

namespace expctr::cpu {

template <>
void run(const Gather& args, Stream) {
  const DType from = args.table.dtype, to = from == DType::f64 ? DType::f64 : DType::f32;
  require(args.table.rank == 2 && args.y.rank == 2 && args.table.shape[1] == args.y.shape[1] && args.y.dtype == to && is_readable(from) &&
              present(args.table) && present(args.y),
          "gather", "table must be [rows, width] (f32, f64, bf16, f16 or block-quantised), y [n, width] f32, or f64 for an f64 table",
          {{"table", args.table}, {"y", args.y}});
  require(!is_quantised(from) || args.table.width() % dtype_traits(from).block_elements == 0, "gather",
          "the last extent must be whole blocks", {{"table", args.table}});
  require_ids("gather", "ids", args.ids, args.y.shape[0]);
  require_ids_below("gather", "ids", args.ids, args.table.shape[0]);
  const std::int64_t width = args.table.shape[1];
  const std::int32_t* ids = args.ids.as<const std::int32_t>();
  with_floating(to, [&](auto zero) {
    using T = decltype(zero);
    for_rows(args.y.shape[0], width, cheap_grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        T* y = args.y.as<T>() + row * width;
        if (ids[row] >= 0)
          read_elements(args.table.data, from, ids[row] * width, width, y);
        else
          for (std::int64_t i = 0; i < width; ++i) y[i] = T(0);
      }
    });
  });
}

template <>
std::size_t scratch_bytes(const GatherBackward&) {
  return 0;
}

template <>
void run(const GatherBackward& args, Stream) {
  require_floating("gather backward", {{"dy", args.dy}, {"dtable", args.dtable}});
  require(args.dtable.rank == 2 && args.dy.rank == 2 && args.dtable.shape[1] == args.dy.shape[1], "gather backward",
          "dtable must be [rows, width] and dy [n, width]", {{"dy", args.dy}, {"dtable", args.dtable}});
  require_ids("gather backward", "ids", args.ids, args.dy.shape[0]);
  require_ids_below("gather backward", "ids", args.ids, args.dtable.shape[0]);
  const std::int64_t n = args.dy.shape[0], width = args.dy.shape[1], rows = args.dtable.shape[0];
  const std::int32_t* ids = args.ids.as<const std::int32_t>();
  if (n == 0 || width == 0) return;
  constexpr std::int64_t tasks = 8;
  const std::int64_t range = n * width <= cheap_grain ? rows : (rows + tasks - 1) / tasks;
  with_floating(args.dy.dtype, [&](auto zero) {
    using T = decltype(zero);
    for_pieces(rows, range, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = 0; i < n; ++i) {
        const std::int64_t id = ids[i];
        if (id < begin || id >= end || id == args.frozen_row) continue;
        const T* dy = args.dy.as<const T>() + i * width;
        T* to = args.dtable.as<T>() + id * width;
        for (std::int64_t j = 0; j < width; ++j) to[j] += dy[j];
      }
    });
  });
}

template <>
void run(const CopyColumns& args, Stream) {
  require_floating("copy_columns", {{"x", args.x}, {"y", args.y}});
  const std::int64_t columns = args.columns, x_column = args.x_column, y_column = args.y_column, x_width = args.x.width(),
                     y_width = args.y.width();
  const bool fits = args.x.rank == 2 && args.y.rank == 2 && args.x.rows() == args.y.rows() && columns >= 0 && x_column >= 0 &&
                    y_column >= 0 && x_column <= x_width - columns && y_column <= y_width - columns;
  require(fits, "copy_columns",
          ("x and y must be [rows, *] and hold columns " + std::to_string(x_column) + " and " + std::to_string(y_column) +
           " and the next, " + std::to_string(columns) + " in all")
              .c_str(),
          {{"x", args.x}, {"y", args.y}});
  with_floating(args.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    for_rows(args.x.rows(), columns, cheap_grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        const T* x = args.x.as<const T>() + row * x_width + x_column;
        T* y = args.y.as<T>() + row * y_width + y_column;
        if (args.accumulate)
          for (std::int64_t i = 0; i < columns; ++i) y[i] += x[i];
        else
          for (std::int64_t i = 0; i < columns; ++i) y[i] = x[i];
      }
    });
  });
}

}  // namespace expctr::cpu
