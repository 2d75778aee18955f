// Rows handled by a group of threads (a warp, or a block of 256): loops over columns with accesses of up to 16 bytes, rows held in
// registers between two passes, and sums that every lane receives.
#pragma once

#include <algorithm>

#include "cuda/packet.cuh"

namespace expctr::cuda {

/// Sum (or maximum) over the lanes of the group, the same bits in every lane. `shared` holds 8 floats when Lanes is 256.
template <int Lanes, bool Maximum = false>
__device__ __forceinline__ float group_reduce(float value, float* shared) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    const float other = __shfl_xor_sync(0xFFFFFFFFu, value, offset);
    value = Maximum ? fmaxf(value, other) : value + other;
  }
  if (Lanes == 32) return value;
  __syncthreads();  // `shared` may still be read from the call before
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  value = shared[0];
#pragma unroll
  for (int i = 1; i < Lanes / 32; ++i) value = Maximum ? fmaxf(value, shared[i]) : value + shared[i];
  return value;
}

template <int N, class S>
__device__ __forceinline__ bool aligned_for(const S* pointer) {
  constexpr std::uintptr_t bytes = N * sizeof(S) < 16 ? N * sizeof(S) : 16;
  return reinterpret_cast<std::uintptr_t>(pointer) % bytes == 0;
}

/// One packet of each of several arrays.
template <int N, class... S>
struct Loaded;
template <int N>
struct Loaded<N> {
  __device__ __forceinline__ explicit Loaded(std::int64_t) {}
  template <class F, class... Values>
  __device__ __forceinline__ auto call(int, F& f, Values... values) const {
    return f(values...);
  }
};
template <int N, class First, class... Rest>
struct Loaded<N, First, Rest...> {
  float values[N];
  Loaded<N, Rest...> rest;
  __device__ __forceinline__ Loaded(std::int64_t column, const First* first, const Rest*... others) : rest(column, others...) {
    load_packet(first + column, values);
  }
  /// f(given..., element i of every packet).
  template <class F, class... Values>
  __device__ __forceinline__ auto call(int i, F& f, Values... given) const {
    return rest.call(i, f, given..., values[i]);
  }
};

/// f(column, values...) for this lane's columns of the rows that start at `pointers`: float or Bf16 arrays.
template <int Lanes, class F, class... S>
__device__ __forceinline__ void visit_row(int lane, std::int64_t width, F f, const S*... pointers) {
  constexpr int N = common_packet<S...>;
  if (width % N == 0 && (aligned_for<N>(pointers) && ...)) {
    for (std::int64_t c = N * lane; c < width; c += N * Lanes) {
      const Loaded<N, S...> loaded(c, pointers...);
#pragma unroll
      for (int i = 0; i < N; ++i) loaded.call(i, f, c + i);
    }
  } else {
    for (std::int64_t c = lane; c < width; c += Lanes) f(c, widen(pointers[c])...);
  }
}

/// f(const float (&values)[N]) for this lane's packets of the row; N = 1 where it does not consist of packets.
template <int Lanes, class F, class S>
__device__ __forceinline__ void visit_packets(int lane, std::int64_t width, F f, const S* row) {
  constexpr int N = packet_size<S>;
  if (width % N == 0 && aligned_for<N>(row)) {
    for (std::int64_t c = N * lane; c < width; c += N * Lanes) {
      float values[N];
      load_packet(row + c, values);
      f(values);
    }
  } else {
    for (std::int64_t c = lane; c < width; c += Lanes) {
      const float values[1] = {widen(row[c])};
      f(values);
    }
  }
}

/// y[column] = f(column, values...).
template <int Lanes, class Y, class F, class... S>
__device__ __forceinline__ void map_row(int lane, std::int64_t width, Y* y, F f, const S*... pointers) {
  constexpr int N = common_packet<Y, S...>;
  if (width % N == 0 && aligned_for<N>(y) && (aligned_for<N>(pointers) && ...)) {
    for (std::int64_t c = N * lane; c < width; c += N * Lanes) {
      const Loaded<N, S...> loaded(c, pointers...);
      float result[N];
#pragma unroll
      for (int i = 0; i < N; ++i) result[i] = loaded.call(i, f, c + i);
      store_packet(y + c, result);
    }
  } else {
    for (std::int64_t c = lane; c < width; c += Lanes) store_element(y + c, f(c, widen(pointers[c])...));
  }
}

/// Rows up to this width take a warp, wider ones a block.
constexpr std::int64_t warp_row_width = 1024;

/// Calls launch(integral constant Lanes, blocks) with the group size for the width.
template <class Launch>
void dispatch_rows(std::int64_t rows, std::int64_t width, Launch launch) {
  if (rows == 0) return;
  if (width <= warp_row_width)
    launch(std::integral_constant<int, 32>{}, blocks_for(rows, block_threads / 32));
  else
    launch(std::integral_constant<int, 256>{}, blocks_for(rows, 1));
}

/// What a lane holds of a row: Packets packets of N elements, packet p at column (p x Lanes + lane) x N. Past the row's end: `outside`.
template <int Lanes, int N, int Packets>
struct HeldRow {
  static constexpr int lanes = Lanes, packet = N, packets = Packets;
  float values[Packets][N];

  static __device__ __forceinline__ std::int64_t column(int lane, int p) { return static_cast<std::int64_t>(p * Lanes + lane) * N; }

  template <class S>
  __device__ __forceinline__ void load(const S* row, int lane, std::int64_t width, float outside = 0.0f) {
#pragma unroll
    for (int p = 0; p < Packets; ++p) {
      const std::int64_t c = column(lane, p);
      if (c < width) {
        load_packet(row + c, values[p]);
      } else {
#pragma unroll
        for (int i = 0; i < N; ++i) values[p][i] = outside;
      }
    }
  }

  template <class S>
  __device__ __forceinline__ void store(S* row, int lane, std::int64_t width) const {
#pragma unroll
    for (int p = 0; p < Packets; ++p) {
      const std::int64_t c = column(lane, p);
      if (c < width) store_packet(row + c, values[p]);
    }
  }
};

/// The widest row that held rows take, and the shared memory for what belongs to their columns.
constexpr std::int64_t held_row_width = 8192, held_parameter_bytes = 47 * 1024;  // 1 KiB is left for what kernels share besides

/// How a kernel over held rows is launched: groups of Held::lanes threads, each with `each` rows one after the other, so that a block
/// reads parameters of the columns once for many rows.
struct HeldLaunch {
  unsigned blocks = 0;
  int each = 1;
};

/// Calls launch(Held{}, HeldLaunch) with the form for rows of this width in storage S; false (and no call) where rows do not consist of
/// 16-byte packets, or they or the `parameters` vectors over their columns are too wide to be held: such rows are read twice.
template <class S, class Launch>
bool dispatch_held_rows(std::int64_t rows, std::int64_t width, int parameters, std::initializer_list<const View*> views, Launch launch) {
  constexpr int N = packet_size<S>;
  if (width > held_row_width || parameters * width * static_cast<std::int64_t>(sizeof(float)) > held_parameter_bytes) return false;
  if (!packets_fit<N>(width, views)) return false;
  if (rows == 0) return true;
  const auto call = [&](auto held, std::int64_t blocks_wanted) {
    const std::int64_t groups = block_threads / decltype(held)::lanes;
    HeldLaunch how;
    how.each = static_cast<int>(std::clamp<std::int64_t>(rows / (groups * blocks_wanted), 1, 16));
    how.blocks = blocks_for(rows, groups * how.each);
    launch(held, how);
  };
  if (width <= 256)
    call(HeldRow<32, N, 8 / N>{}, 264);
  else if (width <= warp_row_width)
    call(HeldRow<32, N, 32 / N>{}, 264);
  else
    call(HeldRow<256, N, 32 / N>{}, 264);
  return true;
}

}  // namespace expctr::cuda
