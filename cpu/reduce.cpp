// Sums. One pass over x, bounded by memory. Long sums are cut into pieces of fixed length, whose sums are added in order.
#include "base/kernels/reduce.h"

#include "cpu/arguments.h"
#include "cpu/dispatch.h"
#include "cpu/run.h"

namespace expctr::cpu {
namespace {

constexpr std::int64_t piece_length = 4096;

std::int64_t piece_count(std::int64_t n) { return (n + piece_length - 1) / piece_length; }

/// sums[i] = sum of x[r, i] over `rows` rows of `width` elements, i < count <= column_grain.
template <class T>
void add_rows(const T* x, std::int64_t rows, std::int64_t width, std::int64_t count, double* sums) {
  for (std::int64_t i = 0; i < count; ++i) sums[i] = 0;
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t i = 0; i < count; ++i) sums[i] += static_cast<double>(x[r * width + i]);
}

}  // namespace

/// Sums of the pieces, f64 [outer, pieces, inner]; none where one piece is all.
template <>
std::size_t scratch_bytes(const SumForward& args) {
  const std::int64_t pieces = args.x.rank == 3 ? piece_count(args.x.shape[1]) : 0;
  return pieces > 1 ? static_cast<std::size_t>(args.x.shape[0] * pieces * args.x.shape[2]) * sizeof(double) : 0;
}

template <>
void run(const SumForward& args, Stream) {
  require_floating("sum", {{"x", args.x}, {"y", args.y}});
  require(args.x.rank == 3 && args.y.size() == args.x.shape[0] * args.x.shape[2], "sum", "x must be [outer, n, inner] and y [outer, inner]",
          {{"x", args.x}, {"y", args.y}});
  require_scratch("sum", args.scratch, scratch_bytes(args));
  const std::int64_t outer = args.x.shape[0], n = args.x.shape[1], inner = args.x.shape[2], pieces = piece_count(n);
  with_floating(args.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* x = args.x.as<const T>();
    T* y = args.y.as<T>();
    double* partial = pieces > 1 ? args.scratch.as<double>() : nullptr;
    const auto rows_of = [&](std::int64_t piece) {
      return n - piece * piece_length < piece_length ? n - piece * piece_length : piece_length;
    };
    if (pieces == 0) {
      for (std::int64_t i = 0; i < outer * inner; ++i) y[i] = T(0);
    } else if (inner == 1) {
      for_rows(outer * pieces, pieces > 1 ? piece_length : n, cheap_grain, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
          const T* from = x + i / pieces * n + i % pieces * piece_length;
          const double sum = lane_sum<T>(rows_of(i % pieces), [&](std::int64_t j) { return from[j]; });
          if (partial != nullptr)
            partial[i] = sum;
          else
            y[i] = static_cast<T>(args.scale * sum);
        }
      });
    } else {
      const std::int64_t blocks = (inner + column_grain - 1) / column_grain;
      for_rows(outer * pieces * blocks, (pieces > 1 ? piece_length : n) * (inner < column_grain ? inner : column_grain), cheap_grain,
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t i = begin; i < end; ++i) {
                   const std::int64_t column = i % blocks * column_grain, piece = i / blocks % pieces, o = i / blocks / pieces;
                   const std::int64_t count = inner - column < column_grain ? inner - column : column_grain;
                   double sums[column_grain];
                   add_rows(x + (o * n + piece * piece_length) * inner + column, rows_of(piece), inner, count, sums);
                   for (std::int64_t j = 0; j < count; ++j) {
                     if (partial != nullptr)
                       partial[(o * pieces + piece) * inner + column + j] = sums[j];
                     else
                       y[o * inner + column + j] = static_cast<T>(args.scale * sums[j]);
                   }
                 }
               });
    }
    if (partial == nullptr) return;
    for_rows(outer * inner, pieces, cheap_grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        double sum = 0;
        for (std::int64_t piece = 0; piece < pieces; ++piece) sum += partial[(i / inner * pieces + piece) * inner + i % inner];
        y[i] = static_cast<T>(args.scale * sum);
      }
    });
  });
}

template <>
void run(const SumBackward& args, Stream) {
  require_floating("sum backward", {{"dy", args.dy}, {"dx", args.dx}});
  require(args.dx.rank == 3 && args.dy.size() == args.dx.shape[0] * args.dx.shape[2], "sum backward",
          "dx must be [outer, n, inner] and dy [outer, inner]", {{"dy", args.dy}, {"dx", args.dx}});
  const std::int64_t outer = args.dx.shape[0], n = args.dx.shape[1], inner = args.dx.shape[2];
  with_floating(args.dx.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* dy = args.dy.as<const T>();
    T* dx = args.dx.as<T>();
    const T scale = static_cast<T>(args.scale);
    for_rows(outer * n, inner, cheap_grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        const T* from = dy + row / n * inner;
        T* to = dx + row * inner;
        for (std::int64_t i = 0; i < inner; ++i) to[i] += scale * from[i];
      }
    });
  });
}

template <>
void run(const SegmentMeanForward& args, Stream) {
  require_floating("segment_mean", {{"x", args.x}, {"y", args.y}});
  require(args.x.rank == 2 && args.y.rank == 2 && args.x.shape[1] == args.y.shape[1], "segment_mean",
          "x must be [rows, width] and y [segments, width]", {{"x", args.x}, {"y", args.y}});
  require_offsets("segment_mean", args.offsets, args.y.shape[0], args.x.shape[0]);
  const std::int64_t segments = args.y.shape[0], width = args.x.shape[1];
  const std::int32_t* offset = args.offsets.as<const std::int32_t>();
  with_floating(args.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* x = args.x.as<const T>();
    T* y = args.y.as<T>();
    const std::int64_t blocks = (width + column_grain - 1) / column_grain;
    for_rows(segments * blocks, column_grain * 16, cheap_grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t segment = i / blocks, column = i % blocks * column_grain, rows = offset[segment + 1] - offset[segment];
        const std::int64_t count = width - column < column_grain ? width - column : column_grain;
        double sums[column_grain];
        add_rows(x + offset[segment] * width + column, rows, width, count, sums);
        const double scale = rows > 0 ? 1.0 / static_cast<double>(rows) : 0.0;
        for (std::int64_t j = 0; j < count; ++j) y[segment * width + column + j] = static_cast<T>(scale * sums[j]);
      }
    });
  });
}

template <>
void run(const SegmentMeanBackward& args, Stream) {
  require_floating("segment_mean backward", {{"dy", args.dy}, {"dx", args.dx}});
  require(args.dx.rank == 2 && args.dy.rank == 2 && args.dx.shape[1] == args.dy.shape[1], "segment_mean backward",
          "dx must be [rows, width] and dy [segments, width]", {{"dy", args.dy}, {"dx", args.dx}});
  require_offsets("segment_mean backward", args.offsets, args.dy.shape[0], args.dx.shape[0]);
  const std::int64_t width = args.dx.shape[1];
  const std::int32_t* offset = args.offsets.as<const std::int32_t>();
  with_floating(args.dx.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* dy = args.dy.as<const T>();
    T* dx = args.dx.as<T>();
    for_rows(args.dy.shape[0], width * 16, cheap_grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t segment = begin; segment < end; ++segment) {
        const T scale = T(1) / static_cast<T>(offset[segment + 1] - offset[segment]);
        for (std::int64_t row = offset[segment]; row < offset[segment + 1]; ++row)
          for (std::int64_t i = 0; i < width; ++i) dx[row * width + i] += scale * dy[segment * width + i];
      }
    });
  });
}

namespace {

template <class Body>
void for_squared_pieces(const SquaredNorm& args, Body body) {
  std::int64_t first = 0;
  for (int t = 0; t < args.count; ++t) {
    body(args.tensors[t], first);
    first += piece_count(args.tensors[t].size());
  }
}

}  // namespace

/// One f64 sum a piece of a tensor.
template <>
std::size_t scratch_bytes(const SquaredNorm& args) {
  std::int64_t pieces = 0;
  for_squared_pieces(args, [&](const View& tensor, std::int64_t first) { pieces = first + piece_count(tensor.size()); });
  return static_cast<std::size_t>(pieces) * sizeof(double);
}

template <>
void run(const SquaredNorm& args, Stream) {
  require(args.total.dtype == DType::f64 && args.total.size() == 1 && args.total.data != nullptr, "squared_norm", "total must be f64 [1]",
          {{"total", args.total}});
  require(args.count >= 0 && (args.count == 0 || args.tensors != nullptr), "squared_norm", "there are no tensors", {{"total", args.total}});
  for (int t = 0; t < args.count; ++t) require_floating("squared_norm", {{"tensor", args.tensors[t]}});
  const std::size_t bytes = scratch_bytes(args);
  require_scratch("squared_norm", args.scratch, bytes);
  double* partial = args.scratch.as<double>();
  const std::int64_t pieces = static_cast<std::int64_t>(bytes / sizeof(double));
  for_pieces(pieces, 8, [&](std::int64_t begin, std::int64_t end) {
    for_squared_pieces(args, [&](const View& tensor, std::int64_t first) {
      const std::int64_t n = tensor.size(), last = first + piece_count(n);
      for (std::int64_t piece = begin > first ? begin : first; piece < (end < last ? end : last); ++piece) {
        const std::int64_t start = (piece - first) * piece_length, count = n - start < piece_length ? n - start : piece_length;
        with_floating(tensor.dtype, [&](auto zero) {
          using T = decltype(zero);
          const T* x = tensor.as<const T>() + start;
          partial[piece] = lane_sum<double>(count, [&](std::int64_t i) { return static_cast<double>(x[i]) * static_cast<double>(x[i]); });
        });
      }
    });
  });
  double sum = 0;
  for (std::int64_t piece = 0; piece < pieces; ++piece) sum += partial[piece];
  *args.total.as<double>() = sum;
}

}  // namespace expctr::cpu
