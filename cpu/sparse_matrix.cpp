// Sparse times dense, row by row: 4 width + 8 bytes and 2 width operations an entry in float, the rows of x gathered: bound by memory, by
// the cache where the same rows of x come again. A row's products are added in the order of its entries, with fused multiply-add in x's
// dtype.
#include "base/kernels/sparse_matrix.h"

#include <algorithm>
#include <cmath>

#include "cpu/arguments.h"
#include "cpu/dispatch.h"
#include "cpu/run.h"

namespace expctr::cpu {

constexpr std::int32_t ahead = 2;  // entries: their rows are random places of x, which no hardware prefetcher guesses
constexpr std::int64_t sparse_columns = 256;  // sums of a piece of a row: they stay in the first-level cache, and x is read in long runs

template <>
void run(const SparseMatMul& args, Stream) {
  const char* op = "sparse_matmul";
  require_floating(op, {{"x", args.x}, {"y", args.y}});
  require(args.x.rank == 2 && args.y.rank == 2 && args.x.shape[1] == args.y.shape[1], op, "x must be [columns, width] and y [rows, width]",
          {{"x", args.x}, {"y", args.y}});
  const std::int64_t rows = args.y.shape[0], width = args.y.shape[1], entries = args.columns.size();
  require_offsets(op, args.offsets, rows, entries);
  require_ids(op, "columns", args.columns, entries);
  require_ids_below(op, "columns", args.columns, args.x.shape[0]);
  const std::int32_t *offsets = args.offsets.as<const std::int32_t>(), *columns = args.columns.as<const std::int32_t>();
  require(std::all_of(columns, columns + entries, [](std::int32_t column) { return column >= 0; }), op, "a column is negative",
          {{"columns", args.columns}});
  if (args.values.data != nullptr)
    require(args.values.dtype == args.x.dtype && args.values.size() == entries, op, "values must have x's dtype and one element an entry",
            {{"x", args.x}, {"values", args.values}});
  with_floating(args.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T *x = args.x.as<const T>(), *values = args.values.as<const T>();
    const std::int64_t blocks = (width + sparse_columns - 1) / sparse_columns;
    for_rows(rows * blocks, sparse_columns * 16, cheap_grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t piece = begin; piece < end; ++piece) {
        const std::int64_t row = piece / blocks, first = piece % blocks * sparse_columns, count = std::min(sparse_columns, width - first);
        T sums[sparse_columns] = {};
        for (std::int32_t i = offsets[row]; i < offsets[row + 1]; ++i) {
          const T value = values == nullptr ? T(1) : values[i];
          const T* from = x + columns[i] * width + first;
          if (i + ahead < offsets[row + 1]) {
            const char* soon = reinterpret_cast<const char*>(x + columns[i + ahead] * width + first);
            for (std::int64_t byte = 0; byte < count * static_cast<std::int64_t>(sizeof(T)); byte += 64) __builtin_prefetch(soon + byte);
          }
          for (std::int64_t c = 0; c < count; ++c) sums[c] = std::fma(value, from[c], sums[c]);
        }
        T* y = args.y.as<T>() + row * width + first;
        for (std::int64_t c = 0; c < count; ++c) y[c] = args.accumulate ? y[c] + sums[c] : sums[c];
      }
    });
  });
}

}  // namespace expctr::cpu
