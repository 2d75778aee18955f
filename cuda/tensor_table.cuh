// Many tensors in one launch: a table of them as a kernel parameter, and which piece of which tensor a block works on.
#pragma once

#include "base/kernels/optim_tables.h"
#include "cuda/launch.cuh"

namespace expctr::cuda {

constexpr int optim_rounds = 4, optim_piece = 4 * block_threads * optim_rounds;  ///< elements of a block: 4 packets of 4 a thread

template <class Entry, int Capacity>
struct TensorTable {
  static constexpr int capacity = Capacity;
  Entry entry[Capacity];
  std::int64_t elements[Capacity];
  std::int32_t first_block[Capacity + 1];
  int count = 0;
  int first_tensor = 0;  ///< number of entry 0 among all tensors

  __device__ __forceinline__ int tensor_of_block() const {
    int low = 0, high = count;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (first_block[middle] <= static_cast<int>(blockIdx.x) ? low : high) = middle;
    }
    return low;
  }
};

/// Calls launch(table, blocks) for as many tensors at a time as a table holds. entry(i) fills one; elements(i) its size. Tensors without
/// elements stand in the table with no block.
template <class Table, class MakeEntry, class Elements, class Launch>
void launch_tensors(int count, MakeEntry entry, Elements elements, Launch launch) {
  for (int first = 0; first < count; first += Table::capacity) {
    Table table;
    table.first_tensor = first;
    table.first_block[0] = 0;
    std::int64_t blocks = 0;
    for (int i = first; i < count && table.count < Table::capacity; ++i) {
      const int slot = table.count++;
      table.entry[slot] = entry(i);
      table.elements[slot] = elements(i);
      blocks += ceil_div(table.elements[slot], optim_piece);
      if (blocks > 0x7FFFFFFF)
        throw Error("cuda: an optimiser step over more elements than a launch takes", "split the tensors into groups");
      table.first_block[slot + 1] = static_cast<std::int32_t>(blocks);
    }
    launch(table, static_cast<unsigned>(blocks));
  }
}

/// Sum over the block's threads in a fixed order; the result is valid in thread 0.
__device__ __forceinline__ double block_sum(double value) {
  __shared__ double shared[block_threads];
  __syncthreads();
  shared[threadIdx.x] = value;
  __syncthreads();
  for (int half = block_threads / 2; half > 0; half /= 2) {
    if (static_cast<int>(threadIdx.x) < half) shared[threadIdx.x] += shared[threadIdx.x + half];
    __syncthreads();
  }
  return shared[0];
}

/// The factor of GradientScale on the device.
struct DeviceScale {
  float factor, most;
  const double* squared_norm;

  explicit DeviceScale(const char* kernel, const GradientScale& scale)
      : factor(static_cast<float>(scale.factor)), most(static_cast<float>(scale.most)), squared_norm(scale.squared_norm.as<double>()) {
    require(kernel, DType::f64, {&scale.squared_norm});
  }
  __device__ __forceinline__ float get() const {
    if (squared_norm == nullptr) return factor;
    const float clip = most / (static_cast<float>(sqrt(*squared_norm)) + 1e-6f);
    return clip < 1.0f ? clip * factor : factor;
  }
};

__device__ __forceinline__ float& lane4(float4& v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

/// The packet of n <= 4 elements at p, with one access where it is whole and aligned.
__device__ __forceinline__ float4 load_packet(const float* p, int n) {
  if (n == 4 && aligned16(p)) return *reinterpret_cast<const float4*>(p);
  return make_float4(p[0], n > 1 ? p[1] : 0.0f, n > 2 ? p[2] : 0.0f, n > 3 ? p[3] : 0.0f);
}
__device__ __forceinline__ void store_packet(float* p, int n, float4 v) {
  if (n == 4 && aligned16(p)) {
    __stwb(reinterpret_cast<float4*>(p), v);  // an assignment would become four stores
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (i < n) p[i] = lane4(v, i);
  }
}

}  // namespace expctr::cuda
