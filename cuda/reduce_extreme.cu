// Maxima and minima along an axis. Entries side by side: a warp (up to 1,024 entries) or 256 threads a row, 16 bytes a load, then a tree over
// the lanes. Otherwise a thread owns 16 bytes of neighbouring outputs and walks along the axis; when the first axis is reduced, columns are
// cut into chunks of rows (cuda/column_folds.cuh). x is read once: bound by memory. Equal entries: the lowest index wins in every order, so the
// result does not depend on it.
#include "base/kernels/reduce_extreme.h"

#include "cuda/column_folds.cuh"

namespace expctr::cuda {

namespace {

/// Whether (x, place) comes before (y, other): larger (smaller for a minimum), NaN first of all, then the lower place. A negative place is
/// none.
__device__ __forceinline__ bool comes_before(bool maximum, float x, int place, float y, int other) {
  if (place < 0 || other < 0) return place >= 0;
  if (isnan(x) || isnan(y)) return isnan(x) && (!isnan(y) || place < other);
  if (x != y) return maximum ? x > y : x < y;
  return place < other;
}

template <class T, int Lanes, bool Vector>
__global__ void __launch_bounds__(block_threads)
    extreme_row_kernel(bool maximum, std::int64_t rows, int n, const T* x, T* y, std::int32_t* index) {
  using Access = RowPackets<T, Lanes, Vector>;
  __shared__ float values[block_threads / 32];
  __shared__ int places[block_threads / 32];
  const std::int64_t row = Lanes == 32 ? static_cast<std::int64_t>(blockIdx.x) * (block_threads / 32) + threadIdx.x / 32 : blockIdx.x;
  const int lane = static_cast<int>(threadIdx.x) % Lanes;
  if (row >= rows) return;
  x += row * static_cast<std::int64_t>(n);
  float best = 0;
  int place = -1;
  for (int p = 0; p * static_cast<std::int64_t>(Access::span) < n; ++p) {
    const Packet<T> packet = Access::load(x, n, lane, p, 0.0f);
#pragma unroll
    for (int j = 0; j < Access::size; ++j) {
      const int column = Access::column(lane, p, j);
      if (column >= n || !comes_before(maximum, packet.get(j), column, best, place)) continue;
      best = packet.get(j);
      place = column;
    }
  }
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    const float other = __shfl_xor_sync(0xFFFFFFFFu, best, offset);
    const int other_place = __shfl_xor_sync(0xFFFFFFFFu, place, offset);
    if (comes_before(maximum, other, other_place, best, place)) {
      best = other;
      place = other_place;
    }
  }
  if (Lanes > 32) {
    if (threadIdx.x % 32 == 0) {
      values[threadIdx.x / 32] = best;
      places[threadIdx.x / 32] = place;
    }
    __syncthreads();
    for (int w = 0; w < Lanes / 32; ++w) {
      if (!comes_before(maximum, values[w], places[w], best, place)) continue;
      best = values[w];
      place = places[w];
    }
  }
  if (lane != 0) return;
  if (y != nullptr) store_element(y + row, best);
  if (index != nullptr) index[row] = place;
}

template <class T, int Size>
__global__ void __launch_bounds__(block_threads)
    extreme_strided_kernel(bool maximum, std::int64_t outer, std::int64_t n, std::int64_t inner, const T* x, T* y, std::int32_t* index) {
  std::int64_t o, column;
  if (!my_columns<Size>(outer, inner, o, column)) return;
  float best[Size];
  int place[Size] = {};
  x += o * n * inner + column;
  load_columns(x, best);
#pragma unroll 4
  for (std::int64_t k = 1; k < n; ++k) {
    float values[Size];
    load_columns(x + k * inner, values);
#pragma unroll
    for (int j = 0; j < Size; ++j) {
      if (!comes_before(maximum, values[j], static_cast<int>(k), best[j], place[j])) continue;
      best[j] = values[j];
      place[j] = static_cast<int>(k);
    }
  }
  if (y != nullptr) store_columns(y + o * inner + column, best);
  if (index == nullptr) return;
#pragma unroll
  for (int j = 0; j < Size; ++j) index[o * inner + column + j] = place[j];
}

/// State: value, and the bits of place + 1, so that zeros are none.
template <class T>
struct ExtremeFold {
  static constexpr int values = 2;
  bool maximum;
  const T* x;

  struct Nothing {};
  template <int Size>
  __device__ __forceinline__ Nothing load(std::int64_t) const {
    return {};
  }
  template <int Size>
  __device__ __forceinline__ void add(const Nothing&, std::int64_t at_row, std::int64_t at, float (&state)[values][Size]) const {
    float here[Size];
    load_columns(x + at, here);
    const int row = static_cast<int>(at_row);
#pragma unroll
    for (int j = 0; j < Size; ++j) {
      if (!comes_before(maximum, here[j], row, state[0][j], __float_as_int(state[1][j]) - 1)) continue;
      state[0][j] = here[j];
      state[1][j] = __int_as_float(row + 1);
    }
  }
  __device__ __forceinline__ void merge(float (&into)[values], const float (&other)[values]) const {
    if (!comes_before(maximum, other[0], __float_as_int(other[1]) - 1, into[0], __float_as_int(into[1]) - 1)) return;
    into[0] = other[0];
    into[1] = other[1];
  }
};

template <class T>
struct StoreExtreme {
  T* y;
  std::int32_t* index;
  __device__ void operator()(std::int64_t column, const float (&state)[2]) const {
    if (y != nullptr) store_element(y + column, state[0]);
    if (index != nullptr) index[column] = __float_as_int(state[1]) - 1;
  }
};

template <class T>
__global__ void __launch_bounds__(block_threads)
    extreme_backward_kernel(std::int64_t outputs, std::int64_t n, std::int64_t inner, const T* dy, const std::int32_t* index, T* dx) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x;
  if (i >= outputs) return;
  const std::int32_t place = index[i];
  if (place < 0 || place >= n) return;
  const std::int64_t o = i / inner;
  T* to = dx + (o * n + place) * inner + (i - o * inner);
  store_element(to, load_element(to) + load_element(dy + i));
}

void check_axis(const char* kernel, const View& x, const View& y, const View& index) {
  require_stored(kernel, {&x, &y});
  require(kernel, DType::i32, {&index});
  const bool fits =
      x.rank == 3 && (y.empty() || y.size() == x.shape[0] * x.shape[2]) && (index.empty() || index.size() == x.shape[0] * x.shape[2]);
  if (!fits) throw ShapeError(std::string("cuda: ") + kernel + " takes [outer, n, inner] and [outer, inner]");
}

bool by_columns(const ExtremeForward& args) {
  return args.x.rank == 3 && args.x.shape[0] == 1 && args.x.shape[2] > 1 && args.x.shape[1] > 64;
}

FoldPlan column_plan(const View& x) { return plan_folds(x.shape[1], x.shape[2], x.dtype, {x.data}); }

}  // namespace

template <>
std::size_t scratch_bytes(const ExtremeForward& args) {
  return by_columns(args) ? static_cast<std::size_t>(column_plan(args.x).partials(2)) * sizeof(float) : 0;
}

template <>
void run(const ExtremeForward& args, Stream stream) {
  check_axis("extreme", args.x, args.y, args.index);
  require_scratch("extreme", args.scratch, scratch_bytes(args));
  const std::int64_t outer = args.x.shape[0], n = args.x.shape[1], inner = args.x.shape[2];
  if (outer * inner == 0 || n == 0) return;
  std::int32_t* index = args.index.as<std::int32_t>();
  if (by_columns(args)) {
    with_storage(args.x.dtype, [&](auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
      reduce_columns<T>("extreme", column_plan(args.x), ExtremeFold<T>{args.maximum, args.x.as<T>()},
                        StoreExtreme<T>{args.y.as<T>(), index}, args.scratch.as<float>(), stream);
    });
  } else if (inner == 1) {
    require_columns("extreme", n);
    with_storage(args.x.dtype, [&](auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
      with_bool(packed_rows(n, args.x.dtype, {args.x.data}), [&](auto packed) {
        if (n <= 1024)
          extreme_row_kernel<T, 32, packed.value><<<blocks_for(outer, block_threads / 32), block_threads, 0, native(stream)>>>(
              args.maximum, outer, static_cast<int>(n), args.x.as<T>(), args.y.as<T>(), index);
        else
          extreme_row_kernel<T, block_threads, packed.value><<<blocks_for(outer, 1), block_threads, 0, native(stream)>>>(
              args.maximum, outer, static_cast<int>(n), args.x.as<T>(), args.y.as<T>(), index);
      });
    });
  } else {
    with_columns(inner, args.x.dtype, {args.x.data, args.y.data}, [&](auto* type, auto size) {
      using T = std::remove_pointer_t<decltype(type)>;
      extreme_strided_kernel<T, size.value><<<blocks_for(outer * inner / size.value, block_threads), block_threads, 0, native(stream)>>>(
          args.maximum, outer, n, inner, args.x.as<T>(), args.y.as<T>(), index);
    });
  }
  check_launch("extreme");
}

template <>
void run(const ExtremeBackward& args, Stream stream) {
  check_axis("extreme_backward", args.dx, args.dy, args.index);
  const std::int64_t outputs = args.dy.size();
  if (outputs == 0 || args.dx.size() == 0) return;
  with_storage(args.dx.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    extreme_backward_kernel<<<blocks_for(outputs, block_threads), block_threads, 0, native(stream)>>>(
        outputs, args.dx.shape[1], args.dx.shape[2], args.dy.as<T>(), args.index.as<std::int32_t>(), args.dx.as<T>());
  });
  check_launch("extreme_backward");
}

}  // namespace expctr::cuda
