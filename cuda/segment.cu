// Reductions of runs of rows. A thread owns 16 bytes of columns of a segment and walks down its rows in ascending order: x once, y once,
// neighbouring threads neighbouring addresses. Sums add in float in one order. Backward of the sum: a thread owns 16 bytes of a row and
// finds the row's segment by bisection. All bound by memory.
#include "base/kernels/segment.h"
#include "cuda/columns.cuh"

namespace expctr::cuda {

namespace {

template <class T, int Size>
__global__ void __launch_bounds__(block_threads)
    segment_sum_kernel(std::int64_t segments, std::int64_t width, const T* x, const std::int32_t* offsets, T* y) {
  std::int64_t segment, column;
  if (!my_columns<Size>(segments, width, segment, column)) return;
  const std::int64_t end = offsets[segment + 1];
  float sums[Size] = {};
#pragma unroll 4
  for (std::int64_t row = offsets[segment]; row < end; ++row) {
    float values[Size];
    load_columns(x + row * width + column, values);
#pragma unroll
    for (int j = 0; j < Size; ++j) sums[j] += values[j];
  }
  store_columns(y + segment * width + column, sums);
}

template <class T, int Size>
__global__ void __launch_bounds__(block_threads) segment_sum_backward_kernel(std::int64_t rows, std::int64_t width, std::int64_t segments,
                                                                             const T* dy, const std::int32_t* offsets, T* dx) {
  std::int64_t row, column;
  if (!my_columns<Size>(rows, width, row, column)) return;
  const std::int64_t segment = run_of(row, segments, offsets);
  if (segment < 0) return;
  float gradient[Size], result[Size];
  load_columns(dy + segment * width + column, gradient);
  load_columns(dx + row * width + column, result);
#pragma unroll
  for (int j = 0; j < Size; ++j) result[j] += gradient[j];
  store_columns(dx + row * width + column, result);
}

template <class T, int Size>
__global__ void __launch_bounds__(block_threads)
    segment_max_kernel(std::int64_t segments, std::int64_t width, const T* x, const std::int32_t* offsets, T* y, std::int32_t* argument) {
  std::int64_t segment, column;
  if (!my_columns<Size>(segments, width, segment, column)) return;
  const std::int32_t end = offsets[segment + 1];
  float largest[Size] = {};
  std::int32_t place[Size];
#pragma unroll
  for (int j = 0; j < Size; ++j) place[j] = -1;
#pragma unroll 4
  for (std::int32_t row = offsets[segment]; row < end; ++row) {
    float values[Size];
    load_columns(x + row * width + column, values);
#pragma unroll
    for (int j = 0; j < Size; ++j) {
      if (place[j] >= 0 && !(values[j] > largest[j]) && !(isnan(values[j]) && !isnan(largest[j]))) continue;
      largest[j] = values[j];
      place[j] = row;
    }
  }
  store_columns(y + segment * width + column, largest);
  if constexpr (Size == 1) {
    argument[segment * width + column] = place[0];
  } else {
#pragma unroll
    for (int j = 0; j < Size; j += 4)
      *reinterpret_cast<int4*>(argument + segment * width + column + j) = make_int4(place[j], place[j + 1], place[j + 2], place[j + 3]);
  }
}

/// Places of one column are different for different segments.
template <class T>
__global__ void __launch_bounds__(block_threads) segment_max_backward_kernel(std::int64_t elements, std::int64_t rows, std::int64_t width,
                                                                             const T* dy, const std::int32_t* argument, T* dx) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x;
  if (i >= elements) return;
  const std::int32_t row = argument[i];
  if (row < 0 || row >= rows) return;
  T* to = dx + row * width + i % width;
  store_element(to, load_element(to) + load_element(dy + i));
}

void check_segments(const char* kernel, const View& rows, const View& segments, const View& offsets) {
  require_stored(kernel, {&rows, &segments});
  require(kernel, DType::i32, {&offsets});
  if (rows.rank != 2 || segments.rank != 2 || rows.shape[1] != segments.shape[1] || offsets.size() != segments.shape[0] + 1)
    throw ShapeError(std::string("cuda: ") + kernel + " takes [rows, width], [segments + 1] and [segments, width]");
}

}  // namespace

template <>
void run(const SegmentSumForward& args, Stream stream) {
  check_segments("segment_sum", args.x, args.y, args.offsets);
  if (args.y.size() == 0) return;
  const std::int64_t segments = args.y.shape[0], width = args.y.shape[1];
  with_columns(width, args.y.dtype, {args.x.data, args.y.data}, [&](auto* type, auto size) {
    using T = std::remove_pointer_t<decltype(type)>;
    segment_sum_kernel<T, size.value><<<blocks_for(segments * width / size.value, block_threads), block_threads, 0, native(stream)>>>(
        segments, width, args.x.as<T>(), args.offsets.as<std::int32_t>(), args.y.as<T>());
  });
  check_launch("segment_sum");
}

template <>
void run(const SegmentSumBackward& args, Stream stream) {
  check_segments("segment_sum_backward", args.dx, args.dy, args.offsets);
  if (args.dx.size() == 0) return;
  const std::int64_t rows = args.dx.shape[0], width = args.dx.shape[1];
  with_columns(width, args.dx.dtype, {args.dx.data, args.dy.data}, [&](auto* type, auto size) {
    using T = std::remove_pointer_t<decltype(type)>;
    segment_sum_backward_kernel<T, size.value><<<blocks_for(rows * width / size.value, block_threads), block_threads, 0, native(stream)>>>(
        rows, width, args.dy.shape[0], args.dy.as<T>(), args.offsets.as<std::int32_t>(), args.dx.as<T>());
  });
  check_launch("segment_sum_backward");
}

template <>
void run(const SegmentMaxForward& args, Stream stream) {
  check_segments("segment_max", args.x, args.y, args.offsets);
  require("segment_max", DType::i32, {&args.argument});
  if (args.y.size() == 0) return;
  const std::int64_t segments = args.y.shape[0], width = args.y.shape[1];
  with_columns(width, args.y.dtype, {args.x.data, args.y.data, args.argument.data}, [&](auto* type, auto size) {
    using T = std::remove_pointer_t<decltype(type)>;
    segment_max_kernel<T, size.value><<<blocks_for(segments * width / size.value, block_threads), block_threads, 0, native(stream)>>>(
        segments, width, args.x.as<T>(), args.offsets.as<std::int32_t>(), args.y.as<T>(), args.argument.as<std::int32_t>());
  });
  check_launch("segment_max");
}

template <>
void run(const SegmentMaxBackward& args, Stream stream) {
  require_stored("segment_max_backward", {&args.dy, &args.dx});
  require("segment_max_backward", DType::i32, {&args.argument});
  const std::int64_t elements = args.dy.size();
  if (elements == 0 || args.dx.size() == 0) return;
  with_storage(args.dx.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    segment_max_backward_kernel<<<blocks_for(elements, block_threads), block_threads, 0, native(stream)>>>(
        elements, args.dx.rows(), args.dx.width(), args.dy.as<T>(), args.argument.as<std::int32_t>(), args.dx.as<T>());
  });
  check_launch("segment_max_backward");
}

}  // namespace expctr::cuda
