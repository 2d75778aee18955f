// Softmax over rows. A row is read once into registers (a warp, 256 or 512 threads a row, up to 24 packets of 16 bytes a thread, so 49,152
// columns of f32), reduced there and written once: 8 bytes an element in f32, 4 in bf16. Wider rows are read twice, the first time with a
// running maximum (Milakov and Gimelshein 2018). Two exponentials an element: bound by memory. Backward: y stays in registers, dy as well
// for rows of up to 12 packets a thread, else in shared memory as far as it goes (what does not fit is read again: 15 % of dy at 49,152
// columns of f32), 16 bytes an element in f32. All bound by memory. Masks add a byte an entry.
#include "base/kernels/softmax.h"

#include "cuda/elements.cuh"
#include "cuda/online_softmax.cuh"

namespace expctr::cuda {

namespace {

/// Shape and masks of a call; see SoftmaxForward.
struct SoftmaxRows {
  float scale;
  bool logarithm;
  std::int64_t rows, columns;
  const std::uint8_t* mask;
  std::int64_t rows_per_mask;
  const std::int32_t* lengths;
  std::int64_t rows_per_length;
};

/// The entries of one row that count.
struct RowMask {
  const std::uint8_t* mask;
  std::int64_t length;
  __device__ __forceinline__ RowMask(const SoftmaxRows& s, std::int64_t row) {
    mask = s.mask == nullptr ? nullptr : s.mask + row / s.rows_per_mask * s.columns;
    length = s.lengths == nullptr ? s.columns : s.lengths[row / s.rows_per_length];
    length = length < 0 ? 0 : length > s.columns ? s.columns : length;
  }
  __device__ __forceinline__ bool counts(std::int64_t column) const { return column < length && (mask == nullptr || mask[column] != 0); }
};

/// Threads of a block: rows of a warp share blocks of 256.
template <int Lanes>
constexpr int threads_of = Lanes == 32 ? block_threads : Lanes;

template <int Lanes>
__device__ __forceinline__ bool my_softmax_row(std::int64_t rows, std::int64_t& row, int& lane) {
  row = Lanes == 32 ? static_cast<std::int64_t>(blockIdx.x) * (block_threads / 32) + threadIdx.x / 32 : blockIdx.x;
  lane = static_cast<int>(threadIdx.x) % Lanes;
  return row < rows;
}

/// One element of the result. `x` is the entry, minus infinity where it does not count.
__device__ __forceinline__ float softmax_element(const SoftmaxRows& s, const RowMask& mask, std::int64_t column, float x, float most, float inverse,
                                                 float log_total) {
  if (!s.logarithm) return most == -INFINITY ? 0.0f : expf(x * s.scale - most) * inverse;
  if (!mask.counts(column)) return 0.0f;
  return x == -INFINITY ? x : (x * s.scale - most) - log_total;
}

template <class T, int Lanes, int Packets, bool Vector>
__global__ void __launch_bounds__(threads_of<Lanes>) softmax_kernel(SoftmaxRows s, const T* x, T* y) {
  using Access = RowPackets<T, Lanes, Vector>;
  __shared__ float shared[Lanes / 32];
  std::int64_t row;
  int lane;
  if (!my_softmax_row<Lanes>(s.rows, row, lane)) return;
  const RowMask mask(s, row);
  x += row * s.columns;
  y += row * s.columns;
  Packet<T> cached[Packets];
#pragma unroll
  for (int p = 0; p < Packets; ++p) cached[p] = Access::load(x, mask.length, lane, p, -INFINITY);
  float most = -INFINITY;
#pragma unroll
  for (int p = 0; p < Packets; ++p) {
#pragma unroll
    for (int j = 0; j < Access::size; ++j) {
      // A packet that the length cuts was read as a whole.
      if ((s.mask != nullptr || s.lengths != nullptr) && !mask.counts(Access::column(lane, p, j))) cached[p].set(j, -INFINITY);
      most = fmaxf(most, cached[p].get(j));
    }
  }
  most = row_reduce<Lanes, true>(most, shared) * s.scale;
  float sum = 0;
  if (most != -INFINITY) {
#pragma unroll
    for (int p = 0; p < Packets; ++p) {
      if (p * Access::span >= s.columns) break;
#pragma unroll
      for (int j = 0; j < Access::size; ++j) sum += expf(cached[p].get(j) * s.scale - most);
    }
  }
  sum = row_reduce<Lanes>(sum, shared);
  const float inverse = 1.0f / sum, log_total = logf(sum);
#pragma unroll
  for (int p = 0; p < Packets; ++p) {
    if (p * Access::span >= s.columns) break;
    Packet<T> result = {};
#pragma unroll
    for (int j = 0; j < Access::size; ++j)
      result.set(j, softmax_element(s, mask, Access::column(lane, p, j), cached[p].get(j), most, inverse, log_total));
    Access::store(y, s.columns, lane, p, result);
  }
}

constexpr int wide_lanes = 512;

/// Rows that do not fit the registers: read twice.
template <class T, bool Vector>
__global__ void __launch_bounds__(wide_lanes) softmax_wide_kernel(SoftmaxRows s, const T* x, T* y) {
  using Access = RowPackets<T, wide_lanes, Vector>;
  __shared__ float shared[wide_lanes / 32];
  const std::int64_t row = blockIdx.x, packets = ceil_div(s.columns, Access::span);
  const int lane = threadIdx.x;
  const RowMask mask(s, row);
  const bool masked = s.mask != nullptr || s.lengths != nullptr;
  x += row * s.columns;
  y += row * s.columns;
  OnlineSum total;
  for (std::int64_t p = 0; p < packets; ++p) {
    const Packet<T> packet = Access::load(x, mask.length, lane, p, -INFINITY);
#pragma unroll
    for (int j = 0; j < Access::size; ++j) {
      if (masked && !mask.counts(Access::column(lane, p, j))) continue;
      const float value = packet.get(j) * s.scale;
      total.add(value);
    }
  }
  const float most = row_reduce<wide_lanes, true>(total.maximum, shared);
  const float sum = row_reduce<wide_lanes>(total.sum_at(most), shared);
  const float inverse = 1.0f / sum, log_total = logf(sum);
  for (std::int64_t p = 0; p < packets; ++p) {
    const Packet<T> packet = Access::load(x, mask.length, lane, p, -INFINITY);
    Packet<T> result = {};
#pragma unroll
    for (int j = 0; j < Access::size; ++j) {
      const std::int64_t column = Access::column(lane, p, j);
      const float value = masked && !mask.counts(column) ? -INFINITY : packet.get(j);
      result.set(j, softmax_element(s, mask, column, value, most, inverse, log_total));
    }
    Access::store(y, s.columns, lane, p, result);
  }
}

/// What an element adds to the sum of its row: y dy, or dy where it counts.
__device__ __forceinline__ float backward_term(const SoftmaxRows& s, const RowMask& mask, std::int64_t column, float y, float dy) {
  if (!s.logarithm) return y * dy;
  return mask.counts(column) ? dy : 0.0f;
}
__device__ __forceinline__ float backward_element(const SoftmaxRows& s, const RowMask& mask, std::int64_t column, float y, float dy, float sum) {
  if (!s.logarithm) return s.scale * y * (dy - sum);
  return mask.counts(column) ? s.scale * (dy - expf(y) * sum) : 0.0f;
}

/// Where dy waits for the row's sum: in registers, or (Shared) packet by packet in shared memory, the packets after the first `kept` being
/// read again.
template <class T, int Lanes, int Packets, bool Vector, bool Shared>
__global__ void __launch_bounds__(threads_of<Lanes>) softmax_backward_kernel(SoftmaxRows s, int kept, const T* y, const T* dy, T* dx) {
  using Access = RowPackets<T, Lanes, Vector>;
  extern __shared__ uint4 waiting[];
  __shared__ float shared[Lanes / 32];
  std::int64_t row;
  int lane;
  if (!my_softmax_row<Lanes>(s.rows, row, lane)) return;
  const RowMask mask(s, row);
  y += row * s.columns;
  dy += row * s.columns;
  dx += row * s.columns;
  Packet<T> values[Packets], gradients[Shared ? 1 : Packets];
  float sum = 0;
#pragma unroll
  for (int p = 0; p < Packets; ++p) {
    if (p * Access::span >= s.columns) break;
    values[p] = Access::load(y, s.columns, lane, p, 0.0f);
    const Packet<T> gradient = Access::load(dy, s.columns, lane, p, 0.0f);
    if (!Shared)
      gradients[Shared ? 0 : p] = gradient;
    else if (p < kept)
      waiting[p * Lanes + lane] = gradient.raw();
#pragma unroll
    for (int j = 0; j < Access::size; ++j)
      sum += backward_term(s, mask, Access::column(lane, p, j), values[p].get(j), gradient.get(j));
  }
  sum = row_reduce<Lanes>(sum, shared);
#pragma unroll
  for (int p = 0; p < Packets; ++p) {
    if (p * Access::span >= s.columns) break;
    Packet<T> gradient, result = Access::load(dx, s.columns, lane, p, 0.0f);
    if (!Shared) {
      gradient = gradients[Shared ? 0 : p];
    } else if (p < kept) {
      gradient = Packet<T>::of(waiting[p * Lanes + lane]);
    } else {
      gradient = Access::load(dy, s.columns, lane, p, 0.0f);
    }
#pragma unroll
    for (int j = 0; j < Access::size; ++j)
      result.set(j, result.get(j) +
                           backward_element(s, mask, Access::column(lane, p, j), values[p].get(j), gradient.get(j), sum));
    Access::store(dx, s.columns, lane, p, result);
  }
}

template <class T, bool Vector>
__global__ void __launch_bounds__(wide_lanes) softmax_backward_wide_kernel(SoftmaxRows s, const T* y, const T* dy, T* dx) {
  using Access = RowPackets<T, wide_lanes, Vector>;
  __shared__ float shared[wide_lanes / 32];
  const std::int64_t row = blockIdx.x, packets = ceil_div(s.columns, Access::span);
  const int lane = threadIdx.x;
  const RowMask mask(s, row);
  y += row * s.columns;
  dy += row * s.columns;
  dx += row * s.columns;
  float sum = 0;
  for (std::int64_t p = 0; p < packets; ++p) {
    const Packet<T> value = Access::load(y, s.columns, lane, p, 0.0f), gradient = Access::load(dy, s.columns, lane, p, 0.0f);
#pragma unroll
    for (int j = 0; j < Access::size; ++j)
      sum += backward_term(s, mask, Access::column(lane, p, j), value.get(j), gradient.get(j));
  }
  sum = row_reduce<wide_lanes>(sum, shared);
  for (std::int64_t p = 0; p < packets; ++p) {
    const Packet<T> value = Access::load(y, s.columns, lane, p, 0.0f), gradient = Access::load(dy, s.columns, lane, p, 0.0f);
    Packet<T> result = Access::load(dx, s.columns, lane, p, 0.0f);
#pragma unroll
    for (int j = 0; j < Access::size; ++j)
      result.set(j, result.get(j) +
                           backward_element(s, mask, Access::column(lane, p, j), value.get(j), gradient.get(j), sum));
    Access::store(dx, s.columns, lane, p, result);
  }
}

/// Shared memory that every device of compute capability 8.0 and up grants a block of its own, less the reduction's.
constexpr int waiting_bytes = 160 * 1024;

SoftmaxRows rows_of(const char* kernel, double scale, bool logarithm, const View& x, const View& mask, const View& lengths) {
  require(kernel, DType::u8, {&mask});
  require(kernel, DType::i32, {&lengths});
  SoftmaxRows s{static_cast<float>(scale), logarithm, x.rows(), x.width(), nullptr, 1, nullptr, 1};
  const std::int64_t masks = mask.empty() ? 1 : mask.rows(), groups = lengths.empty() ? 1 : lengths.size();
  if (masks == 0 || groups == 0 || s.rows % masks != 0 || s.rows % groups != 0 || (!mask.empty() && mask.width() != s.columns))
    throw ShapeError(std::string("cuda: ") + kernel + ": the mask does not fit the rows", "see base/kernels/softmax.h");
  s.mask = mask.as<std::uint8_t>();
  s.rows_per_mask = s.rows / masks;
  s.lengths = lengths.as<std::int32_t>();
  s.rows_per_length = s.rows / groups;
  return s;
}

template <int Lanes, int Packets>
struct RowPlan {
  static constexpr int lanes = Lanes, packets = Packets;
};

/// Calls f(RowPlan) with the smallest group that holds a row in registers, at most `most` packets a thread; false where none does.
template <class T, class F>
bool dispatch_row_plan(std::int64_t columns, int most, F f) {
  const std::int64_t packets = ceil_div(columns, packet_size<T>);
  if (packets <= 32)
    f(RowPlan<32, 1>{});
  else if (packets <= 32 * 4)
    f(RowPlan<32, 4>{});
  else if (packets <= 32 * 8)
    f(RowPlan<32, 8>{});
  else if (packets <= 256 * 8)
    f(RowPlan<256, 8>{});
  else if (packets <= 512 * 12)
    f(RowPlan<512, 12>{});
  else if (packets <= 512 * 24 && most >= 24)
    f(RowPlan<512, 24>{});
  else
    return false;
  return true;
}

template <int Lanes>
unsigned row_blocks(std::int64_t rows) {
  return blocks_for(rows, Lanes == 32 ? block_threads / 32 : 1);
}

}  // namespace

template <>
void run(const SoftmaxForward& args, Stream stream) {
  require_stored("softmax", {&args.x, &args.y});
  if (args.x.size() == 0) return;
  const SoftmaxRows s = rows_of("softmax", args.scale, args.logarithm, args.x, args.mask, args.lengths);
  with_storage(args.x.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    with_bool(packed_rows(s.columns, args.x.dtype, {args.x.data, args.y.data}), [&](auto vector) {
      constexpr bool packed = decltype(vector)::value;
      const bool held = dispatch_row_plan<T>(s.columns, 24, [&](auto plan) {
        using Plan = decltype(plan);
        softmax_kernel<T, Plan::lanes, Plan::packets, packed>
            <<<row_blocks<Plan::lanes>(s.rows), threads_of<Plan::lanes>, 0, native(stream)>>>(s, args.x.as<T>(), args.y.as<T>());
      });
      if (!held) softmax_wide_kernel<T, packed><<<blocks_for(s.rows, 1), wide_lanes, 0, native(stream)>>>(s, args.x.as<T>(), args.y.as<T>());
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
    with_bool(packed_rows(s.columns, args.y.dtype, {args.y.data, args.dy.data, args.dx.data}), [&](auto vector) {
      constexpr bool packed = decltype(vector)::value;
      const T *y = args.y.as<T>(), *dy = args.dy.as<T>();
      T* dx = args.dx.as<T>();
      if (dispatch_row_plan<T>(s.columns, 12, [&](auto plan) {
            using Plan = decltype(plan);
            softmax_backward_kernel<T, Plan::lanes, Plan::packets, packed, false>
                <<<row_blocks<Plan::lanes>(s.rows), threads_of<Plan::lanes>, 0, native(stream)>>>(s, 0, y, dy, dx);
          }))
        return;
      if (ceil_div(s.columns, packet_size<T>) <= 512 * 24) {
        const auto kernel = softmax_backward_kernel<T, 512, 24, packed, true>;
        EXPCTR_CUDA_CHECK(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, waiting_bytes));
        kernel<<<blocks_for(s.rows, 1), 512, waiting_bytes, native(stream)>>>(s, waiting_bytes / (512 * 16), y, dy, dx);
      } else {
        softmax_backward_wide_kernel<T, packed><<<blocks_for(s.rows, 1), wide_lanes, 0, native(stream)>>>(s, y, dy, dx);
      }
    });
  });
  check_launch("softmax_backward");
}

}  // namespace expctr::cuda
