// Work on columns of [rows, width]: a block of 16 x 16 threads owns 16 packets of neighbouring columns (256 bytes of a row) and a chunk of
// rows; a thread keeps what belongs to its columns in registers and walks down the rows. Column reductions run in two launches, in an order
// that depends on shapes only: partial results of chunks, then the chunks in ascending order.
#pragma once

#include <algorithm>

#include "cuda/elements.cuh"

namespace expctr::cuda {

constexpr int column_slots = 16, column_lanes = block_threads / column_slots;

/// How columns are cut; a function of shape and dtype alone.
struct FoldPlan {
  bool packed = false;  ///< whole packets; else one column a thread
  std::int64_t rows = 0, width = 0, chunk = 0, chunks = 0;
  dim3 grid{};
  std::int64_t partials(int values) const { return chunks * values * width; }  ///< floats of scratch
};

inline FoldPlan plan_folds(std::int64_t rows, std::int64_t width, DType dtype, std::initializer_list<const void*> pointers) {
  FoldPlan plan;
  plan.packed = packed_rows(width, dtype, pointers);
  plan.rows = rows;
  plan.width = width;
  const std::int64_t size = plan.packed ? 16 / dtype_traits(dtype).block_bytes : 1,
                     blocks = std::max<std::int64_t>(1, ceil_div(width, column_slots * size));
  // Enough blocks for the device, but chunks long enough to pay for what a thread loads once.
  const std::int64_t most = std::max<std::int64_t>(1, ceil_div(rows, 32 * column_lanes));
  plan.chunks = std::clamp<std::int64_t>(ceil_div(528, blocks), 1, std::min<std::int64_t>(most, 256));
  plan.chunk = std::max<std::int64_t>(1, ceil_div(rows, plan.chunks));
  plan.grid = dim3(blocks_for(blocks, 1), static_cast<unsigned>(plan.chunks));
  return plan;
}

/// The columns of a thread and its first row of a chunk.
template <int Size>
struct ColumnPlace {
  int lane, slot;
  std::int64_t column, begin, end;
  __device__ __forceinline__ ColumnPlace(std::int64_t rows, std::int64_t chunk) {
    lane = static_cast<int>(threadIdx.x) / column_slots;
    slot = static_cast<int>(threadIdx.x) % column_slots;
    column = (static_cast<std::int64_t>(blockIdx.x) * column_slots + slot) * Size;
    begin = blockIdx.y * chunk;
    end = begin + chunk < rows ? begin + chunk : rows;
  }
};

/// Size neighbouring elements: a packet, or one element.
template <class T, int Size>
__device__ __forceinline__ void load_columns(const T* p, float (&values)[Size]) {
  if constexpr (Size == 1) {
    values[0] = load_element(p);
  } else {
    const Packet<T> packet = load_packet(p);
#pragma unroll
    for (int j = 0; j < Size; ++j) values[j] = packet.get(j);
  }
}
template <class T, int Size>
__device__ __forceinline__ void store_columns(T* p, const float (&values)[Size]) {
  if constexpr (Size == 1) {
    store_element(p, values[0]);
  } else {
    Packet<T> packet = {};
#pragma unroll
    for (int j = 0; j < Size; ++j) packet.set(j, values[j]);
    store_packet(p, packet);
  }
}
/// Size values of a vector of one float a column; `absent` where there is none.
template <int Size>
__device__ __forceinline__ void load_parameters(const float* p, std::int64_t column, float absent, float (&values)[Size]) {
  if (p == nullptr) {
#pragma unroll
    for (int j = 0; j < Size; ++j) values[j] = absent;
    return;
  }
  if constexpr (Size == 1) {
    values[0] = p[column];
  } else {
#pragma unroll
    for (int j = 0; j < Size; j += 4) {
      const float4 four = *reinterpret_cast<const float4*>(p + column + j);
      values[j] = four.x;
      values[j + 1] = four.y;
      values[j + 2] = four.z;
      values[j + 3] = four.w;
    }
  }
}

/// One thread for Size neighbouring columns of a row: its row and first column; false for threads past the end.
template <int Size>
__device__ __forceinline__ bool my_columns(std::int64_t rows, std::int64_t width, std::int64_t& row, std::int64_t& column) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x, slots = width / Size;
  if (i >= rows * slots) return false;
  row = i / slots;
  column = (i - row * slots) * Size;
  return true;
}

/// The run of rows that holds `row`, -1 for none: offsets[s] <= row < offsets[s + 1].
__device__ __forceinline__ std::int64_t run_of(std::int64_t row, std::int64_t runs, const std::int32_t* offsets) {
  if (runs == 0 || row < offsets[0] || row >= offsets[runs]) return -1;
  std::int64_t low = 0, high = runs;
  while (high - low > 1) {
    const std::int64_t middle = (low + high) / 2;
    (offsets[middle] <= row ? low : high) = middle;
  }
  return low;
}

/// Calls launch(T*, integral constant Size): Size elements of a row at a time, a packet where the pointers allow it, else one.
template <class Launch>
void with_columns(std::int64_t width, DType dtype, std::initializer_list<const void*> pointers, Launch launch) {
  with_storage(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    if (packed_rows(width, dtype, pointers))
      launch(type, std::integral_constant<int, packet_size<T>>{});
    else
      launch(type, std::integral_constant<int, 1>{});
  });
}

/// partials[chunk][value][column] of a reduction that is described by Fold:
///   Fold::values                                  floats a column
///   Fold::Parameters<Size> load(column)           what a thread keeps of its columns
///   add<Size>(parameters, row, at, state)         takes in the elements of a row that begin at offset `at`; state is float [values][Size],
///   zeros first merge(into, other)                            combines two states, float [values]
template <class Fold, int Size>
__global__ void __launch_bounds__(block_threads)
    column_partials_kernel(Fold fold, std::int64_t rows, std::int64_t width, std::int64_t chunk, float* partials) {
  constexpr int values = Fold::values;
  __shared__ float shared[values][Size][block_threads];
  const ColumnPlace<Size> place(rows, chunk);
  float state[values][Size] = {};
  if (place.column < width) {
    const auto parameters = fold.template load<Size>(place.column);
    for (std::int64_t row = place.begin + place.lane; row < place.end; row += column_lanes)
      fold.template add<Size>(parameters, row, row * width + place.column, state);
  }
#pragma unroll
  for (int v = 0; v < values; ++v)
#pragma unroll
    for (int j = 0; j < Size; ++j) shared[v][j][threadIdx.x] = state[v][j];
  __syncthreads();
#pragma unroll 1
  for (int half = column_lanes / 2; half > 0; half /= 2) {
    if (place.lane < half) {
#pragma unroll
      for (int j = 0; j < Size; ++j) {
        float mine[values], other[values];
#pragma unroll
        for (int v = 0; v < values; ++v) {
          mine[v] = shared[v][j][threadIdx.x];
          other[v] = shared[v][j][threadIdx.x + half * column_slots];
        }
        fold.merge(mine, other);
#pragma unroll
        for (int v = 0; v < values; ++v) shared[v][j][threadIdx.x] = mine[v];
      }
    }
    __syncthreads();
  }
  if (place.lane != 0 || place.column >= width) return;
#pragma unroll
  for (int v = 0; v < values; ++v)
#pragma unroll
    for (int j = 0; j < Size; ++j)
      partials[(blockIdx.y * static_cast<std::int64_t>(values) + v) * width + place.column + j] = shared[v][j][threadIdx.x];
}

/// store(column, const float (&state)[values]) receives the whole column's.
template <class Fold, class Store>
__global__ void __launch_bounds__(block_threads)
    finish_columns_kernel(Fold fold, Store store, std::int64_t width, std::int64_t chunks, const float* partials) {
  constexpr int values = Fold::values;
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x;
  if (column >= width) return;
  float total[values] = {};
  for (std::int64_t c = 0; c < chunks; ++c) {
    float part[values];
#pragma unroll
    for (int v = 0; v < values; ++v) part[v] = partials[(c * values + v) * width + column];
    fold.merge(total, part);
  }
  store(column, total);
}

template <class T, class Fold, class Store>
void reduce_columns(const char* name, const FoldPlan& plan, Fold fold, Store store, float* scratch, Stream stream) {
  if (plan.width == 0) return;
  if (plan.packed)
    column_partials_kernel<Fold, packet_size<T>>
        <<<plan.grid, block_threads, 0, native(stream)>>>(fold, plan.rows, plan.width, plan.chunk, scratch);
  else
    column_partials_kernel<Fold, 1><<<plan.grid, block_threads, 0, native(stream)>>>(fold, plan.rows, plan.width, plan.chunk, scratch);
  check_launch(name);
  finish_columns_kernel<<<blocks_for(plan.width, block_threads), block_threads, 0, native(stream)>>>(fold, store, plan.width, plan.chunks,
                                                                                                     scratch);
  check_launch(name);
}

/// apply<Size>(parameters, at) for all elements; parameters as in a fold.
template <class Apply, int Size>
__global__ void __launch_bounds__(block_threads)
    map_columns_kernel(Apply apply, std::int64_t rows, std::int64_t width, std::int64_t chunk) {
  const ColumnPlace<Size> place(rows, chunk);
  if (place.column >= width) return;
  const auto parameters = apply.template load<Size>(place.column);
  for (std::int64_t row = place.begin + place.lane; row < place.end; row += column_lanes)
    apply.template apply<Size>(parameters, row * width + place.column);
}

template <class T, class Apply>
void map_columns(const char* name, const FoldPlan& plan, Apply apply, Stream stream) {
  if (plan.width == 0 || plan.rows == 0) return;
  if (plan.packed)
    map_columns_kernel<Apply, packet_size<T>><<<plan.grid, block_threads, 0, native(stream)>>>(apply, plan.rows, plan.width, plan.chunk);
  else
    map_columns_kernel<Apply, 1><<<plan.grid, block_threads, 0, native(stream)>>>(apply, plan.rows, plan.width, plan.chunk);
  check_launch(name);
}

}  // namespace expctr::cuda
