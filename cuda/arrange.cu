// Moving elements: a thread moves 16 bytes of a row (one element where rows are not whole packets), neighbouring threads neighbouring
// addresses; every element is read and written once, read, added and written when accumulating. All bound by memory. An index past the end
// gives NaN and gets no gradient: a kernel cannot throw.
#include "base/kernels/arrange.h"

#include "cuda/column_folds.cuh"

namespace expctr::cuda {

namespace {

/// to (+)= from, Size elements; a null `from` is zeros, NaN where `invalid`.
template <class T, int Size>
__device__ __forceinline__ void move_columns(const T* from, bool accumulate, T* to, bool invalid = false) {
  float values[Size];
#pragma unroll
  for (int j = 0; j < Size; ++j) values[j] = invalid ? NAN : 0.0f;
  if (from != nullptr) load_columns(from, values);
  if (accumulate) {
    if (from == nullptr && !invalid) return;
    float old[Size];
    load_columns(to, old);
#pragma unroll
    for (int j = 0; j < Size; ++j) values[j] += old[j];
  }
  store_columns(to, values);
}

template <class T, int Size>
__global__ void __launch_bounds__(block_threads) copy_axis_kernel(std::int64_t outer, std::int64_t width, std::int64_t x_width,
                                                                  std::int64_t y_width, bool accumulate, const T* x, T* y) {
  std::int64_t row, column;
  if (!my_columns<Size>(outer, width, row, column)) return;
  move_columns<T, Size>(x + row * x_width + column, accumulate, y + row * y_width + column);
}

template <class T, int Size>
__global__ void __launch_bounds__(block_threads)
    take_along_kernel(std::int64_t outer, std::int64_t n, std::int64_t m, std::int64_t inner, bool vectors, bool accumulate, const T* x,
                      const std::int32_t* index, T* y) {
  std::int64_t row, column;
  if (!my_columns<Size>(outer * m, inner, row, column)) return;
  const std::int32_t from = index[vectors ? row : row * inner + column];
  const bool inside = from >= 0 && from < n;
  move_columns<T, Size>(inside ? x + (row / m * n + from) * inner + column : nullptr, accumulate, y + row * inner + column, from >= n);
}

/// A thread owns Size columns of all m entries, so entries that meet are added in ascending order.
template <class T, int Size>
__global__ void __launch_bounds__(block_threads)
    take_along_backward_kernel(std::int64_t outer, std::int64_t n, std::int64_t m, std::int64_t inner, bool vectors, const T* dy,
                               const std::int32_t* index, T* dx) {
  std::int64_t o, column;
  if (!my_columns<Size>(outer, inner, o, column)) return;
  for (std::int64_t k = 0; k < m; ++k) {
    const std::int64_t row = o * m + k;
    const std::int32_t to = index[vectors ? row : row * inner + column];
    if (to >= 0 && to < n) move_columns<T, Size>(dy + row * inner + column, true, dx + (o * n + to) * inner + column);
  }
}

/// Step of a sequence's row in the padded batch, and back: both differ by the same shift.
__device__ __forceinline__ std::int64_t shift_of(const std::int32_t* offsets, std::int64_t b, std::int64_t length, bool front) {
  return front ? offsets[b + 1] - length : offsets[b];
}

template <class T, int Size>
__global__ void __launch_bounds__(block_threads)
    pad_rows_kernel(std::int64_t batch, std::int64_t length, std::int64_t width, std::int64_t rows, bool front, bool accumulate, const T* x,
                    const std::int32_t* offsets, T* y) {
  std::int64_t row, column;
  if (!my_columns<Size>(batch * length, width, row, column)) return;
  const std::int64_t b = row / length, from = shift_of(offsets, b, length, front) + (row - b * length);
  const bool kept = from >= offsets[b] && from < offsets[b + 1] && from < rows;
  move_columns<T, Size>(kept ? x + from * width + column : nullptr, accumulate, y + row * width + column);
}

template <class T, int Size>
__global__ void __launch_bounds__(block_threads)
    pack_rows_kernel(std::int64_t batch, std::int64_t length, std::int64_t width, std::int64_t rows, bool front, bool accumulate,
                     const T* x, const std::int32_t* offsets, T* y) {
  std::int64_t row, column;
  if (!my_columns<Size>(rows, width, row, column)) return;
  const T* from = nullptr;
  if (const std::int64_t b = run_of(row, batch, offsets); b >= 0) {
    const std::int64_t step = row - shift_of(offsets, b, length, front);
    if (step >= 0 && step < length) from = x + (b * length + step) * width + column;
  }
  move_columns<T, Size>(from, accumulate, y + row * width + column);
}

void check_axes(const char* kernel, const View& x, const View& index, const View& y) {
  require_stored(kernel, {&x, &y});
  require(kernel, DType::i32, {&index});
  if (x.rank != 3 || y.rank != 3 || x.shape[0] != y.shape[0] || x.shape[2] != y.shape[2] ||
      (index.size() != y.size() && index.size() != y.shape[0] * y.shape[1]))
    throw ShapeError(std::string("cuda: ") + kernel +
                     " takes [outer, n, inner], [outer, m, inner] and an index of [outer, m] or [outer, m, inner]");
}

void check_batch(const char* kernel, const View& packed, const View& offsets, const View& padded) {
  require_stored(kernel, {&packed, &padded});
  require(kernel, DType::i32, {&offsets});
  if (packed.rank != 2 || padded.rank != 3 || packed.shape[1] != padded.shape[2] || offsets.size() != padded.shape[0] + 1)
    throw ShapeError(std::string("cuda: ") + kernel + " takes [rows, width], [batch + 1] and [batch, length, width]");
}

}  // namespace

template <>
void run(const CopyAxis& args, Stream stream) {
  View x = args.x, y = args.y;
  if (x.dtype == DType::i32 && y.dtype == DType::i32 && !args.accumulate) x.dtype = y.dtype = DType::f32;  // the same bits are moved
  require_stored("copy_axis", {&x, &y});
  if (x.rank != 3 || y.rank != 3 || x.shape[0] != y.shape[0] || x.shape[2] != y.shape[2])
    throw ShapeError("cuda: copy_axis takes [outer, *, inner] twice");
  const std::int64_t inner = x.shape[2], width = args.count * inner, x_width = x.shape[1] * inner, y_width = y.shape[1] * inner;
  if (x.shape[0] * width == 0) return;
  with_storage(x.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    constexpr int packet = packet_size<T>;
    const T* from = x.as<T>() + args.x_begin * inner;
    T* to = y.as<T>() + args.y_begin * inner;
    const bool packed = x_width % packet == 0 && y_width % packet == 0 && packed_rows(width, x.dtype, {from, to});
    if (packed)
      copy_axis_kernel<T, packet><<<blocks_for(x.shape[0] * width / packet, block_threads), block_threads, 0, native(stream)>>>(
          x.shape[0], width, x_width, y_width, args.accumulate, from, to);
    else
      copy_axis_kernel<T, 1><<<blocks_for(x.shape[0] * width, block_threads), block_threads, 0, native(stream)>>>(
          x.shape[0], width, x_width, y_width, args.accumulate, from, to);
  });
  check_launch("copy_axis");
}

template <>
void run(const TakeAlong& args, Stream stream) {
  check_axes("take_along", args.x, args.index, args.y);
  if (args.y.size() == 0) return;
  const std::int64_t outer = args.y.shape[0], n = args.x.shape[1], m = args.y.shape[1], inner = args.y.shape[2];
  const bool vectors = args.index.size() != args.y.size();
  // Elements that choose for themselves are moved one by one.
  with_columns(vectors ? inner : 1, args.y.dtype, {args.x.data, args.y.data}, [&](auto* type, auto size) {
    using T = std::remove_pointer_t<decltype(type)>;
    take_along_kernel<T, size.value><<<blocks_for(args.y.size() / size.value, block_threads), block_threads, 0, native(stream)>>>(
        outer, n, m, inner, vectors, args.accumulate, args.x.as<T>(), args.index.as<std::int32_t>(), args.y.as<T>());
  });
  check_launch("take_along");
}

template <>
void run(const TakeAlongBackward& args, Stream stream) {
  check_axes("take_along_backward", args.dx, args.index, args.dy);
  if (args.dy.size() == 0 || args.dx.size() == 0) return;
  const std::int64_t outer = args.dy.shape[0], n = args.dx.shape[1], m = args.dy.shape[1], inner = args.dy.shape[2];
  const bool vectors = args.index.size() != args.dy.size();
  with_columns(vectors ? inner : 1, args.dy.dtype, {args.dx.data, args.dy.data}, [&](auto* type, auto size) {
    using T = std::remove_pointer_t<decltype(type)>;
    take_along_backward_kernel<T, size.value><<<blocks_for(outer * inner / size.value, block_threads), block_threads, 0, native(stream)>>>(
        outer, n, m, inner, vectors, args.dy.as<T>(), args.index.as<std::int32_t>(), args.dx.as<T>());
  });
  check_launch("take_along_backward");
}

template <>
void run(const PadRows& args, Stream stream) {
  check_batch("pad_rows", args.x, args.offsets, args.y);
  if (args.y.size() == 0) return;
  const std::int64_t batch = args.y.shape[0], length = args.y.shape[1], width = args.y.shape[2];
  with_columns(width, args.y.dtype, {args.x.data, args.y.data}, [&](auto* type, auto size) {
    using T = std::remove_pointer_t<decltype(type)>;
    pad_rows_kernel<T, size.value><<<blocks_for(args.y.size() / size.value, block_threads), block_threads, 0, native(stream)>>>(
        batch, length, width, args.x.shape[0], args.front, args.accumulate, args.x.as<T>(), args.offsets.as<std::int32_t>(),
        args.y.as<T>());
  });
  check_launch("pad_rows");
}

template <>
void run(const PackRows& args, Stream stream) {
  check_batch("pack_rows", args.y, args.offsets, args.x);
  if (args.y.size() == 0) return;
  const std::int64_t batch = args.x.shape[0], length = args.x.shape[1], width = args.x.shape[2], rows = args.y.shape[0];
  with_columns(width, args.y.dtype, {args.x.data, args.y.data}, [&](auto* type, auto size) {
    using T = std::remove_pointer_t<decltype(type)>;
    pack_rows_kernel<T, size.value><<<blocks_for(args.y.size() / size.value, block_threads), block_threads, 0, native(stream)>>>(
        batch, length, width, rows, args.front, args.accumulate, args.x.as<T>(), args.offsets.as<std::int32_t>(), args.y.as<T>());
  });
  check_launch("pack_rows");
}

}  // namespace expctr::cuda
