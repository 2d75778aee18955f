// Table look-ups. Gather: reads the rows (in the table's storage), writes 4 bytes an element; bound by memory. An id past the table gathers
// NaN: a kernel cannot throw. Gradients: cuda/embedding_backward.cu; many tables at once: cuda/embedding_rows.cu.
#include <algorithm>

#include "base/kernels/embedding.h"
#include "cuda/rows.cuh"
#include "cuda/storage.cuh"

namespace expctr::cuda {

namespace {

template <class Storage>
__global__ void __launch_bounds__(block_threads)
    gather_kernel(std::int64_t total, std::int64_t rows, std::int64_t width, const void* table, const std::int32_t* ids, float* y) {
  const std::int64_t start = static_cast<std::int64_t>(blockIdx.x) * (4 * block_threads) + threadIdx.x;
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    const std::int64_t i = start + step * block_threads;
    if (i >= total) return;
    const std::int64_t row = i / width;
    const std::int32_t id = ids[row];
    y[i] = id < 0 ? 0.0f : id < rows ? static_cast<float>(Storage::load(table, id * width + (i - row * width))) : NAN;
  }
}

/// f32 rows of a multiple of 4 columns.
__global__ void __launch_bounds__(block_threads)
    gather4_kernel(std::int64_t total, std::int64_t rows, std::int64_t width, const float4* table, const std::int32_t* ids, float4* y) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x;
  if (i >= total) return;
  const std::int64_t row = i / width;
  const std::int32_t id = ids[row];
  if (id >= 0 && id < rows) {
    y[i] = table[id * width + (i - row * width)];
  } else {
    const float value = id < 0 ? 0.0f : NAN;
    y[i] = make_float4(value, value, value, value);
  }
}

template <bool Vector>
__global__ void __launch_bounds__(block_threads)
    copy_columns_kernel(std::int64_t total, std::int64_t columns, std::int64_t x_width, std::int64_t x_column, std::int64_t y_width,
                        std::int64_t y_column, bool accumulate, const float* x, float* y) {
  const std::int64_t i = (static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x) * (Vector ? 4 : 1);
  if (i >= total) return;
  const std::int64_t row = i / columns, column = i - row * columns;
  const float* from = x + row * x_width + x_column + column;
  float* to = y + row * y_width + y_column + column;
  if (Vector) {
    float4 value = *reinterpret_cast<const float4*>(from);
    if (accumulate) {
      const float4 old = *reinterpret_cast<const float4*>(to);
      value = make_float4(old.x + value.x, old.y + value.y, old.z + value.z, old.w + value.w);
    }
    *reinterpret_cast<float4*>(to) = value;
  } else {
    *to = accumulate ? *to + *from : *from;
  }
}

}  // namespace

template <>
void run(const Gather& args, Stream stream) {
  require_f32("gather", {&args.y});
  require("gather", DType::i32, {&args.ids});
  const std::int64_t width = args.y.width(), total = args.ids.size() * width;
  if (args.table.dtype == DType::f64)
    throw Error("cuda: gather from a table of f64", "f64 exists on the CPU only; choose --device cpu or f32");
  if (total == 0) return;
  if (args.table.dtype == DType::f32 && width % 4 == 0 && aligned16(args.table.data) && aligned16(args.y.data)) {
    gather4_kernel<<<blocks_for(total / 4, block_threads), block_threads, 0, native(stream)>>>(
        total / 4, args.table.rows(), width / 4, args.table.as<float4>(), args.ids.as<std::int32_t>(), args.y.as<float4>());
  } else {
    dispatch_storage("gather", args.table.dtype, [&](auto storage) {
      gather_kernel<decltype(storage)><<<blocks_for(total, 4 * block_threads), block_threads, 0, native(stream)>>>(
          total, args.table.rows(), width, args.table.data, args.ids.as<std::int32_t>(), args.y.as<float>());
    });
  }
  check_launch("gather");
}

template <>
void run(const CopyColumns& args, Stream stream) {
  require_f32("copy_columns", {&args.x, &args.y});
  const std::int64_t x_width = args.x.width(), y_width = args.y.width(), total = args.x.rows() * args.columns;
  if (total == 0) return;
  const bool vector = args.columns % 4 == 0 && x_width % 4 == 0 && y_width % 4 == 0 && args.x_column % 4 == 0 && args.y_column % 4 == 0 &&
                      aligned16(args.x.data) && aligned16(args.y.data);
  (vector ? copy_columns_kernel<true>
          : copy_columns_kernel<false>)<<<blocks_for(total, block_threads * (vector ? 4 : 1)), block_threads, 0, native(stream)>>>(
      total, args.columns, x_width, args.x_column, y_width, args.y_column, args.accumulate, args.x.as<float>(), args.y.as<float>());
  check_launch("copy_columns");
}

}  // namespace expctr::cuda
