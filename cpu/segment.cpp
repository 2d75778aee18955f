// Reductions of runs of rows: one pass over x, bounded by memory. A task owns some columns of some segments.
#include "base/kernels/segment.h"

#include "cpu/arguments.h"
#include "cpu/dispatch.h"
#include "cpu/run.h"

namespace expctr::cpu {
namespace {

void require_segments(const char* op, const View& rows, const View& segments, const View& offsets) {
  require_floating(op, {{"rows", rows}, {"segments", segments}});
  require(rows.rank == 2 && segments.rank == 2 && rows.shape[1] == segments.shape[1], op,
          "rows must be [rows, width], segments [segments, width]", {{"rows", rows}, {"segments", segments}});
  require_offsets(op, offsets, segments.shape[0], rows.shape[0]);
}

/// body(segment, first column, columns).
template <class Body>
void for_segments(std::int64_t segments, std::int64_t width, Body body) {
  const std::int64_t blocks = (width + column_grain - 1) / column_grain;
  for_rows(segments * blocks, column_grain * 16, cheap_grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t column = i % blocks * column_grain;
      body(i / blocks, column, width - column < column_grain ? width - column : column_grain);
    }
  });
}

}  // namespace

template <>
void run(const SegmentSumForward& args, Stream) {
  require_segments("segment_sum", args.x, args.y, args.offsets);
  const std::int64_t width = args.x.shape[1];
  const std::int32_t* offset = args.offsets.as<const std::int32_t>();
  with_floating(args.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    for_segments(args.y.shape[0], width, [&](std::int64_t segment, std::int64_t column, std::int64_t columns) {
      double sums[column_grain] = {};
      for (std::int64_t row = offset[segment]; row < offset[segment + 1]; ++row) {
        const T* x = args.x.as<const T>() + row * width + column;
        for (std::int64_t c = 0; c < columns; ++c) sums[c] += static_cast<double>(x[c]);
      }
      T* y = args.y.as<T>() + segment * width + column;
      for (std::int64_t c = 0; c < columns; ++c) y[c] = static_cast<T>(sums[c]);
    });
  });
}

template <>
void run(const SegmentSumBackward& args, Stream) {
  require_segments("segment_sum backward", args.dx, args.dy, args.offsets);
  const std::int64_t width = args.dx.shape[1];
  const std::int32_t* offset = args.offsets.as<const std::int32_t>();
  with_floating(args.dx.dtype, [&](auto zero) {
    using T = decltype(zero);
    for_segments(args.dy.shape[0], width, [&](std::int64_t segment, std::int64_t column, std::int64_t columns) {
      const T* dy = args.dy.as<const T>() + segment * width + column;
      for (std::int64_t row = offset[segment]; row < offset[segment + 1]; ++row) {
        T* dx = args.dx.as<T>() + row * width + column;
        for (std::int64_t c = 0; c < columns; ++c) dx[c] += dy[c];
      }
    });
  });
}

template <>
void run(const SegmentMaxForward& args, Stream) {
  require_segments("segment_max", args.x, args.y, args.offsets);
  require_ids("segment_max", "argument", args.argument, args.y.size());
  const std::int64_t width = args.x.shape[1];
  const std::int32_t* offset = args.offsets.as<const std::int32_t>();
  with_floating(args.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    for_segments(args.y.shape[0], width, [&](std::int64_t segment, std::int64_t column, std::int64_t columns) {
      T* y = args.y.as<T>() + segment * width + column;
      std::int32_t* argument = args.argument.as<std::int32_t>() + segment * width + column;
      for (std::int64_t c = 0; c < columns; ++c) {
        y[c] = T(0);
        argument[c] = -1;
      }
      for (std::int64_t row = offset[segment]; row < offset[segment + 1]; ++row) {
        const T* x = args.x.as<const T>() + row * width + column;
        for (std::int64_t c = 0; c < columns; ++c) {
          const bool larger = argument[c] < 0 || x[c] > y[c] || (x[c] != x[c] && y[c] == y[c]);
          y[c] = larger ? x[c] : y[c];
          argument[c] = larger ? static_cast<std::int32_t>(row) : argument[c];
        }
      }
    });
  });
}

template <>
void run(const SegmentMaxBackward& args, Stream) {
  require_floating("segment_max backward", {{"dy", args.dy}, {"dx", args.dx}});
  require(args.dx.rank == 2 && args.dy.rank == 2 && args.dx.shape[1] == args.dy.shape[1], "segment_max backward",
          "dx must be [rows, width], dy [segments, width]", {{"dy", args.dy}, {"dx", args.dx}});
  require_ids("segment_max backward", "argument", args.argument, args.dy.size());
  require_ids_below("segment_max backward", "argument", args.argument, args.dx.shape[0]);
  const std::int64_t width = args.dx.shape[1];
  const std::int32_t* argument = args.argument.as<const std::int32_t>();
  with_floating(args.dx.dtype, [&](auto zero) {
    using T = decltype(zero);
    for_segments(args.dy.shape[0], width, [&](std::int64_t segment, std::int64_t column, std::int64_t columns) {
      for (std::int64_t c = segment * width + column; c < segment * width + column + columns; ++c)
        if (argument[c] >= 0) args.dx.as<T>()[argument[c] * width + c % width] += args.dy.as<const T>()[c];
    });
  });
}

}  // namespace expctr::cpu
