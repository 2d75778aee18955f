// The k best entries of a row, k <= 1024. A block reads a chunk of a row once, 16 bytes a load; entries better than the k-th best so far
// are appended to a buffer of 2,048 in shared memory, which is sorted (bitonic, by value, then place) and cut to k whenever it might
// overflow. In what order entries are appended does not matter: (value, place) pairs are all different. Rows of several chunks are finished
// by a second launch over the chunks' results. 4 bytes an element in f32 and a comparison; a sort of 66 steps about every k ln(n / k) /
// 1,024 appended entries for entries in random order: bound by memory for long rows, by the sorts for short ones.
#include <algorithm>

#include "base/kernels/select.h"
#include "cuda/elements.cuh"

namespace expctr::cuda {

namespace {

constexpr int capacity = 2048, tile = capacity - static_cast<int>(most_selected);

/// Pairs as one number: smaller is better. High half: the value's bits turned so that larger values are smaller numbers; low half: the
/// place. All ones: no entry.
constexpr unsigned long long no_entry = ~0ull;

__device__ __forceinline__ unsigned long long entry_of(float value, std::uint32_t place) {
  if (isnan(value)) return no_entry;
  const std::uint32_t bits = __float_as_uint(value + 0.0f);  // no negative zero
  const std::uint32_t rising = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<unsigned long long>(~rising) << 32 | place;
}
__device__ __forceinline__ float value_of(unsigned long long entry) {
  const std::uint32_t rising = ~static_cast<std::uint32_t>(entry >> 32);
  return __uint_as_float(rising & 0x80000000u ? rising & 0x7FFFFFFFu : ~rising);
}

/// Ascending, so the best come first.
__device__ __forceinline__ void sort_entries(unsigned long long* entries) {
  for (int size = 2; size <= capacity; size *= 2) {
    for (int stride = size / 2; stride > 0; stride /= 2) {
      __syncthreads();
      for (int i = threadIdx.x; i < capacity / 2; i += block_threads) {
        const int low = (i / stride) * 2 * stride + i % stride, high = low + stride;
        const unsigned long long a = entries[low], b = entries[high];
        if ((a > b) == ((low & size) == 0)) {
          entries[low] = b;
          entries[high] = a;
        }
      }
    }
  }
  __syncthreads();
}

/// Whether the row's list holds the column.
__device__ __forceinline__ bool is_excluded(const std::int32_t* excluded, std::int32_t begin, std::int32_t end, std::int32_t column) {
  while (begin < end) {
    const std::int32_t middle = begin + (end - begin) / 2;
    if (excluded[middle] == column) return true;
    if (excluded[middle] < column)
      begin = middle + 1;
    else
      end = middle;
  }
  return false;
}

/// The buffer of a block. All threads call its functions together.
struct Buffer {
  unsigned long long* entries;
  int* count;
  int k;
  unsigned long long worst = no_entry;  ///< entries from here on are not among the best k

  __device__ __forceinline__ void start() {
    for (int i = threadIdx.x; i < capacity; i += block_threads) entries[i] = no_entry;
    if (threadIdx.x == 0) *count = 0;
    __syncthreads();
  }
  __device__ __forceinline__ void append(unsigned long long entry) {
    if (entry < worst) entries[atomicAdd(count, 1)] = entry;
  }
  __device__ __forceinline__ void cut() {
    sort_entries(entries);
    worst = entries[k - 1];
    const int kept = min(*count, k);
    __syncthreads();
    for (int i = kept + static_cast<int>(threadIdx.x); i < capacity; i += block_threads) entries[i] = no_entry;
    if (threadIdx.x == 0) *count = kept;
    __syncthreads();
  }
  /// Before the next `tile` entries.
  __device__ __forceinline__ void make_room() {
    __syncthreads();
    const bool cramped = *count > capacity - tile;
    __syncthreads();
    if (cramped) cut();
  }
};

/// Results go to values and indices, or, entry by entry, to `parts` [row][chunk][k] where a row has several chunks.
template <class T, bool Vector>
__global__ void __launch_bounds__(block_threads)
    select_kernel(std::int64_t columns, std::int64_t chunk, int k, const T* x, const std::int32_t* offsets, const std::int32_t* excluded,
                  T* values, std::int32_t* indices, unsigned long long* parts) {
  __shared__ unsigned long long entries[capacity];
  __shared__ int count;
  constexpr int size = packet_size<T>, packets = tile / (block_threads * size);  // 1 packet of f32; bf16: half of the threads
  const std::int64_t row = blockIdx.x, begin = blockIdx.y * chunk, end = begin + chunk < columns ? begin + chunk : columns;
  x += row * columns;
  const std::int32_t first = offsets == nullptr ? 0 : offsets[row], last = offsets == nullptr ? 0 : offsets[row + 1];
  Buffer buffer{entries, &count, k};
  buffer.start();
  const auto consider = [&](float value, std::int64_t column) {
    const unsigned long long entry = entry_of(value, static_cast<std::uint32_t>(column));
    if (entry < buffer.worst && !is_excluded(excluded, first, last, static_cast<std::int32_t>(column))) buffer.append(entry);
  };
  for (std::int64_t at = begin; at < end; at += tile) {
    buffer.make_room();
    if (Vector) {
      const std::int64_t column = at + threadIdx.x * size;
      if ((packets > 0 || static_cast<int>(threadIdx.x) < tile / size) && column < end) {
        const Packet<T> packet = load_packet(x + column);
#pragma unroll
        for (int j = 0; j < size; ++j) consider(packet.get(j), column + j);
      }
    } else {
#pragma unroll
      for (int j = 0; j < tile / block_threads; ++j) {
        const std::int64_t column = at + j * block_threads + threadIdx.x;
        if (column < end) consider(load_element(x + column), column);
      }
    }
  }
  buffer.cut();
  for (int j = threadIdx.x; j < k; j += block_threads) {
    const unsigned long long entry = entries[j];
    if (parts != nullptr) {
      parts[(row * gridDim.y + blockIdx.y) * k + j] = entry;
    } else {
      store_element(values + row * k + j, entry == no_entry ? -INFINITY : value_of(entry));
      indices[row * k + j] = entry == no_entry ? -1 : static_cast<std::int32_t>(entry & 0xFFFFFFFFu);
    }
  }
}

/// The best of a row's chunks' results.
template <class T>
__global__ void __launch_bounds__(block_threads)
    merge_kernel(std::int64_t parts_per_row, int k, const unsigned long long* parts, T* values, std::int32_t* indices) {
  __shared__ unsigned long long entries[capacity];
  __shared__ int count;
  const std::int64_t row = blockIdx.x, n = parts_per_row * k;
  parts += row * n;
  Buffer buffer{entries, &count, k};
  buffer.start();
  for (std::int64_t at = 0; at < n; at += tile) {
    buffer.make_room();
#pragma unroll
    for (int j = 0; j < tile / block_threads; ++j) {
      const std::int64_t i = at + j * block_threads + threadIdx.x;
      if (i < n) buffer.append(parts[i]);
    }
  }
  buffer.cut();
  for (int j = threadIdx.x; j < k; j += block_threads) {
    const unsigned long long entry = entries[j];
    store_element(values + row * k + j, entry == no_entry ? -INFINITY : value_of(entry));
    indices[row * k + j] = entry == no_entry ? -1 : static_cast<std::int32_t>(entry & 0xFFFFFFFFu);
  }
}

template <class T>
__global__ void __launch_bounds__(block_threads) select_backward_kernel(std::int64_t chosen, std::int64_t k, std::int64_t columns,
                                                                        const T* dvalues, const std::int32_t* indices, T* dx) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x;
  if (i >= chosen) return;
  const std::int32_t column = indices[i];
  if (column < 0 || column >= columns) return;
  T* to = dx + i / k * columns + column;
  store_element(to, load_element(to) + load_element(dvalues + i));
}

/// Chunks of a row: enough blocks for the device, but each at least 16 k entries and 8 tiles, whole tiles.
struct SelectPlan {
  std::int64_t chunk, chunks;
};
SelectPlan plan_select(const TopK& args) {
  const std::int64_t rows = std::max<std::int64_t>(1, args.x.rows()), columns = std::max<std::int64_t>(1, args.x.width());
  const std::int64_t least = std::max<std::int64_t>(8 * tile, 16 * args.values.width());
  const std::int64_t wanted = std::clamp<std::int64_t>(ceil_div(264, rows), 1, std::max<std::int64_t>(1, columns / least));
  const std::int64_t chunk = ceil_div(ceil_div(columns, wanted), tile) * tile;
  return {chunk, ceil_div(columns, chunk)};
}

}  // namespace

template <>
std::size_t scratch_bytes(const TopK& args) {
  const SelectPlan plan = plan_select(args);
  return plan.chunks == 1 ? 0 : static_cast<std::size_t>(args.x.rows() * plan.chunks * args.values.width()) * sizeof(unsigned long long);
}

template <>
void run(const TopK& args, Stream stream) {
  require_stored("top_k", {&args.x, &args.values});
  require("top_k", DType::i32, {&args.indices, &args.excluded_offsets, &args.excluded});
  const std::int64_t rows = args.x.rows(), columns = args.x.width(), k = args.values.width();
  if (k < 1 || k > most_selected || args.values.rows() != rows || args.indices.size() != rows * k || columns > 0x7FFFFFFF ||
      (!args.excluded_offsets.empty() && args.excluded_offsets.size() != rows + 1))
    throw ShapeError("cuda: top_k takes [rows, columns] and [rows, k], k at most 1024", "see base/kernels/select.h");
  require_scratch("top_k", args.scratch, scratch_bytes(args));
  if (rows == 0) return;
  const SelectPlan plan = plan_select(args);
  unsigned long long* parts = plan.chunks == 1 ? nullptr : args.scratch.as<unsigned long long>();
  with_storage(args.x.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    with_bool(packed_rows(columns, args.x.dtype, {args.x.data}), [&](auto packed) {
      select_kernel<T, packed.value><<<dim3(blocks_for(rows, 1), static_cast<unsigned>(plan.chunks)), block_threads, 0, native(stream)>>>(
          columns, plan.chunk, static_cast<int>(k), args.x.as<T>(), args.excluded_offsets.as<std::int32_t>(),
          args.excluded.as<std::int32_t>(), args.values.as<T>(), args.indices.as<std::int32_t>(), parts);
    });
    check_launch("top_k");
    if (parts == nullptr) return;
    merge_kernel<T><<<blocks_for(rows, 1), block_threads, 0, native(stream)>>>(plan.chunks, static_cast<int>(k), parts, args.values.as<T>(),
                                                                               args.indices.as<std::int32_t>());
    check_launch("top_k");
  });
}

template <>
void run(const TopKBackward& args, Stream stream) {
  require_stored("top_k_backward", {&args.dvalues, &args.dx});
  require("top_k_backward", DType::i32, {&args.indices});
  if (args.dvalues.size() == 0 || args.dx.size() == 0) return;
  with_storage(args.dx.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    select_backward_kernel<<<blocks_for(args.dvalues.size(), block_threads), block_threads, 0, native(stream)>>>(
        args.dvalues.size(), args.dvalues.width(), args.dx.width(), args.dvalues.as<T>(), args.indices.as<std::int32_t>(), args.dx.as<T>());
  });
  check_launch("top_k_backward");
}

}  // namespace expctr::cuda
