// Adam over whole tables and on single rows. Whole tables: one pass over parameter and moments, 24 bytes an element in f32, and 4 more for
// those with a gradient; the rows between two named ones are one run. Their sum of squares is taken while a piece is in the cache. Single
// rows: 28 bytes an element of the named rows. The norm reads the gradients and, where there is a regulariser, the parameters beside them.
// All bounded by memory; sums are added in an order that shapes fix.
#include "cpu/optim_tables.h"

#include <algorithm>

#include "cpu/run.h"

namespace expctr::cpu {
namespace {

void require_tensor(const char* op, const RegularisedTensor& tensor) {
  require_floating(op, {{"parameter", tensor.parameter}, {"gradient", tensor.gradient}});
  if (tensor.ids.empty() && tensor.gradient.size() == tensor.parameter.size()) return;
  require(tensor.parameter.rank == 2 && tensor.gradient.rank == 2 && tensor.parameter.shape[1] == tensor.gradient.shape[1], op,
          "a gradient by rows must be [n, width] for a parameter [rows, width]",
          {{"parameter", tensor.parameter}, {"gradient", tensor.gradient}});
  require_ids(op, "ids", tensor.ids, tensor.gradient.shape[0]);
}

void require_moments(const char* op, const RegularisedTensor& tensor, const TableMoments& moments) {
  require_alike(op, {{"parameter", tensor.parameter}, {"first_moment", moments.first}, {"second_moment", moments.second}});
}

void require_step(const char* op, std::int64_t step) {
  if (step < 1) throw ShapeError(std::string(op) + ": step is " + std::to_string(step) + ", but the first step is 1");
}

bool by_rows(const RegularisedTensor& tensor) { return tensor.gradient.size() != tensor.parameter.size() || !tensor.ids.empty(); }

/// body(begin, end, gradient of `begin` or null) for the stretches of elements [begin, end) of a table that share one row gradient or have
/// none.
template <class T, class Body>
void for_stretches(const RegularisedTensor& tensor, std::int64_t begin, std::int64_t end, Body body) {
  const std::int64_t width = tensor.parameter.width(), n = tensor.ids.empty() ? 0 : tensor.ids.size();
  const std::int32_t* ids = tensor.ids.as<const std::int32_t>();
  const T* gradient = tensor.gradient.as<const T>();
  std::int64_t k = n == 0 ? 0 : std::lower_bound(ids, ids + n, static_cast<std::int32_t>(begin / width)) - ids;
  while (begin < end) {
    const std::int64_t row = k < n ? ids[k] * width : end;  // the next named row
    if (begin < row) {
      const std::int64_t stop = std::min(row, end);
      body(begin, stop, static_cast<const T*>(nullptr));
      begin = stop;
    } else {
      const std::int64_t stop = std::min(row + width, end);
      body(begin, stop, gradient + k * width + (begin - row));
      begin = stop;
      ++k;
    }
  }
}

template <class T>
double squares_of(const T* x, std::int64_t n) {
  return lane_sum<double>(n, [&](std::int64_t i) { return static_cast<double>(x[i]) * static_cast<double>(x[i]); });
}

std::size_t square_bytes(const RegularisedTensor* tensors, int count) {
  std::int64_t pieces = 0;
  for (int t = 0; t < count; ++t) pieces += piece_count(tensors[t].parameter.size());
  return static_cast<std::size_t>(pieces) * sizeof(double);
}

void add_pieces(const RegularisedTensor* tensors, int count, const double* partial, double* squares) {
  for (int t = 0; t < count; ++t) {
    squares[t] = 0;
    for (std::int64_t i = 0; i < piece_count(tensors[t].parameter.size()); ++i) squares[t] += *partial++;
  }
}

void require_squares(const char* op, const View& squares, int count) {
  require(squares.dtype == DType::f64 && squares.size() == count && present(squares), op, "squares must be f64, one for each tensor",
          {{"squares", squares}});
}

}  // namespace

template <>
std::size_t scratch_bytes(const TableAdam& args) {
  return args.squares.empty() ? 0 : square_bytes(args.tensors, args.count);
}

template <>
void run(const TableAdam& args, Stream) {
  for (int t = 0; t < args.count; ++t) {
    require_tensor("table_adam", args.tensors[t]);
    require_moments("table_adam", args.tensors[t], args.moments[t]);
  }
  require_step("table_adam", args.step);
  require_scratch("table_adam", args.scratch, scratch_bytes(args));
  if (!args.squares.empty()) require_squares("table_adam", args.squares, args.count);
  const double factor = gradient_factor("table_adam", args.scale);
  double* partial = args.squares.empty() ? nullptr : args.scratch.as<double>();
  for_tensor_pieces(
      args.count, [&](int t) { return args.tensors[t].parameter.size(); },
      [&](int t, std::int64_t begin, std::int64_t end, std::int64_t piece) {
        const RegularisedTensor& tensor = args.tensors[t];
        with_floating(tensor.parameter.dtype, [&](auto zero) {
          using T = decltype(zero);
          const AdamCoefficients<T> coefficients(args, factor, args.weight_decay);
          T *p = tensor.parameter.as<T>(), *m = args.moments[t].first.as<T>(), *v = args.moments[t].second.as<T>();
          const T l2 = static_cast<T>(tensor.l2);
          if (by_rows(tensor)) {
            for_stretches<T>(tensor, begin, end, [&](std::int64_t from, std::int64_t to, const T* gradient) {
              coefficients.apply(to - from, gradient, l2, p + from, m + from, v + from);
            });
          } else {
            coefficients.apply(end - begin, tensor.gradient.as<const T>() + begin, l2, p + begin, m + begin, v + begin);
          }
          if (partial != nullptr) partial[piece] = squares_of(p + begin, end - begin);
        });
      });
  if (partial != nullptr) add_pieces(args.tensors, args.count, partial, args.squares.as<double>());
}

template <>
std::size_t scratch_bytes(const SumOfSquares& args) {
  return square_bytes(args.tensors, args.count);
}

template <>
void run(const SumOfSquares& args, Stream) {
  require_squares("sum_of_squares", args.squares, args.count);
  require_scratch("sum_of_squares", args.scratch, scratch_bytes(args));
  for (int t = 0; t < args.count; ++t) require_floating("sum_of_squares", {{"parameter", args.tensors[t].parameter}});
  double* partial = args.scratch.as<double>();
  for_tensor_pieces(
      args.count, [&](int t) { return args.tensors[t].parameter.size(); },
      [&](int t, std::int64_t begin, std::int64_t end, std::int64_t piece) {
        with_floating(args.tensors[t].parameter.dtype, [&](auto zero) {
          partial[piece] = squares_of(args.tensors[t].parameter.as<const decltype(zero)>() + begin, end - begin);
        });
      });
  add_pieces(args.tensors, args.count, partial, args.squares.as<double>());
}

/// One f64 sum a piece of a gradient.
template <>
std::size_t scratch_bytes(const RegularisedNorm& args) {
  std::int64_t pieces = 0;
  for (int t = 0; t < args.count; ++t) pieces += piece_count(args.tensors[t].gradient.size());
  return static_cast<std::size_t>(pieces) * sizeof(double);
}

template <>
void run(const RegularisedNorm& args, Stream) {
  require(args.total.dtype == DType::f64 && args.total.size() == 1 && present(args.total), "regularised_norm", "total must be f64 [1]",
          {{"total", args.total}});
  const std::size_t bytes = scratch_bytes(args);
  require_scratch("regularised_norm", args.scratch, bytes);
  bool squares_wanted = false;
  for (int t = 0; t < args.count; ++t) {
    require_tensor("regularised_norm", args.tensors[t]);
    squares_wanted = squares_wanted || (by_rows(args.tensors[t]) && args.tensors[t].l2 != 0);
  }
  if (squares_wanted) require_squares("regularised_norm", args.squares, args.count);
  double* partial = args.scratch.as<double>();
  for_tensor_pieces(
      args.count, [&](int t) { return args.tensors[t].gradient.size(); },
      [&](int t, std::int64_t begin, std::int64_t end, std::int64_t piece) {
        const RegularisedTensor& tensor = args.tensors[t];
        const double l2 = tensor.l2;
        with_floating(tensor.gradient.dtype, [&](auto zero) {
          using T = decltype(zero);
          const T *g = tensor.gradient.as<const T>() + begin, *p = tensor.parameter.as<const T>();
          const auto plain = [&](std::int64_t i) { return static_cast<double>(g[i]) * static_cast<double>(g[i]); };
          if (l2 == 0) {
            partial[piece] = lane_sum<double>(end - begin, plain);
          } else if (!by_rows(tensor)) {
            partial[piece] = lane_sum<double>(end - begin, [&](std::int64_t i) {
              const double sum = static_cast<double>(g[i]) + l2 * static_cast<double>(p[begin + i]);
              return sum * sum;
            });
          } else {
            // |g + l2 p|^2 = g (g + 2 l2 p) + l2^2 p^2, the last term over the whole table.
            const std::int64_t width = tensor.parameter.width(), rows = tensor.parameter.shape[0];
            const std::int32_t* ids = tensor.ids.as<const std::int32_t>();
            double sum = 0;
            for (std::int64_t i = begin; i < end;) {
              const std::int64_t k = i / width, column = i - k * width, count = std::min(end, (k + 1) * width) - i;
              const T* of_row = ids[k] < rows ? p + ids[k] * width + column : nullptr;
              if (of_row != nullptr)
                sum += lane_sum<double>(count, [&](std::int64_t j) {
                  const double here = static_cast<double>(g[i - begin + j]);
                  return here * (here + 2 * l2 * static_cast<double>(of_row[j]));
                });
              i += count;
            }
            partial[piece] = sum;
          }
        });
      });
  double sum = 0;
  for (std::size_t i = 0; i < bytes / sizeof(double); ++i) sum += partial[i];
  for (int t = 0; t < args.count; ++t)
    if (by_rows(args.tensors[t]) && args.tensors[t].l2 != 0)
      sum += args.tensors[t].l2 * args.tensors[t].l2 * args.squares.as<const double>()[t];
  *args.total.as<double>() = sum;
}

template <>
void run(const RowAdam& args, Stream) {
  for (int t = 0; t < args.count; ++t) {
    require_tensor("row_adam", args.tensors[t]);
    require_moments("row_adam", args.tensors[t], args.moments[t]);
    require_ids("row_adam", "ids", args.tensors[t].ids, args.tensors[t].gradient.rows());
  }
  require_step("row_adam", args.step);
  const double factor = gradient_factor("row_adam", args.scale);
  for (int t = 0; t < args.count; ++t) {
    const RegularisedTensor& tensor = args.tensors[t];
    const std::int64_t width = tensor.parameter.width(), rows = tensor.parameter.shape[0];
    const std::int32_t* ids = tensor.ids.as<const std::int32_t>();
    with_floating(tensor.parameter.dtype, [&](auto zero) {
      using T = decltype(zero);
      const AdamCoefficients<T> coefficients(args, factor, 0.0);
      T *p = tensor.parameter.as<T>(), *m = args.moments[t].first.as<T>(), *v = args.moments[t].second.as<T>();
      for_rows(tensor.ids.size(), width, cheap_grain, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t k = begin; k < end; ++k) {
          if (ids[k] < 0 || ids[k] >= rows) continue;
          const std::int64_t at = ids[k] * width;
          coefficients.apply(width, tensor.gradient.as<const T>() + k * width, static_cast<T>(tensor.l2), p + at, m + at, v + at);
        }
      });
    });
  }
}

}  // namespace expctr::cpu
