// Batch normalisation. Column statistics: pieces of at most 512 rows and 64 columns, each read twice (the second time from cache) for its
// mean and its sum of squared deviations, in double; pieces are combined in ascending order (Chan, Golub, LeVeque 1983). The batch is read
// from memory twice and written once: 12 bytes an element in f32, 24 backward; bound by memory.
#include "base/kernels/batch_norm.h"

#include <algorithm>
#include <cmath>

#include "cpu/arguments.h"
#include "cpu/dispatch.h"
#include "cpu/run.h"

namespace expctr::cpu {
namespace {

constexpr std::int64_t piece_rows = 512;

std::int64_t pieces_of(std::int64_t rows) { return (rows + piece_rows - 1) / piece_rows; }

void require_vectors(const char* op, const View& x, std::initializer_list<Operand> vectors) {
  for (const auto& [name, vector] : vectors)
    require(vector.dtype == x.dtype && vector.size() == x.width() && present(vector), op,
            (std::string(name) + " must have x's dtype and one element a column").c_str(), {{"x", x}, {name, vector}});
}
void require_optional(const char* op, const View& x, std::initializer_list<Operand> vectors) {
  for (const auto& [name, vector] : vectors)
    if (!vector.empty()) require_vectors(op, x, {{name, vector}});
}

/// body(piece, first row, rows, first column, columns) for all pieces of x.
template <class Body>
void for_blocks(std::int64_t rows, std::int64_t width, Body body) {
  const std::int64_t blocks = (width + column_grain - 1) / column_grain;
  for_rows(pieces_of(rows) * blocks, piece_rows * std::min(width, column_grain), cheap_grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t piece = i / blocks, column = i % blocks * column_grain;
      body(piece, piece * piece_rows, std::min(piece_rows, rows - piece * piece_rows), column, std::min(column_grain, width - column));
    }
  });
}

/// out[piece][0][column]: mean, out[piece][1][column]: sum of squared deviations from it.
template <class T>
void piece_statistics(const T* x, std::int64_t rows, std::int64_t width, double* out) {
  for_blocks(rows, width, [&](std::int64_t piece, std::int64_t row, std::int64_t count, std::int64_t column, std::int64_t columns) {
    const T* from = x + row * width + column;
    double mean[column_grain] = {}, squares[column_grain] = {};
    for (std::int64_t r = 0; r < count; ++r)
      for (std::int64_t c = 0; c < columns; ++c) mean[c] += static_cast<double>(from[r * width + c]);
    for (std::int64_t c = 0; c < columns; ++c) mean[c] /= static_cast<double>(count);
    for (std::int64_t r = 0; r < count; ++r) {
      for (std::int64_t c = 0; c < columns; ++c) {
        const double deviation = static_cast<double>(from[r * width + c]) - mean[c];
        squares[c] += deviation * deviation;
      }
    }
    std::copy_n(mean, columns, out + piece * 2 * width + column);
    std::copy_n(squares, columns, out + (piece * 2 + 1) * width + column);
  });
}

}  // namespace

template <>
std::size_t scratch_bytes(const BatchNormForward& args) {
  return args.training ? static_cast<std::size_t>(pieces_of(args.x.rows()) * 2 * args.x.width()) * sizeof(double) : 0;
}

template <>
void run(const BatchNormForward& args, Stream) {
  const std::int64_t rows = args.x.rows(), width = args.x.width();
  require(args.x.rank == 2, "batch_norm", "x must be [rows, width]", {{"x", args.x}});
  require_alike("batch_norm", {{"x", args.x}, {"y", args.y}});
  require_vectors("batch_norm", args.x,
                  {{"running_mean", args.running_mean},
                   {"running_variance", args.running_variance},
                   {"mean", args.mean},
                   {"inverse_deviation", args.inverse_deviation}});
  require_optional("batch_norm", args.x, {{"gain", args.gain}, {"bias", args.bias}});
  require_scratch("batch_norm", args.scratch, scratch_bytes(args));
  with_floating(args.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T *x = args.x.as<const T>(), *gain = args.gain.as<const T>(), *bias = args.bias.as<const T>();
    T *means = args.mean.as<T>(), *inverses = args.inverse_deviation.as<T>();
    T *running_mean = args.running_mean.as<T>(), *running_variance = args.running_variance.as<T>();
    if (!args.training || rows == 0) {
      for (std::int64_t c = 0; c < width; ++c) {
        means[c] = running_mean[c];
        inverses[c] = static_cast<T>(1.0 / std::sqrt(static_cast<double>(running_variance[c]) + args.epsilon));
      }
    } else {
      const double* partial = args.scratch.as<double>();
      piece_statistics(x, rows, width, args.scratch.as<double>());
      for (std::int64_t c = 0; c < width; ++c) {
        double n = 0, mean = 0, squares = 0;
        for (std::int64_t piece = 0; piece < pieces_of(rows); ++piece) {
          const double count = static_cast<double>(std::min(piece_rows, rows - piece * piece_rows));
          const double difference = partial[piece * 2 * width + c] - mean;
          mean += difference * count / (n + count);
          squares += partial[(piece * 2 + 1) * width + c] + difference * difference * n * count / (n + count);
          n += count;
        }
        means[c] = static_cast<T>(mean);
        inverses[c] = static_cast<T>(1.0 / std::sqrt(squares / n + args.epsilon));
        running_mean[c] += static_cast<T>(args.momentum * (mean - static_cast<double>(running_mean[c])));
        if (rows > 1) running_variance[c] += static_cast<T>(args.momentum * (squares / (n - 1) - static_cast<double>(running_variance[c])));
      }
    }
    for_rows(rows, width, cheap_grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        const T* from = x + row * width;
        T* to = args.y.as<T>() + row * width;
        for (std::int64_t c = 0; c < width; ++c) to[c] = (from[c] - means[c]) * inverses[c];
        if (gain != nullptr)
          for (std::int64_t c = 0; c < width; ++c) to[c] *= gain[c];
        if (bias != nullptr)
          for (std::int64_t c = 0; c < width; ++c) to[c] += bias[c];
      }
    });
  });
}

/// Sums of dy and dy n of the pieces, then the two means of every column.
template <>
std::size_t scratch_bytes(const BatchNormBackward& args) {
  return static_cast<std::size_t>((pieces_of(args.x.rows()) + 1) * 2 * args.x.width()) * sizeof(double);
}

template <>
void run(const BatchNormBackward& args, Stream) {
  const std::int64_t rows = args.x.rows(), width = args.x.width();
  require(args.x.rank == 2, "batch_norm backward", "x must be [rows, width]", {{"x", args.x}});
  require_alike("batch_norm backward", {{"x", args.x}, {"dy", args.dy}});
  if (!args.dx.empty()) require_alike("batch_norm backward", {{"x", args.x}, {"dx", args.dx}});
  require_vectors("batch_norm backward", args.x, {{"mean", args.mean}, {"inverse_deviation", args.inverse_deviation}});
  require_optional("batch_norm backward", args.x, {{"gain", args.gain}, {"dgain", args.dgain}, {"dbias", args.dbias}});
  require_scratch("batch_norm backward", args.scratch, scratch_bytes(args));
  if (rows == 0) return;
  with_floating(args.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T *x = args.x.as<const T>(), *dy = args.dy.as<const T>(), *gain = args.gain.as<const T>();
    const T *mean = args.mean.as<const T>(), *inverse = args.inverse_deviation.as<const T>();
    double* partial = args.scratch.as<double>();
    T *shift = reinterpret_cast<T*>(partial + pieces_of(rows) * 2 * width), *slope = shift + width;
    for_blocks(rows, width, [&](std::int64_t piece, std::int64_t row, std::int64_t count, std::int64_t column, std::int64_t columns) {
      double sum[column_grain] = {}, dot[column_grain] = {};
      for (std::int64_t r = row; r < row + count; ++r) {
        const T *from = x + r * width + column, *gradient = dy + r * width + column;
        for (std::int64_t c = 0; c < columns; ++c) {
          sum[c] += static_cast<double>(gradient[c]);
          dot[c] += static_cast<double>(gradient[c] * ((from[c] - mean[column + c]) * inverse[column + c]));
        }
      }
      std::copy_n(sum, columns, partial + piece * 2 * width + column);
      std::copy_n(dot, columns, partial + (piece * 2 + 1) * width + column);
    });
    for (std::int64_t c = 0; c < width; ++c) {
      double sum = 0, dot = 0;
      for (std::int64_t piece = 0; piece < pieces_of(rows); ++piece) {
        sum += partial[piece * 2 * width + c];
        dot += partial[(piece * 2 + 1) * width + c];
      }
      if (!args.dbias.empty()) args.dbias.as<T>()[c] += static_cast<T>(sum);
      if (!args.dgain.empty()) args.dgain.as<T>()[c] += static_cast<T>(dot);
      shift[c] = args.training ? static_cast<T>(sum / static_cast<double>(rows)) : T(0);
      slope[c] = args.training ? static_cast<T>(dot / static_cast<double>(rows)) : T(0);
    }
    if (args.dx.empty()) return;
    for_rows(rows, width, cheap_grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        const T *from = x + row * width, *gradient = dy + row * width;
        T* to = args.dx.as<T>() + row * width;
        for (std::int64_t c = 0; c < width; ++c) {
          const T n = (from[c] - mean[c]) * inverse[c], scale = gain == nullptr ? inverse[c] : gain[c] * inverse[c];
          to[c] += scale * (gradient[c] - shift[c] - n * slope[c]);
        }
      }
    });
  });
}

}  // namespace expctr::cpu
