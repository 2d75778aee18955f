// Copies between memory layouts. Reads and writes each element once: 2 x the element size in bytes (3 x when accumulating), bound by memory.
// Three kernels: (1) both sides run along one axis: packets of 16 bytes where extents, strides and pointers allow, else elements; (2) x runs
// along another axis than y: squares through shared memory, 32 x 32 elements (64 x 64 of 2 bytes), rows of 33 (66), so that both the 16-byte
// loads and the 16-byte stores touch all banks once; (3) without that alignment the same squares element by element. No atomics: an element
// is written by one thread.
#include <algorithm>

#include "base/blocks.h"
#include "base/kernels/layout.h"
#include "base/strided.h"
#include "cuda/launch.cuh"

namespace expctr::cuda {

namespace {

struct Bf16 {
  std::uint16_t bits;
};

struct Put {
  static constexpr bool reads = false;
  template <class T>
  static __device__ __forceinline__ T of(T, T x) {
    return x;
  }
};
struct Add {
  static constexpr bool reads = true;
  template <class T>
  static __device__ __forceinline__ T of(T y, T x) {
    return y + x;
  }
  static __device__ __forceinline__ Bf16 of(Bf16 y, Bf16 x) { return {bf16_of_float(float_of_bf16(y.bits) + float_of_bf16(x.bits))}; }
};

/// N neighbouring elements, moved by one access.
template <class T, int N>
struct alignas(sizeof(T) * N) Packet {
  T part[N];
};

template <class Store, class T, int N>
__device__ __forceinline__ void store(Packet<T, N>* y, Packet<T, N> x) {
  if (Store::reads) {
    const Packet<T, N> old = *y;
#pragma unroll
    for (int k = 0; k < N; ++k) x.part[k] = Store::of(old.part[k], x.part[k]);
  }
  *y = x;
}

/// One packet a thread; loop counts packets, x and y are in order of y. Index: 32 bits where they suffice, because of the divisions.
template <class Store, class T, int N, class Index>
__global__ void __launch_bounds__(block_threads) copy_kernel(StridedLoop loop, Index packets, const Packet<T, N>* x, Packet<T, N>* y) {
  const Index index = static_cast<Index>(blockIdx.x) * block_threads + threadIdx.x;
  if (index >= packets) return;
  Index rest = index;
  std::int64_t from = 0, to = 0;
#pragma unroll
  for (int i = max_rank - 1; i >= 0; --i) {
    if (i >= loop.rank) continue;
    const Index extent = static_cast<Index>(loop.extent[i]), at = rest % extent;
    rest /= extent;
    from += static_cast<std::int64_t>(at) * loop.x[i];
    to += static_cast<std::int64_t>(at) * loop.y[i];
  }
  store<Store>(y + to, x[from]);
}

/// The axes of a copy by squares: x lies closest along `across`, y along `along`; the others are walked by whole blocks.
struct Squares {
  StridedLoop batch;
  std::int64_t across, along, x_across, x_along, y_across, y_along;
  std::int64_t across_squares, along_squares;
};

template <class T, int N>
struct Square {
  static constexpr int side = sizeof(T) * N == 16 && sizeof(T) == 2 ? 64 : 32, packets = side / N, pitch = side + (side == 64 ? 2 : 1);
};

template <class Store, class T, int N>
__global__ void __launch_bounds__(block_threads) transpose_kernel(Squares s, const T* x, T* y) {
  using Shape = Square<T, N>;
  constexpr int side = Shape::side, pitch = Shape::pitch, packets = Shape::packets;
  __shared__ T tile[side * pitch];  // [across][along]
  std::int64_t rest = blockIdx.x;
  const std::int64_t along0 = rest % s.along_squares * side;
  rest /= s.along_squares;
  const std::int64_t across0 = rest % s.across_squares * side;
  rest /= s.across_squares;
#pragma unroll
  for (int i = max_rank - 1; i >= 0; --i) {
    if (i >= s.batch.rank) continue;
    const std::int64_t at = rest % s.batch.extent[i];
    rest /= s.batch.extent[i];
    x += at * s.batch.x[i];
    y += at * s.batch.y[i];
  }
#pragma unroll
  for (int q = threadIdx.x; q < side * packets; q += block_threads) {
    // A warp of 16-bit packets takes 4 packets of 8 rows: two neighbouring rows share a word of the tile, and all 32 banks are used.
    const int lane = q % 32, warp = q / 32;
    const int v = side == 64 ? lane % 4 + 4 * (warp % 2) : q % packets, r = side == 64 ? lane / 4 + 8 * (warp / 2) : q / packets;
    const std::int64_t across = across0 + v * N, along = along0 + r;
    if (across >= s.across || along >= s.along) continue;
    const Packet<T, N> loaded = *reinterpret_cast<const Packet<T, N>*>(x + across * s.x_across + along * s.x_along);
#pragma unroll
    for (int k = 0; k < N; ++k) tile[(v * N + k) * pitch + r] = loaded.part[k];
  }
  __syncthreads();
#pragma unroll
  for (int q = threadIdx.x; q < side * packets; q += block_threads) {
    const int v = q % packets, r = q / packets;
    const std::int64_t across = across0 + r, along = along0 + v * N;
    if (across >= s.across || along >= s.along) continue;
    Packet<T, N> stored;
#pragma unroll
    for (int k = 0; k < N; ++k) stored.part[k] = tile[r * pitch + v * N + k];
    store<Store>(reinterpret_cast<Packet<T, N>*>(y + across * s.y_across + along * s.y_along), stored);
  }
}

template <class Store, class T, int N>
void copy_packets(StridedLoop loop, const void* x, void* y, Stream stream) {
  if (loop.rank == 0) loop.extent[loop.rank++] = 1;
  const int last = loop.rank - 1;
  if (N > 1) {  // strides in packets
    loop.extent[last] /= N;
    for (int i = 0; i < last; ++i) {
      loop.x[i] /= N;
      loop.y[i] /= N;
    }
  }
  std::int64_t packets = 1;
  for (int i = 0; i < loop.rank; ++i) packets *= loop.extent[i];
  const unsigned blocks = blocks_for(packets, block_threads);
  const auto* from = static_cast<const Packet<T, N>*>(x);
  auto* to = static_cast<Packet<T, N>*>(y);
  if (packets < (std::int64_t{1} << 31))
    copy_kernel<Store, T, N><<<blocks, block_threads, 0, native(stream)>>>(loop, static_cast<std::uint32_t>(packets), from, to);
  else
    copy_kernel<Store, T, N><<<blocks, block_threads, 0, native(stream)>>>(loop, static_cast<std::uint64_t>(packets), from, to);
}

template <class Store, class T, int N>
void copy_squares(const StridedLoop& loop, int across, const void* x, void* y, Stream stream) {
  const int last = loop.rank - 1, side = Square<T, N>::side;
  Squares s{};
  s.across = loop.extent[across];
  s.along = loop.extent[last];
  s.x_across = loop.x[across];
  s.y_across = loop.y[across];
  s.x_along = loop.x[last];
  s.y_along = loop.y[last];
  s.across_squares = ceil_div(s.across, side);
  s.along_squares = ceil_div(s.along, side);
  std::int64_t blocks = s.across_squares * s.along_squares;
  for (int i = 0; i < last; ++i) {
    if (i == across) continue;
    const int at = s.batch.rank++;
    s.batch.extent[at] = loop.extent[i];
    s.batch.x[at] = loop.x[i];
    s.batch.y[at] = loop.y[i];
    blocks *= loop.extent[i];
  }
  transpose_kernel<Store, T, N>
      <<<blocks_for(blocks, 1), block_threads, 0, native(stream)>>>(s, static_cast<const T*>(x), static_cast<T*>(y));
}

/// Whether every stride of one side but that of axis `close` is whole packets, and axis `close` is packed.
bool in_packets(const StridedLoop& loop, const std::int64_t (&stride)[max_rank], int close, const void* pointer, int n) {
  bool whole = aligned16(pointer) && stride[close] == 1 && loop.extent[close] % n == 0;
  for (int i = 0; i < loop.rank; ++i) whole = whole && (i == close || stride[i] % n == 0);
  return whole;
}

template <class Store, class T>
void copy(const CopyStrided& args, Stream stream) {
  const StridedLoop loop = strided_loop(args.x, args.y);
  constexpr int n = 16 / sizeof(T);
  const int last = loop.rank - 1;
  int across = -1;  // where x lies closest, if that is not the innermost axis
  for (int i = 0; i < last; ++i)
    if (loop.x[i] != 0 && (across < 0 || loop.x[i] < loop.x[across])) across = i;
  if (across >= 0 && (loop.x[last] == 0 || loop.x[across] >= loop.x[last])) across = -1;
  if (across < 0) {
    const bool whole = last >= 0 && in_packets(loop, loop.x, last, args.x.data, n) && in_packets(loop, loop.y, last, args.y.data, n);
    if (whole)
      copy_packets<Store, T, n>(loop, args.x.data, args.y.data, stream);
    else
      copy_packets<Store, T, 1>(loop, args.x.data, args.y.data, stream);
  } else {
    bool whole = false;
    if constexpr (sizeof(T) == 2 || sizeof(T) == 4) {
      whole = in_packets(loop, loop.x, across, args.x.data, n) && in_packets(loop, loop.y, last, args.y.data, n);
      if (whole) copy_squares<Store, T, n>(loop, across, args.x.data, args.y.data, stream);
    }
    if (!whole) copy_squares<Store, T, 1>(loop, across, args.x.data, args.y.data, stream);
  }
  check_launch("copy_strided");
}

}  // namespace

template <>
void run(const CopyStrided& args, Stream stream) {
  const View &x = args.x, &y = args.y;
  bool fits = x.rank == y.rank && x.dtype == y.dtype && !is_quantised(y.dtype);
  for (int i = 0; fits && i < y.rank; ++i) fits = x.shape[i] == y.shape[i] && (y.shape[i] <= 1 || y.stride[i] != 0);
  fits = fits && (!args.accumulate || is_floating(y.dtype) || y.dtype == DType::bf16);
  if (!fits) throw ShapeError("cuda: copy_strided takes x and y of one shape and one plain dtype (f32, f64 or bf16 to accumulate); y repeats no element");
  if (y.size() == 0) return;
  if (args.accumulate) {
    if (y.dtype == DType::f32) return copy<Add, float>(args, stream);
    if (y.dtype == DType::f64) return copy<Add, double>(args, stream);
    return copy<Add, Bf16>(args, stream);
  }
  switch (dtype_traits(y.dtype).block_bytes) {
    case 1:
      return copy<Put, std::uint8_t>(args, stream);
    case 2:
      return copy<Put, std::uint16_t>(args, stream);
    case 4:
      return copy<Put, std::uint32_t>(args, stream);
    default:
      return copy<Put, std::uint64_t>(args, stream);
  }
}

}  // namespace expctr::cuda
