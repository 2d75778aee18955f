// Table look-ups and copies of columns. Gather: reads the rows in the table's storage, writes them in y's; bound by memory. An id past the
// table gathers NaN: a kernel cannot throw. (The gradient: cuda/embedding_backward.cu.)
#include "base/kernels/embedding.h"
#include "cuda/columns.cuh"
#include "cuda/storage.cuh"

namespace expctr::cuda {

namespace {

/// Rows of any storage, an element at a time: block-quantised tables.
template <class Storage, class Y>
__global__ void __launch_bounds__(block_threads)
    gather_elements_kernel(std::int64_t total, std::int64_t rows, std::int64_t width, const void* table, const std::int32_t* ids, Y* y) {
  const std::int64_t start = static_cast<std::int64_t>(blockIdx.x) * (4 * block_threads) + threadIdx.x;
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    const std::int64_t i = start + step * block_threads;
    if (i >= total) return;
    std::int64_t column;
    const std::int64_t row = divide(i, width, column);
    const std::int32_t id = ids[row];
    store_element(y + i, id < 0 ? 0.0f : id < rows ? static_cast<float>(Storage::load(table, id * width + column)) : NAN);
  }
}

/// Rows of f32 or bf16 in packets of N; `across` lanes of a warp share a row, and its id, which one of them reads.
template <int N, class T, class Y>
__global__ void __launch_bounds__(block_threads)
    gather_kernel(std::int64_t count, std::int64_t rows, std::int64_t width, int across, const T* table, const std::int32_t* ids, Y* y) {
  const int lane = static_cast<int>(threadIdx.x) & (across - 1);
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * (block_threads / across) + threadIdx.x / across;
  std::int32_t id = lane == 0 && row < count ? ids[row] : -1;
  id = __shfl_sync(0xFFFFFFFFu, id, 0, across);
  if (row >= count) return;
  const bool known = id >= 0 && id < rows;
  for (std::int64_t column = lane * N; column < width; column += across * N) {
    float values[N];
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] = id < 0 ? 0.0f : NAN;
    if (known) load_packet(table + id * width + column, values);
    store_packet(y + row * width + column, values);
  }
}

template <int N, bool Accumulate, class S>
__global__ void __launch_bounds__(block_threads)
    copy_columns_kernel(std::int64_t packets, std::int64_t columns, std::int64_t x_width, std::int64_t x_column, std::int64_t y_width,
                        std::int64_t y_column, const S* x, S* y) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x;
  if (i >= packets) return;
  std::int64_t packet;
  const std::int64_t row = divide(i, columns / N, packet);
  float value[N];
  load_packet(x + row * x_width + x_column + packet * N, value);
  S* to = y + row * y_width + y_column + packet * N;
  if constexpr (Accumulate) {
    float old[N];
    load_packet(to, old);
#pragma unroll
    for (int k = 0; k < N; ++k) value[k] += old[k];
  }
  store_packet(to, value);
}

}  // namespace

template <>
void run(const Gather& args, Stream stream) {
  require("gather", DType::i32, {&args.ids});
  const std::int64_t width = args.y.width(), count = args.ids.size(), total = count * width, rows = args.table.rows();
  if (args.table.dtype == DType::f64)
    throw Error("cuda: gather from a table of f64", "f64 exists on the CPU only; choose --device cpu or f32");
  const DType dtype = require_activations("gather", {&args.y});
  if (total == 0) return;
  const std::int32_t* ids = args.ids.as<std::int32_t>();
  dispatch_activation(dtype, [&](auto storage) {
    using Y = decltype(storage);
    Y* y = args.y.as<Y>();
    if (args.table.dtype != DType::f32 && args.table.dtype != DType::bf16)
      return dispatch_storage("gather", args.table.dtype, [&](auto table) {
        gather_elements_kernel<decltype(table)>
            <<<blocks_for(total, 4 * block_threads), block_threads, 0, native(stream)>>>(total, rows, width, args.table.data, ids, y);
      });
    dispatch_activation(args.table.dtype, [&](auto table_storage) {
      using T = decltype(table_storage);
      const auto launch = [&](auto packet) {
        constexpr int N = decltype(packet)::value;
        const int across = packets_across(width, N);
        gather_kernel<N><<<blocks_for(count, block_threads / across), block_threads, 0, native(stream)>>>(count, rows, width, across,
                                                                                                          args.table.as<const T>(), ids, y);
      };
      constexpr int packet = common_packet<T, Y>;
      if (packets_fit<packet>(width, {&args.table, &args.y}))
        launch(std::integral_constant<int, packet>{});
      else
        launch(std::integral_constant<int, 1>{});
    });
  });
  check_launch("gather");
}

template <>
void run(const CopyColumns& args, Stream stream) {
  const DType dtype = require_activations("copy_columns", {&args.x, &args.y});
  const std::int64_t x_width = args.x.width(), y_width = args.y.width(), total = args.x.rows() * args.columns;
  if (total == 0) return;
  dispatch_activation(dtype, [&](auto storage) {
    using S = decltype(storage);
    const auto launch = [&](auto packet) {
      constexpr int N = decltype(packet)::value;
      const auto kernel = args.accumulate ? copy_columns_kernel<N, true, S> : copy_columns_kernel<N, false, S>;
      kernel<<<blocks_for(total / N, block_threads), block_threads, 0, native(stream)>>>(
          total / N, args.columns, x_width, args.x_column, y_width, args.y_column, args.x.as<const S>(), args.y.as<S>());
    };
    constexpr int packet = packet_size<S>;
    const bool whole = args.columns % packet == 0 && x_width % packet == 0 && y_width % packet == 0 && args.x_column % packet == 0 &&
                       args.y_column % packet == 0;
    if (whole && aligned16(args.x.data) && aligned16(args.y.data))
      launch(std::integral_constant<int, packet>{});
    else
      launch(std::integral_constant<int, 1>{});
  });
  check_launch("copy_columns");
}

}  // namespace expctr::cuda
