// Work on [rows, width] in which a thread keeps a packet of columns while it goes down the rows: what belongs to a column (a gain, a mean)
// is read once for many rows. Sums over rows run in an order that depends on shapes and storage only: a thread adds its rows in
// ascending order, the threads of a block are added as a tree, the chunks of rows in ascending order. No atomics.
#pragma once

#include <algorithm>

#include "cuda/packet.cuh"

namespace expctr::cuda {

/// How sums over the rows of [batch, rows, width] are cut; a function of the extents alone.
struct ColumnPlan {
  std::int64_t batch = 1, rows = 0, width = 0, chunks = 1, chunk = 1;
  std::size_t bytes(int values) const {
    return chunks == 1 ? 0 : static_cast<std::size_t>(batch * width * chunks * values) * sizeof(float);
  }
};

/// Threads of a block side by side along the columns: a power of two up to a warp.
inline int packets_across(std::int64_t width, int packet) {
  int across = 1;
  while (across < 32 && across * packet < width) across *= 2;
  return across;
}

/// rows_each: least rows of a thread; more where a thread reads much for its columns before it begins.
inline ColumnPlan plan_columns(std::int64_t rows, std::int64_t width, std::int64_t batch = 1, std::int64_t rows_each = 8) {
  ColumnPlan plan;
  plan.batch = batch;
  plan.rows = rows;
  plan.width = width;
  const std::int64_t blocks = std::max<std::int64_t>(1, ceil_div(width, 256) * batch);
  const std::int64_t least_chunk = block_threads / packets_across(width, 8) * rows_each;
  plan.chunks = std::clamp<std::int64_t>(768 / blocks, 1, std::clamp<std::int64_t>(rows / least_chunk, 1, 256));
  plan.chunk = std::max<std::int64_t>(1, ceil_div(rows, plan.chunks));
  return plan;
}

constexpr int staged_rows = 256;

/// The state of a term or body that keeps nothing for its columns.
template <int N>
struct NoColumns {};

/// Term: `static constexpr int row_values`, `float row_value(int v, std::int64_t row)` (what belongs to a row; staged in shared memory),
/// `template <int N> struct Columns` with `begin<N>(std::int64_t column, Columns<N>&)`, and
/// `add<N>(Columns<N>&, std::int64_t batch, std::int64_t row, std::int64_t column, const float* row_values, float (&sums)[V][N])`.
/// Store: operator()(std::int64_t output, const float (&sums)[V]) for output = batch index x width + column; with
/// packet(std::int64_t output, const float (&sums)[V][N]) beside it, where whole packets can be stored.
template <int N, int V, class Term, class Store>
__global__ void __launch_bounds__(block_threads, 2)
    column_sums_kernel(Term term, Store store, int across, std::int64_t rows, std::int64_t width, std::int64_t chunk, float* partials) {
  constexpr int staged = Term::row_values == 0 ? 1 : Term::row_values;
  __shared__ float shared[V * N][block_threads], row_values[staged_rows][staged];
  const int thread = static_cast<int>(threadIdx.x), lane = thread & (across - 1), down = thread / across, strips = block_threads / across;
  const std::int64_t column = (static_cast<std::int64_t>(blockIdx.x) * across + lane) * N, batch = blockIdx.z;
  const std::int64_t begin = blockIdx.y * chunk, end = begin + chunk < rows ? begin + chunk : rows;
  float sums[V][N] = {};
  typename Term::template Columns<N> columns;
  if (column < width) term.template begin<N>(column, columns);
  for (std::int64_t piece = begin; piece < end; piece += staged_rows) {
    const std::int64_t stop = piece + staged_rows < end ? piece + staged_rows : end;
    if constexpr (Term::row_values > 0) {
      __syncthreads();
      if (piece + thread < stop) {
#pragma unroll
        for (int v = 0; v < Term::row_values; ++v) row_values[thread][v] = term.row_value(v, piece + thread);
      }
      __syncthreads();
    }
    if (column < width)
      for (std::int64_t row = piece + down; row < stop; row += strips)
        term.template add<N>(columns, batch, row, column, row_values[row - piece], sums);
  }
#pragma unroll
  for (int v = 0; v < V; ++v) {
#pragma unroll
    for (int i = 0; i < N; ++i) shared[v * N + i][thread] = sums[v][i];
  }
  for (int half = strips / 2; half > 0; half /= 2) {
    __syncthreads();
    if (down < half) {
#pragma unroll
      for (int k = 0; k < V * N; ++k) shared[k][thread] += shared[k][thread + half * across];
    }
  }
  if (down != 0 || column >= width) return;
  const std::int64_t output = batch * width + column, outputs = gridDim.z * width;
#pragma unroll
  for (int v = 0; v < V; ++v) {
#pragma unroll
    for (int i = 0; i < N; ++i) sums[v][i] = shared[v * N + i][thread];
    if (gridDim.y > 1) store_packet(partials + (v * static_cast<std::int64_t>(gridDim.y) + blockIdx.y) * outputs + output, sums[v]);
  }
  if (gridDim.y > 1) return;
  if constexpr (requires { store.packet(output, sums); }) {
    store.packet(output, sums);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      float one[V];
#pragma unroll
      for (int v = 0; v < V; ++v) one[v] = sums[v][i];
      store(output + i, one);
    }
  }
}

template <int V, class Store>
__global__ void __launch_bounds__(block_threads)
    finish_columns_kernel(Store store, std::int64_t outputs, std::int64_t chunks, const float* partials) {
  const std::int64_t output = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x;
  if (output >= outputs) return;
  float sums[V];
#pragma unroll
  for (int v = 0; v < V; ++v) {
    float sum = 0;
#pragma unroll 8
    for (std::int64_t c = 0; c < chunks; ++c) sum += partials[(v * chunks + c) * outputs + output];
    sums[v] = sum;
  }
  store(output, sums);
}

/// store(...) receives the sums over rows. N: elements a packet (packets_fit); `scratch` holds plan.bytes(V).
template <int N, int V, class Term, class Store>
void column_sums(const char* name, const ColumnPlan& plan, Term term, Store store, void* scratch, Stream stream) {
  const std::int64_t outputs = plan.batch * plan.width;
  if (outputs == 0) return;
  const int across = packets_across(plan.width, N);
  const dim3 grid(blocks_for(plan.width, across * N), static_cast<unsigned>(plan.chunks), static_cast<unsigned>(plan.batch));
  column_sums_kernel<N, V>
      <<<grid, block_threads, 0, native(stream)>>>(term, store, across, plan.rows, plan.width, plan.chunk, static_cast<float*>(scratch));
  check_launch(name);
  if (plan.chunks == 1) return;
  finish_columns_kernel<V>
      <<<blocks_for(outputs, block_threads), block_threads, 0, native(stream)>>>(store, outputs, plan.chunks, static_cast<float*>(scratch));
  check_launch(name);
}

/// Calls launch(integral constant N): the packet of the storage S where rows and pointers allow it, else 1.
template <class S, class Launch>
void dispatch_packets(std::int64_t width, std::initializer_list<const View*> views, Launch launch) {
  if (packets_fit<packet_size<S>>(width, views))
    launch(std::integral_constant<int, packet_size<S>>{});
  else
    launch(std::integral_constant<int, 1>{});
}

/// Body: `template <int N> struct Columns` with `begin<N>(column, Columns<N>&)`, and `row<N>(Columns<N>&, std::int64_t row,
/// std::int64_t column)`, which does a packet's work in one row.
template <int N, class Body>
__global__ void __launch_bounds__(block_threads) columns_kernel(Body body, std::int64_t rows, std::int64_t width, int each) {
  const std::int64_t thread = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x;
  std::int64_t packet;
  const std::int64_t first = divide(thread, ceil_div(width, N), packet) * each, column = packet * N;
  if (first >= rows) return;
  const std::int64_t end = first + each < rows ? first + each : rows;
  typename Body::template Columns<N> columns;
  body.template begin<N>(column, columns);
  for (std::int64_t row = first; row < end; ++row) body.template row<N>(columns, row, column);
}

template <int N, class Body>
void for_columns(const char* name, Body body, std::int64_t rows, std::int64_t width, Stream stream) {
  if (rows * width == 0) return;
  const int each = static_cast<int>(std::clamp<std::int64_t>(rows * width / (1 << 17), 1, 32));
  const std::int64_t threads = ceil_div(rows, each) * ceil_div(width, N);
  columns_kernel<N><<<blocks_for(threads, block_threads), block_threads, 0, native(stream)>>>(body, rows, width, each);
  check_launch(name);
}

}  // namespace expctr::cuda
