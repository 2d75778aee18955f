// Broadcasting of K operands against one shape: aligned at the right, neighbouring axes merged where all operands treat them alike.
#pragma once

#include <algorithm>

#include "cuda/map.cuh"

namespace expctr::cuda {

/// Up to max_rank merged axes; a stride of 0 repeats the operand along the axis.
template <int K>
struct Broadcast {
  int rank = 0;
  std::int64_t extent[max_rank] = {}, stride[K][max_rank] = {};

  /// Adds to at[k] where operand k's element lies, for linear index i over the first `axes` axes.
  __device__ __forceinline__ void add_offsets(int axes, std::int64_t i, std::int64_t (&at)[K]) const {
#pragma unroll
    for (int axis = max_rank - 1; axis >= 0; --axis) {
      if (axis >= axes) continue;
      std::int64_t rest;
      const std::int64_t quotient = divide(i, extent[axis], rest);
#pragma unroll
      for (int k = 0; k < K; ++k) at[k] += rest * stride[k][axis];
      i = quotient;
    }
  }
};

/// An absent operand (null data) is repeated along every axis.
template <int K>
Broadcast<K> make_broadcast(const View& y, const View (&operands)[K]) {
  Broadcast<K> result;
  std::int64_t step[K];
  std::fill(step, step + K, std::int64_t{1});
  for (int axis = y.rank - 1; axis >= 0; --axis) {
    const std::int64_t extent = y.shape[axis];
    std::int64_t stride[K];
    for (int k = 0; k < K; ++k) {
      const View& operand = operands[k];
      const int own = axis - (y.rank - operand.rank);
      const std::int64_t own_extent = operand.empty() || own < 0 ? 1 : operand.shape[own];
      if (own_extent != extent && own_extent != 1)
        throw ShapeError("cuda: broadcasting: an extent of " + std::to_string(own_extent) + " does not give " + std::to_string(extent),
                         "extents must be equal or 1");
      stride[k] = own_extent == 1 ? 0 : step[k];
      step[k] *= own_extent;
    }
    if (extent == 1) continue;
    // Axes are collected from the right; this one joins the last one collected when the strides of all operands go on.
    const int last = result.rank - 1;
    bool joins = result.rank > 0;
    for (int k = 0; joins && k < K; ++k)
      joins = result.stride[k][last] == 0 ? stride[k] == 0 : stride[k] == result.stride[k][last] * result.extent[last];
    if (joins) {
      result.extent[last] *= extent;
      continue;
    }
    result.extent[result.rank] = extent;
    for (int k = 0; k < K; ++k) result.stride[k][result.rank] = stride[k];
    ++result.rank;
  }
  if (result.rank == 0) {
    result.rank = 1;
    result.extent[0] = 1;
  }
  std::reverse(result.extent, result.extent + result.rank);
  for (int k = 0; k < K; ++k) std::reverse(result.stride[k], result.stride[k] + result.rank);
  return result;
}

/// y = f(operands) (Accumulate: y += f). A thread takes N neighbours of the last axis in `each` rows of the axis before, so that an
/// operand that is repeated along it is read once for all of them.
template <int N, class S, bool Accumulate, int K, class F>
__global__ void __launch_bounds__(block_threads, 4)
    broadcast_kernel(F f, const __grid_constant__ Broadcast<K> shape, int each, std::int64_t threads, Pointers<const S, K> operands, S* y) {
  const std::int64_t thread = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x;
  if (thread >= threads) return;
  const int last = shape.rank - 1;
  const std::int64_t width = shape.extent[last], rows = last == 0 ? 1 : shape.extent[last - 1];
  std::int64_t packet, chunk, at[K] = {};
  const std::int64_t outer = divide(divide(thread, ceil_div(width, N), packet), ceil_div(rows, each), chunk);
  const std::int64_t first = chunk * each, end = first + each < rows ? first + each : rows, column = packet * N;
  shape.add_offsets(last - 1, outer, at);
  y += (outer * rows + first) * width + column;
  float in[K][N];
  for (std::int64_t row = first; row < end; ++row, y += width) {
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const std::int64_t down = last == 0 ? 0 : shape.stride[k][last - 1], along = shape.stride[k][last];
      if (row != first && down == 0) continue;
      if (operands.at[k] == nullptr) {
#pragma unroll
        for (int i = 0; i < N; ++i) in[k][i] = 0.0f;
        continue;
      }
      const S* from = operands.at[k] + at[k] + row * down + column * along;
      if (along != 0) {
        load_packet(from, in[k]);
      } else {
        const float value = widen(*from);
#pragma unroll
        for (int i = 0; i < N; ++i) in[k][i] = value;
      }
    }
    float out[1][N];
    apply_packet(f, in, out);
    if (Accumulate) {
      float old[N];
      load_packet(y, old);
#pragma unroll
      for (int i = 0; i < N; ++i) out[0][i] += old[i];
    }
    store_packet(y, out[0]);
  }
}

template <class S, bool Accumulate, int K, class F>
void broadcast_storage(const char* name, F f, const Broadcast<K>& axes, const View (&operands)[K], const View& y, Stream stream) {
  const std::int64_t n = y.size();
  if (n == 0) return;
  const int last = axes.rank - 1;
  constexpr int packet = packet_size<S>;
  bool vector = axes.extent[last] % packet == 0 && aligned16(y.data), repeated = false;
  Pointers<const S, K> from;
  for (int k = 0; k < K; ++k) {
    from.at[k] = operands[k].template as<const S>();
    if (last > 0) repeated = repeated || (axes.stride[k][last - 1] == 0 && axes.stride[k][last] != 0);
    if (axes.stride[k][last] == 0) continue;
    vector = vector && aligned16(operands[k].data);
    for (int axis = 0; axis < last; ++axis) vector = vector && axes.stride[k][axis] % packet == 0;  // else rows start unaligned
  }
  const std::int64_t rows = last == 0 ? 1 : axes.extent[last - 1];
  // Few rows each where there is little work, else the device would not be full.
  const int each = repeated && n >= (std::int64_t{1} << 18) ? static_cast<int>(std::min<std::int64_t>(rows, 16)) : 1;
  const std::int64_t outer = n / (rows * axes.extent[last]), chunks = outer * ceil_div(rows, each);
  const auto launch = [&](auto neighbours) {
    constexpr int N = decltype(neighbours)::value;
    const std::int64_t threads = chunks * ceil_div(axes.extent[last], N);
    broadcast_kernel<N, S, Accumulate>
        <<<blocks_for(threads, block_threads), block_threads, 0, native(stream)>>>(f, axes, each, threads, from, y.as<S>());
  };
  if (vector)
    launch(std::integral_constant<int, packet>{});
  else
    launch(std::integral_constant<int, 1>{});
  check_launch(name);
}

/// y (+)= f(operands), which are broadcast to y's shape; absent ones are 0. All are activations of one dtype.
template <bool Accumulate, int K, class F>
void broadcast(const char* name, DType dtype, F f, const View (&operands)[K], const View& y, Stream stream) {
  const Broadcast<K> axes = make_broadcast(y, operands);
  dispatch_activation(dtype, [&](auto storage) { broadcast_storage<decltype(storage), Accumulate>(name, f, axes, operands, y, stream); });
}

}  // namespace expctr::cuda
