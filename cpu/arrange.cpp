// Moving elements: every element is read and written once (read, added, written when accumulating); bound by memory.
#include "base/kernels/arrange.h"

#include <algorithm>

#include "cpu/arguments.h"
#include "cpu/dispatch.h"
#include "cpu/run.h"

namespace expctr::cpu {
namespace {

/// Calls body(float{}), body(double{}) or body(int32_t{}); ids only where `ids` allows them.
template <class Body>
void with_elements(const char* op, bool ids, const View& x, const View& y, Body&& body) {
  const bool fits = x.dtype == y.dtype && (is_floating(x.dtype) || (ids && x.dtype == DType::i32)) && present(x) && present(y);
  require(fits, op, ids ? "operands must have one dtype, f32, f64 or i32" : "operands must have one dtype, f32 or f64",
          {{"x", x}, {"y", y}});
  if (x.dtype == DType::i32)
    body(std::int32_t{});
  else
    with_floating(x.dtype, body);
}

/// to[i] (+)= from[i]; null: zeros.
template <class T>
void move_elements(const T* from, std::int64_t n, bool accumulate, T* to) {
  if (from == nullptr) {
    if (!accumulate) std::fill_n(to, n, T(0));
  } else if (accumulate) {
    for (std::int64_t i = 0; i < n; ++i) to[i] += from[i];
  } else {
    std::copy_n(from, n, to);
  }
}

void require_axes(const char* op, const View& x, const View& index, const View& y) {
  require(x.rank == 3 && y.rank == 3 && x.shape[0] == y.shape[0] && x.shape[2] == y.shape[2], op,
          "x must be [outer, n, inner], y [outer, m, inner]", {{"x", x}, {"y", y}});
  require(index.size() == y.size() || index.size() == y.shape[0] * y.shape[1], op, "index must be [outer, m, inner] or [outer, m]",
          {{"index", index}, {"y", y}});
  require_ids(op, "index", index, index.size());
  require_ids_below(op, "index", index, x.shape[1]);
}

/// A sequence's rows that a padded batch holds, and where they stand in it.
struct Kept {
  std::int64_t first_row, first_step, count;
};
Kept kept_rows(const std::int32_t* offsets, std::int64_t b, std::int64_t length, bool front) {
  const std::int64_t rows = offsets[b + 1] - offsets[b], count = std::min(rows, length);
  return front ? Kept{offsets[b + 1] - count, length - count, count} : Kept{offsets[b], 0, count};
}

void require_batch(const char* op, const View& packed, const View& offsets, const View& padded) {
  require(packed.rank == 2 && padded.rank == 3 && packed.shape[1] == padded.shape[2], op,
          "packed rows must be [rows, width], the batch [batch, length, width]", {{"packed", packed}, {"padded", padded}});
  require_offsets(op, offsets, padded.shape[0], packed.shape[0]);
}

}  // namespace

template <>
void run(const CopyAxis& args, Stream) {
  require(args.x.rank == 3 && args.y.rank == 3 && args.x.shape[0] == args.y.shape[0] && args.x.shape[2] == args.y.shape[2] &&
              args.count >= 0 && args.x_begin >= 0 && args.y_begin >= 0 && args.x_begin <= args.x.shape[1] - args.count &&
              args.y_begin <= args.y.shape[1] - args.count,
          "copy_axis", "x and y must be [outer, *, inner] and hold the entries", {{"x", args.x}, {"y", args.y}});
  const std::int64_t inner = args.x.shape[2], n = args.count * inner, x_width = args.x.shape[1] * inner, y_width = args.y.shape[1] * inner;
  with_elements("copy_axis", !args.accumulate, args.x, args.y, [&](auto zero) {
    using T = decltype(zero);
    for_rows(args.x.shape[0], n, cheap_grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t o = begin; o < end; ++o)
        move_elements(args.x.as<const T>() + o * x_width + args.x_begin * inner, n, args.accumulate,
                      args.y.as<T>() + o * y_width + args.y_begin * inner);
    });
  });
}

template <>
void run(const TakeAlong& args, Stream) {
  require_axes("take_along", args.x, args.index, args.y);
  const std::int64_t n = args.x.shape[1], m = args.y.shape[1], inner = args.x.shape[2];
  const bool vectors = args.index.size() != args.y.size();
  const std::int32_t* index = args.index.as<const std::int32_t>();
  with_elements("take_along", false, args.x, args.y, [&](auto zero) {
    using T = decltype(zero);
    for_rows(args.y.shape[0] * m, inner, cheap_grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        const T* x = args.x.as<const T>() + row / m * n * inner;
        T* y = args.y.as<T>() + row * inner;
        if (vectors) {
          move_elements(index[row] < 0 ? nullptr : x + index[row] * inner, inner, args.accumulate, y);
          continue;
        }
        for (std::int64_t i = 0; i < inner; ++i) {
          const std::int32_t from = index[row * inner + i];
          move_elements(from < 0 ? nullptr : x + from * inner + i, 1, args.accumulate, y + i);
        }
      }
    });
  });
}

template <>
void run(const TakeAlongBackward& args, Stream) {
  require_axes("take_along backward", args.dx, args.index, args.dy);
  const std::int64_t n = args.dx.shape[1], m = args.dy.shape[1], inner = args.dx.shape[2];
  const bool vectors = args.index.size() != args.dy.size();
  const std::int32_t* index = args.index.as<const std::int32_t>();
  with_elements("take_along backward", false, args.dx, args.dy, [&](auto zero) {
    using T = decltype(zero);
    for_rows(args.dy.shape[0], m * inner, cheap_grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin * m; row < end * m; ++row) {
        T* dx = args.dx.as<T>() + row / m * n * inner;
        const T* dy = args.dy.as<const T>() + row * inner;
        for (std::int64_t i = 0; i < inner; ++i) {
          const std::int32_t to = index[vectors ? row : row * inner + i];
          if (to >= 0) dx[to * inner + i] += dy[i];
        }
      }
    });
  });
}

template <>
void run(const PadRows& args, Stream) {
  require_batch("pad_rows", args.x, args.offsets, args.y);
  const std::int64_t length = args.y.shape[1], width = args.y.shape[2];
  const std::int32_t* offsets = args.offsets.as<const std::int32_t>();
  with_elements("pad_rows", false, args.x, args.y, [&](auto zero) {
    using T = decltype(zero);
    for_rows(args.y.shape[0], length * width, cheap_grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t b = begin; b < end; ++b) {
        const Kept kept = kept_rows(offsets, b, length, args.front);
        T* y = args.y.as<T>() + b * length * width;
        move_elements<T>(nullptr, kept.first_step * width, args.accumulate, y);
        move_elements(args.x.as<const T>() + kept.first_row * width, kept.count * width, args.accumulate, y + kept.first_step * width);
        const std::int64_t after = kept.first_step + kept.count;
        move_elements<T>(nullptr, (length - after) * width, args.accumulate, y + after * width);
      }
    });
  });
}

template <>
void run(const PackRows& args, Stream) {
  require_batch("pack_rows", args.y, args.offsets, args.x);
  const std::int64_t batch = args.x.shape[0], length = args.x.shape[1], width = args.x.shape[2], rows = args.y.shape[0];
  const std::int32_t* offsets = args.offsets.as<const std::int32_t>();
  with_elements("pack_rows", false, args.x, args.y, [&](auto zero) {
    using T = decltype(zero);
    T* y = args.y.as<T>();
    move_elements<T>(nullptr, offsets[0] * width, args.accumulate, y);
    for_rows(batch, length * width, cheap_grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t b = begin; b < end; ++b) {
        const Kept kept = kept_rows(offsets, b, length, args.front);
        const std::int64_t after = kept.first_row + kept.count;
        move_elements<T>(nullptr, (kept.first_row - offsets[b]) * width, args.accumulate, y + offsets[b] * width);
        move_elements(args.x.as<const T>() + (b * length + kept.first_step) * width, kept.count * width, args.accumulate,
                      y + kept.first_row * width);
        move_elements<T>(nullptr, (offsets[b + 1] - after) * width, args.accumulate, y + after * width);
      }
    });
    move_elements<T>(nullptr, (rows - offsets[batch]) * width, args.accumulate, y + offsets[batch] * width);
  });
}

}  // namespace expctr::cpu
