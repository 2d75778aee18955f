// Softmax over rows. A row is read once into registers (a warp a row up to 256 packets of 16 bytes, 256 threads up to 2,048, or 1,024 of
// bf16), reduced there and written once: 8 bytes an element in f32, 4 in bf16. Wider rows take 512 threads, which hold 12 packets each
// (bf16: 8) in registers and 20 in 160 KiB of shared memory, together 65,536 columns of f32 or 114,688 of bf16; what does not fit, and rows
// that are not whole packets and longer than 128 of them, is read again. Sums relative to a running maximum: Milakov and Gimelshein 2018.
// Two exponentials an element: bound by memory. Backward holds y and dy, so fewer columns (45,056 of f32: at 49,152 columns 8 % of them are
// read twice; 73,728 of bf16); 16 bytes an element in f32. Masks add a byte an entry.
#include "base/kernels/softmax.h"
#include "cuda/elements.cuh"
#include "cuda/online_softmax.cuh"

namespace expctr::cuda {

namespace {

/// Shape and masks of a call; see SoftmaxForward.
struct SoftmaxRows {
  float scale;
  bool logarithm;
  std::int64_t rows;
  int columns;
  const std::uint8_t* mask;
  std::uint32_t rows_per_mask;  ///< 32 bits: a division of 64 is a call, around which registers spill
  const std::int32_t* lengths;
  std::uint32_t rows_per_length;
};

/// The entries of one row that count; Masked: there is a mask or a length.
template <bool Masked>
struct RowMask {
  const std::uint8_t* mask = nullptr;
  int length;
  __device__ __forceinline__ RowMask(const SoftmaxRows& s, std::int64_t row) : length(s.columns) {
    if (!Masked) return;
    if (s.mask != nullptr) mask = s.mask + static_cast<std::uint32_t>(row) / s.rows_per_mask * static_cast<std::int64_t>(s.columns);
    if (s.lengths != nullptr) length = min(max(s.lengths[static_cast<std::uint32_t>(row) / s.rows_per_length], 0), s.columns);
  }
  __device__ __forceinline__ bool counts(int column) const {
    if (!Masked) return column < length;
    return column < length && (mask == nullptr || mask[column] != 0);
  }
};

/// A packet of x with minus infinity where entries do not count.
template <class Access, bool Masked, class T>
__device__ __forceinline__ Packet<T> load_entries(const T* x, const RowMask<Masked>& mask, int lane, int p) {
  Packet<T> packet = Access::load(x, mask.length, lane, p, -INFINITY);
  if (Masked) {
#pragma unroll
    for (int j = 0; j < Access::size; ++j)
      if (!mask.counts(Access::column(lane, p, j))) packet.set(j, -INFINITY);
  }
  return packet;
}

/// How entries become results: e^(x scale - most) inverse, or its logarithm.
struct RowTotals {
  float most, inverse, log_total;
};

template <class Access, bool Masked, class T>
__device__ __forceinline__ void store_results(const SoftmaxRows& s, const RowMask<Masked>& mask, const RowTotals& totals,
                                              const Packet<T>& entries, T* y, int lane, int p) {
  Packet<T> result = {};
#pragma unroll
  for (int j = 0; j < Access::size; ++j) {
    const float x = entries.get(j);
    float value = totals.most == -INFINITY ? (isnan(x) ? x : 0.0f) : expf(x * s.scale - totals.most) * totals.inverse;
    if (s.logarithm) {
      value = x == -INFINITY ? x : (x * s.scale - totals.most) - totals.log_total;
      if (Masked && !mask.counts(Access::column(lane, p, j))) value = 0.0f;
    }
    result.set(j, value);
  }
  Access::store(y, s.columns, lane, p, result);
}

/// What an element of dy adds to the sum of its row: y dy, or dy where the entry counts; and what it gives to dx.
template <bool Masked>
__device__ __forceinline__ float backward_term(const SoftmaxRows& s, const RowMask<Masked>& mask, int column, float y, float dy) {
  if (!s.logarithm) return y * dy;
  return !Masked || mask.counts(column) ? dy : 0.0f;
}
template <bool Masked>
__device__ __forceinline__ float backward_element(const SoftmaxRows& s, const RowMask<Masked>& mask, int column, float y, float dy,
                                                  float sum) {
  if (!s.logarithm) return s.scale * y * (dy - sum);
  return !Masked || mask.counts(column) ? s.scale * (dy - expf(y) * sum) : 0.0f;
}
template <class Access, bool Masked, class T>
__device__ __forceinline__ void add_gradients(const SoftmaxRows& s, const RowMask<Masked>& mask, const Packet<T>& y, const Packet<T>& dy,
                                              float sum, T* dx, int lane, int p) {
  Packet<T> result = Access::load(dx, s.columns, lane, p, 0.0f);
#pragma unroll
  for (int j = 0; j < Access::size; ++j)
    result.set(j, result.get(j) + backward_element(s, mask, Access::column(lane, p, j), y.get(j), dy.get(j), sum));
  Access::store(dx, s.columns, lane, p, result);
}

template <int Lanes>
__device__ __forceinline__ bool my_softmax_row(std::int64_t rows, std::int64_t& row, int& lane) {
  row = Lanes == 32 ? static_cast<std::int64_t>(blockIdx.x) * (block_threads / 32) + threadIdx.x / 32 : blockIdx.x;
  lane = static_cast<int>(threadIdx.x) % Lanes;
  return row < rows;
}

/// Rows that fit the registers, masked or not.
template <class T, int Lanes, int Packets, bool Vector>
__global__ void __launch_bounds__(block_threads, 1)  // one resident block is enough to ask for: left to itself ptxas spills a register
    softmax_kernel(SoftmaxRows s, const T* x, T* y) {
  using Access = RowPackets<T, Lanes, Vector>;
  __shared__ float shared[Lanes / 32];
  std::int64_t row;
  int lane;
  if (!my_softmax_row<Lanes>(s.rows, row, lane)) return;
  const RowMask<true> mask(s, row);
  x += row * s.columns;
  y += row * s.columns;
  Packet<T> entries[Packets];
#pragma unroll
  for (int p = 0; p < Packets; ++p) entries[p] = load_entries<Access>(x, mask, lane, p);
  float most = -INFINITY, sum = 0;
#pragma unroll
  for (int p = 0; p < Packets; ++p)
#pragma unroll
    for (int j = 0; j < Access::size; ++j) most = fmaxf(most, entries[p].get(j));
  most = row_reduce<Lanes, true>(most, shared) * s.scale;
#pragma unroll
  for (int p = 0; p < Packets; ++p) {
    if (most == -INFINITY || p * Access::span >= s.columns) break;
#pragma unroll
    for (int j = 0; j < Access::size; ++j) sum += expf(entries[p].get(j) * s.scale - most);
  }
  sum = row_reduce<Lanes>(sum, shared);
  const RowTotals totals{most, 1.0f / sum, logf(sum)};
#pragma unroll
  for (int p = 0; p < Packets; ++p) {
    if (p * Access::span >= s.columns) break;
    store_results<Access>(s, mask, totals, entries[p], y, lane, p);
  }
}

template <class T, int Lanes, int Packets, bool Vector>
__global__ void __launch_bounds__(block_threads) softmax_backward_kernel(SoftmaxRows s, const T* y, const T* dy, T* dx) {
  using Access = RowPackets<T, Lanes, Vector>;
  __shared__ float shared[Lanes / 32];
  std::int64_t row;
  int lane;
  if (!my_softmax_row<Lanes>(s.rows, row, lane)) return;
  const RowMask<true> mask(s, row);
  y += row * s.columns;
  dy += row * s.columns;
  dx += row * s.columns;
  Packet<T> values[Packets], gradients[Packets];
#pragma unroll
  for (int p = 0; p < Packets; ++p) {
    values[p] = Access::load(y, s.columns, lane, p, 0.0f);
    gradients[p] = Access::load(dy, s.columns, lane, p, 0.0f);
  }
  float sum = 0;
#pragma unroll
  for (int p = 0; p < Packets; ++p)
#pragma unroll
    for (int j = 0; j < Access::size; ++j) sum += backward_term(s, mask, Access::column(lane, p, j), values[p].get(j), gradients[p].get(j));
  sum = row_reduce<Lanes>(sum, shared);
#pragma unroll
  for (int p = 0; p < Packets; ++p) {
    if (p * Access::span >= s.columns) break;
    add_gradients<Access>(s, mask, values[p], gradients[p], sum, dx, lane, p);
  }
}

constexpr int wide_lanes = 512;
/// Packets of a thread of a wide block that stay in registers: elements of a bf16 packet take more of them to work on.
template <class T>
constexpr int wide_packets = std::is_same_v<T, float> ? 12 : 8;
/// Shared memory that every device of compute capability 8.0 and up grants a block, less a little for the reduction, and the packets of a
/// thread that it holds.
constexpr int waiting_bytes = 160 * 1024, waiting_packets = waiting_bytes / (wide_lanes * 16);

/// A row a block. A thread's first `Held` packets stay in registers, the next ones in shared memory, the rest is read again.
template <class T, int Held, bool Vector, bool Masked>
__global__ void __launch_bounds__(wide_lanes) softmax_wide_kernel(SoftmaxRows s, const T* x, T* y) {
  using Access = RowPackets<T, wide_lanes, Vector>;
  extern __shared__ uint4 waiting[];
  __shared__ float shared[wide_lanes / 32];
  const std::int64_t row = blockIdx.x;
  const int lane = threadIdx.x, packets = static_cast<int>(ceil_div(s.columns, Access::span)),
            kept = Held == 0 ? 0 : min(packets, Held + waiting_packets);
  const RowMask<Masked> mask(s, row);
  x += row * s.columns;
  y += row * s.columns;
  Packet<T> entries[Held == 0 ? 1 : Held];
  OnlineSum total;
#pragma unroll
  for (int p = 0; p < Held; ++p) {
    entries[p] = load_entries<Access>(x, mask, lane, p);
#pragma unroll
    for (int j = 0; j < Access::size; ++j) total.maximum = fmaxf(total.maximum, entries[p].get(j) * s.scale);
  }
  if (total.maximum != -INFINITY) {
#pragma unroll
    for (int p = 0; p < Held; ++p)
#pragma unroll
      for (int j = 0; j < Access::size; ++j) total.sum += expf(entries[p].get(j) * s.scale - total.maximum);
  }
#pragma unroll 1
  for (int p = Held; p < packets; ++p) {
    const Packet<T> packet = load_entries<Access>(x, mask, lane, p);
    if (p < kept) waiting[(p - Held) * wide_lanes + lane] = packet.raw();
#pragma unroll
    for (int j = 0; j < Access::size; ++j) total.add(packet.get(j) * s.scale);
  }
  const float most = row_reduce<wide_lanes, true>(total.maximum, shared), sum = row_reduce<wide_lanes>(total.sum_at(most), shared);
  const RowTotals totals{most, 1.0f / sum, logf(sum)};
#pragma unroll
  for (int p = 0; p < Held; ++p) store_results<Access>(s, mask, totals, entries[p], y, lane, p);
  for (int p = Held; p < packets; ++p) {
    const Packet<T> packet = p < kept ? Packet<T>::of(waiting[(p - Held) * wide_lanes + lane]) : load_entries<Access>(x, mask, lane, p);
    store_results<Access>(s, mask, totals, packet, y, lane, p);
  }
}

/// The same for y and dy, which share the shared memory packet by packet.
template <class T, int Held, bool Vector, bool Masked>
__global__ void __launch_bounds__(wide_lanes) softmax_backward_wide_kernel(SoftmaxRows s, const T* y, const T* dy, T* dx) {
  using Access = RowPackets<T, wide_lanes, Vector>;
  extern __shared__ uint4 waiting[];
  __shared__ float shared[wide_lanes / 32];
  const std::int64_t row = blockIdx.x;
  const int lane = threadIdx.x, packets = static_cast<int>(ceil_div(s.columns, Access::span)),
            kept = Held == 0 ? 0 : min(packets, Held + waiting_packets / 2);
  const RowMask<Masked> mask(s, row);
  y += row * s.columns;
  dy += row * s.columns;
  dx += row * s.columns;
  Packet<T> values[Held == 0 ? 1 : Held], gradients[Held == 0 ? 1 : Held];
  float sum = 0;
#pragma unroll
  for (int p = 0; p < Held; ++p) {
    values[p] = Access::load(y, s.columns, lane, p, 0.0f);
    gradients[p] = Access::load(dy, s.columns, lane, p, 0.0f);
#pragma unroll
    for (int j = 0; j < Access::size; ++j) sum += backward_term(s, mask, Access::column(lane, p, j), values[p].get(j), gradients[p].get(j));
  }
#pragma unroll 1
  for (int p = Held; p < packets; ++p) {
    const Packet<T> value = Access::load(y, s.columns, lane, p, 0.0f), gradient = Access::load(dy, s.columns, lane, p, 0.0f);
    if (p < kept) {
      waiting[2 * (p - Held) * wide_lanes + lane] = value.raw();
      waiting[(2 * (p - Held) + 1) * wide_lanes + lane] = gradient.raw();
    }
#pragma unroll
    for (int j = 0; j < Access::size; ++j) sum += backward_term(s, mask, Access::column(lane, p, j), value.get(j), gradient.get(j));
  }
  sum = row_reduce<wide_lanes>(sum, shared);
#pragma unroll
  for (int p = 0; p < Held; ++p) add_gradients<Access>(s, mask, values[p], gradients[p], sum, dx, lane, p);
  for (int p = Held; p < packets; ++p) {
    const bool held = p < kept;
    const Packet<T> value = held ? Packet<T>::of(waiting[2 * (p - Held) * wide_lanes + lane]) : Access::load(y, s.columns, lane, p, 0.0f);
    const Packet<T> gradient =
        held ? Packet<T>::of(waiting[(2 * (p - Held) + 1) * wide_lanes + lane]) : Access::load(dy, s.columns, lane, p, 0.0f);
    add_gradients<Access>(s, mask, value, gradient, sum, dx, lane, p);
  }
}

SoftmaxRows rows_of(const char* kernel, double scale, bool logarithm, const View& x, const View& mask, const View& lengths) {
  require(kernel, DType::u8, {&mask});
  require(kernel, DType::i32, {&lengths});
  require_columns(kernel, x.width());
  SoftmaxRows s{static_cast<float>(scale), logarithm, x.rows(), static_cast<int>(x.width()), nullptr, 1, nullptr, 1};
  const std::int64_t masks = mask.empty() ? 1 : mask.rows(), groups = lengths.empty() ? 1 : lengths.size();
  if (s.rows > 0x7FFFFFFF) throw ShapeError(std::string("cuda: ") + kernel + ": " + std::to_string(s.rows) + " rows", "split the rows");
  if (masks == 0 || groups == 0 || s.rows % masks != 0 || s.rows % groups != 0 || (!mask.empty() && mask.width() != s.columns))
    throw ShapeError(std::string("cuda: ") + kernel + ": the mask does not fit the rows", "see base/kernels/softmax.h");
  s.mask = mask.as<std::uint8_t>();
  s.rows_per_mask = static_cast<std::uint32_t>(s.rows / masks);
  s.lengths = lengths.as<std::int32_t>();
  s.rows_per_length = static_cast<std::uint32_t>(s.rows / groups);
  return s;
}

template <int Lanes, int Packets>
struct RowPlan {
  static constexpr int lanes = Lanes, packets = Packets;
};

/// Calls f(RowPlan) with the smallest group that holds a row of this many packets in registers; false where none does. Rows that are not
/// whole packets are held by a warp at most, four packets a lane.
template <class T, bool Vector, class F>
bool dispatch_row_plan(std::int64_t packets, F f) {
  if (packets <= 32) {
    f(RowPlan<32, 1>{});
    return true;
  }
  if constexpr (Vector) {
    if (packets <= 32 * 8) {
      f(RowPlan<32, 8>{});
      return true;
    }
    constexpr int most = std::is_same_v<T, float> ? 8 : 4;  // elements of a bf16 packet take more registers to work on
    if (packets <= 256 * most) {
      f(RowPlan<256, most>{});
      return true;
    }
  } else if (packets <= 32 * 4) {
    f(RowPlan<32, 4>{});
    return true;
  }
  return false;
}

template <int Lanes>
unsigned row_blocks(std::int64_t rows) {
  return blocks_for(rows, Lanes == 32 ? block_threads / 32 : 1);
}

/// Launches a kernel for wide rows with its shared memory.
template <class... Parameters, class... Arguments>
void launch_wide(void (*kernel)(Parameters...), std::int64_t rows, bool waiting, Stream stream, Arguments... arguments) {
  const int bytes = waiting ? waiting_bytes : 0;
  if (waiting)
    EXPCTR_CUDA_CHECK(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  kernel<<<blocks_for(rows, 1), wide_lanes, bytes, native(stream)>>>(arguments...);
}

/// Whether rows go beyond the registers of a wide block.
template <class T>
bool needs_waiting(const SoftmaxRows& s) {
  return s.columns > wide_lanes * wide_packets<T> * packet_size<T>;
}

}  // namespace

template <>
void run(const SoftmaxForward& args, Stream stream) {
  require_stored("softmax", {&args.x, &args.y});
  if (args.x.size() == 0) return;
  const SoftmaxRows s = rows_of("softmax", args.scale, args.logarithm, args.x, args.mask, args.lengths);
  with_storage(args.x.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const T* x = args.x.as<T>();
    T* y = args.y.as<T>();
    with_bool(packed_rows(s.columns, args.x.dtype, {x, y}), [&](auto vector) {
      constexpr bool packed = decltype(vector)::value;
      const bool held = dispatch_row_plan<T, packed>(ceil_div(s.columns, packet_size<T>), [&](auto plan) {
        using Plan = decltype(plan);
        softmax_kernel<T, Plan::lanes, Plan::packets, packed>
            <<<row_blocks<Plan::lanes>(s.rows), block_threads, 0, native(stream)>>>(s, x, y);
      });
      if (held) return;
      if constexpr (packed)
        with_bool(s.mask != nullptr || s.lengths != nullptr, [&](auto masked) {
          launch_wide(softmax_wide_kernel<T, wide_packets<T>, true, decltype(masked)::value>, s.rows, needs_waiting<T>(s), stream, s, x, y);
        });
      else
        launch_wide(softmax_wide_kernel<T, 0, false, true>, s.rows, false, stream, s, x, y);
    });
  });
  check_launch("softmax");
}

template <>
void run(const SoftmaxBackward& args, Stream stream) {
  require_stored("softmax_backward", {&args.y, &args.dy, &args.dx});
  if (args.y.size() == 0) return;
  const SoftmaxRows s = rows_of("softmax_backward", args.scale, args.logarithm, args.y, args.mask, args.lengths);
  with_storage(args.y.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const T *y = args.y.as<T>(), *dy = args.dy.as<T>();
    T* dx = args.dx.as<T>();
    with_bool(packed_rows(s.columns, args.y.dtype, {y, dy, dx}), [&](auto vector) {
      constexpr bool packed = decltype(vector)::value;
      const bool held = dispatch_row_plan<T, packed>(ceil_div(s.columns, packet_size<T>), [&](auto plan) {
        using Plan = decltype(plan);
        softmax_backward_kernel<T, Plan::lanes, Plan::packets, packed>
            <<<row_blocks<Plan::lanes>(s.rows), block_threads, 0, native(stream)>>>(s, y, dy, dx);
      });
      if (held) return;
      if constexpr (packed)
        with_bool(s.mask != nullptr || s.lengths != nullptr, [&](auto masked) {
          launch_wide(softmax_backward_wide_kernel<T, wide_packets<T>, true, decltype(masked)::value>, s.rows, needs_waiting<T>(s), stream,
                      s, y, dy, dx);
        });
      else
        launch_wide(softmax_backward_wide_kernel<T, 0, false, true>, s.rows, false, stream, s, y, dy, dx);
    });
  });
  check_launch("softmax_backward");
}

}  // namespace expctr::cuda
