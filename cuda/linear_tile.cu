// Tiled products with block-quantised or bf16 weights on tensor cores (main loop: cuda/linear_tile.cuh), and what is made of a tile before
// it leaves the registers: rows of y, parts of a softmax, gradients of logits. 2 rows depth columns FLOPs. Requested bytes: a once per 128
// columns, the packed weight once per 128 rows, the result once; bound by tensor cores from about 200 rows on, below by reading the weight.
#include <type_traits>

#include "cuda/linear_tile.cuh"
#include "cuda/linear_weight.h"
#include "cuda/online_softmax.cuh"

namespace expctr::cuda {

namespace {

constexpr int staged_rows = 32, staged_stride = 136;  // 8 mod 32: rows of a fragment fall into different banks

enum class Epilogue { store, softmax, gradient };

struct TileArgs {
  LeftOperand a, low;      ///< low.depth 0: no second product
  const std::uint16_t* v;  ///< right operand of the second product
  std::int64_t v_stride;
  int columns;  ///< of the result
  int stored;   ///< columns written: columns, or with the zeros that pad rows of gradients
  Epilogue epilogue;
  float alpha;
  // store and gradient
  void* y;
  std::int64_t y_stride;
  bool y_bf16, accumulate, vector;
  const float *bias, *addend;
  // softmax and gradient
  int first;  ///< class of column 0
  const std::int32_t* targets;
  const float *log_sum_exp, *gradient;
  float *parts, *target_logits;
};

/// What a row of logit gradients is made with.
struct RowGradient {
  float log_sum_exp, factor;
  int target;
  __device__ __forceinline__ float of(float logit, int column) const {
    return factor == 0.0f ? 0.0f : factor * ((column == target ? 1.0f : 0.0f) - expf(logit - log_sum_exp));
  }
};

__device__ __forceinline__ float old_value(const TileArgs& args, std::int64_t at) {
  float value = args.addend == nullptr ? 0.0f : args.addend[at];
  if (args.accumulate)
    value += args.y_bf16 ? float_of_bf16(static_cast<const std::uint16_t*>(args.y)[at]) : static_cast<const float*>(args.y)[at];
  return value;
}

__device__ __forceinline__ void add4(float4& to, float4 value) { to.x += value.x, to.y += value.y, to.z += value.z, to.w += value.w; }
__device__ __forceinline__ float4 floats_of(uint2 pairs) {
  return make_float4(__uint_as_float(pairs.x << 16), __uint_as_float(pairs.x & 0xFFFF0000u), __uint_as_float(pairs.y << 16),
                     __uint_as_float(pairs.y & 0xFFFF0000u));
}

/// Four finished values of a row to y, one by one where the row ends or nothing is aligned.
__device__ __forceinline__ void store_single(const TileArgs& args, int row, int column, const float4& value) {
  const float values[4] = {value.x, value.y, value.z, value.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (column + i >= args.stored) return;
    const std::int64_t at = row * args.y_stride + column + i;
    const float sum = values[i] + old_value(args, at);
    if (args.y_bf16)
      static_cast<std::uint16_t*>(args.y)[at] = bf16_of_float(sum);
    else
      static_cast<float*>(args.y)[at] = sum;
  }
}

/// Values of columns column .. column + 3 of a row from shared memory: products become results (bias) or gradients of logits.
template <bool Gradient>
__device__ __forceinline__ float4 finished(const TileArgs& args, const float* staged, const RowGradient& row, int column) {
  float4 v = *reinterpret_cast<const float4*>(staged);
  if constexpr (Gradient) {
    const int c = args.first + column;
    v = make_float4(row.of(v.x, c), row.of(v.y, c + 1), row.of(v.z, c + 2), row.of(v.w, c + 3));
    if (column >= args.columns) v.x = 0;
    if (column + 1 >= args.columns) v.y = 0;
    if (column + 2 >= args.columns) v.z = 0;
    if (column + 3 >= args.columns) v.w = 0;
  } else if (args.bias != nullptr) {
    if (column < args.columns) v.x += args.bias[column];
    if (column + 1 < args.columns) v.y += args.bias[column + 1];
    if (column + 2 < args.columns) v.z += args.bias[column + 2];
    if (column + 3 < args.columns) v.w += args.bias[column + 3];
  }
  return v;
}

/// 32 rows at a time through shared memory, so that global memory sees 16-byte accesses to whole rows.
template <bool Gradient>
__device__ __forceinline__ void store_tile(const TileArgs& args, int m0, int n0, float* staged, const TileSums& sums) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp_m = thread / 32 / 4, warp_n = thread / 32 % 4 * 32;
  const std::uint32_t staged_address = shared_address(staged);
  // Gradients: what a row needs, read once a tile.
  RowGradient* row_values = reinterpret_cast<RowGradient*>(staged + staged_rows * staged_stride);
  if constexpr (Gradient) {
    if (thread < tile_rows && m0 + thread < args.a.rows) {
      RowGradient g{0, 0, args.targets[m0 + thread]};
      if (g.target >= 0) g.log_sum_exp = args.log_sum_exp[m0 + thread], g.factor = args.gradient[m0 + thread] * args.alpha;
      row_values[thread] = g;
    }
  }
  const auto row_gradient = [&](int row) {
    if constexpr (Gradient)
      return row_values[row - m0];
    else
      return RowGradient{0, 0, -1};
  };
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const std::uint32_t to = staged_address + ((warp_m * 16 + lane / 4) * staged_stride + warp_n + j * 8 + lane % 4 * 2) * 4;
      store_shared2(to, args.alpha * sums[i][j][0], args.alpha * sums[i][j][1]);
      store_shared2(to + 8 * staged_stride * 4, args.alpha * sums[i][j][2], args.alpha * sums[i][j][3]);
    }
    __syncthreads();
    // Row r of the 32 stands for row (r / 16) 64 + 16 i + r mod 16 of the tile.
    if (args.y_bf16) {
#pragma unroll
      for (int item = thread; item < staged_rows * 16; item += tile_threads) {
        const int r = item / 16, column = item % 16 * 8, row = m0 + r / 16 * 64 + i * 16 + r % 16;
        if (row >= args.a.rows || n0 + column >= args.stored) continue;
        const RowGradient g = row_gradient(row);
        // Half of the lanes read their second four columns first: lanes at a distance of 32 bytes would meet in the banks.
        const int swap = lane & 4;
        float4 v = finished<Gradient>(args, staged + r * staged_stride + column + swap, g, n0 + column + swap),
               u = finished<Gradient>(args, staged + r * staged_stride + column + (swap ^ 4), g, n0 + column + (swap ^ 4));
        if (swap != 0) {
          const float4 held = v;
          v = u;
          u = held;
        }
        if (args.vector && n0 + column + 8 <= args.stored) {
          const std::int64_t at = row * args.y_stride + n0 + column;
          uint4* to = reinterpret_cast<uint4*>(static_cast<std::uint16_t*>(args.y) + at);
          if (args.addend != nullptr) {
            add4(v, *reinterpret_cast<const float4*>(args.addend + at));
            add4(u, *reinterpret_cast<const float4*>(args.addend + at + 4));
          }
          if (args.accumulate) {
            const uint4 old = *to;
            add4(v, floats_of(make_uint2(old.x, old.y)));
            add4(u, floats_of(make_uint2(old.z, old.w)));
          }
          *to = make_uint4(bf16_pair(v.x, v.y), bf16_pair(v.z, v.w), bf16_pair(u.x, u.y), bf16_pair(u.z, u.w));
        } else {
          store_single(args, row, n0 + column, v);
          store_single(args, row, n0 + column + 4, u);
        }
      }
    } else {
#pragma unroll
      for (int item = thread; item < staged_rows * 32; item += tile_threads) {
        const int r = item / 32, column = item % 32 * 4, row = m0 + r / 16 * 64 + i * 16 + r % 16;
        if (row >= args.a.rows || n0 + column >= args.stored) continue;
        float4 v = finished<Gradient>(args, staged + r * staged_stride + column, row_gradient(row), n0 + column);
        if (args.vector && n0 + column + 4 <= args.stored) {
          const std::int64_t at = row * args.y_stride + n0 + column;
          float4* to = reinterpret_cast<float4*>(static_cast<float*>(args.y) + at);
          if (args.addend != nullptr) add4(v, *reinterpret_cast<const float4*>(args.addend + at));
          if (args.accumulate) add4(v, *to);
          *to = v;
        } else {
          store_single(args, row, n0 + column, v);
        }
      }
    }
    __syncthreads();
  }
}

/// Maximum and sums of each row's 128 logits: in a lane, over its quad, over the four warps side by side, always in that order.
__device__ __forceinline__ void store_softmax(const TileArgs& args, int m0, int n0, float* shared, const TileSums& sums) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp_m = thread / 32 / 4 * 64, warp = thread / 32 % 4;
  const int column0 = n0 + warp * 32 + lane % 4 * 2;
  int* targets = reinterpret_cast<int*>(shared + 1536);
  if (thread < tile_rows) targets[thread] = m0 + thread < args.a.rows ? args.targets[m0 + thread] - args.first : -1;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int upper = 0; upper < 2; ++upper) {
      const int local = warp_m + i * 16 + upper * 8 + lane / 4, row = m0 + local;
      const int target = targets[local];
      float maximum = -INFINITY;
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int k = 0; k < 2; ++k)
          if (column0 + j * 8 + k < args.columns) maximum = fmaxf(maximum, args.alpha * sums[i][j][upper * 2 + k]);
      maximum = fmaxf(maximum, __shfl_xor_sync(0xFFFFFFFFu, maximum, 1));
      maximum = fmaxf(maximum, __shfl_xor_sync(0xFFFFFFFFu, maximum, 2));
      float sum = 0, weighted = 0;
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          const int column = column0 + j * 8 + k;
          if (column >= args.columns) continue;
          const float logit = args.alpha * sums[i][j][upper * 2 + k], shifted = logit - maximum, e = expf(shifted);
          sum += e;
          weighted += e * shifted;
          if (column == target) args.target_logits[row] = logit;
        }
#pragma unroll
      for (int offset = 1; offset < 4; offset *= 2) {
        sum += __shfl_xor_sync(0xFFFFFFFFu, sum, offset);
        weighted += __shfl_xor_sync(0xFFFFFFFFu, weighted, offset);
      }
      if (lane % 4 == 0) {
        shared[warp * 128 + local] = maximum;
        shared[512 + warp * 128 + local] = sum;
        shared[1024 + warp * 128 + local] = weighted;
      }
    }
  __syncthreads();
  const int row = m0 + thread;
  if (thread >= tile_rows || row >= args.a.rows) return;
  OnlineSum total;
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    OnlineSum part;
    part.maximum = shared[w * 128 + thread];
    part.sum = shared[512 + w * 128 + thread];
    part.weighted = shared[1024 + w * 128 + thread];
    const float most = fmaxf(total.maximum, part.maximum);
    total.rescale(most);
    total.sum += part.sum_at(most);
    total.weighted += part.weighted_at(most);
  }
  float* to = args.parts + static_cast<std::int64_t>(n0 / tile_columns) * 3 * args.a.rows + row;
  to[0] = total.maximum;
  to[args.a.rows] = total.sum;
  to[2 * static_cast<std::int64_t>(args.a.rows)] = total.weighted;
}

/// Grid: x over tiles of rows, y over tiles of columns, so that blocks in flight share their slice of the weight.
template <bool Transposed, class Tiles>
__global__ void __launch_bounds__(tile_threads, 2) tile_kernel(const __grid_constant__ TileArgs args, const __grid_constant__ Tiles tiles) {
  extern __shared__ __align__(128) unsigned char shared[];
  const int m0 = static_cast<int>(blockIdx.x) * tile_rows, n0 = static_cast<int>(blockIdx.y) * tile_columns;
  TileSums sums = {};
  accumulate_tile<Transposed>(args.a, tiles, m0, n0, shared, sums);
  if (args.low.depth > 0) {
    const DenseTiles<Transposed> thin{args.v, args.v_stride, Transposed ? args.low.depth : args.columns, static_cast<int>(args.v_stride)};
    accumulate_tile<Transposed>(args.low, thin, m0, n0, shared, sums);
  }
  float* floats = reinterpret_cast<float*>(shared);
  if constexpr (!Transposed) {
    if (args.epilogue == Epilogue::softmax) return store_softmax(args, m0, n0, floats, sums);
    if (args.epilogue == Epilogue::gradient) return store_tile<true>(args, m0, n0, floats, sums);
  }
  store_tile<false>(args, m0, n0, floats, sums);
}

template <bool Transposed, class Tiles>
void launch(const TileArgs& args, const Tiles& tiles, Stream stream) {
  constexpr int bytes = std::max(loop_bytes<Tiles>, loop_bytes<DenseTiles<Transposed>>);
  static_assert(bytes >= staged_rows * staged_stride * 4 + tile_rows * static_cast<int>(sizeof(RowGradient)));
  EXPCTR_CUDA_CHECK(cudaFuncSetAttribute(tile_kernel<Transposed, Tiles>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  const std::int64_t column_tiles = ceil_div(args.columns, tile_columns);
  if (column_tiles > 65535)
    throw Error("cuda: a product of " + std::to_string(args.columns) + " columns exceeds the grid", "split the weight");
  const dim3 grid(blocks_for(args.a.rows, tile_rows), static_cast<unsigned>(column_tiles));
  tile_kernel<Transposed, Tiles><<<grid, tile_threads, bytes, native(stream)>>>(args, tiles);
  check_launch("tiled product");
}

template <bool Transposed>
void launch(const TileArgs& args, const PackedWeight& weight, std::int64_t first, std::int64_t count, Stream stream) {
  if (args.a.rows == 0 || args.columns == 0) return;
  if (is_quantised(weight.dtype))
    return dispatch_format(weight.dtype, [&](auto format) {
      using F = decltype(format);
      launch<Transposed>(args, QuantisedTiles<F, Transposed>{planes_of<F>(weight), static_cast<int>(first)}, stream);
    });
  const std::int64_t stride = plain_stride(weight);
  launch<Transposed>(args,
                     DenseTiles<Transposed>{static_cast<const std::uint16_t*>(weight.data) + first * stride, stride,
                                            static_cast<int>(count), static_cast<int>(stride)},
                     stream);
}

LeftOperand left_operand(const Bf16Rows& a, std::int64_t rows, std::int64_t depth) {
  return {a.data, a.stride, static_cast<int>(rows), static_cast<int>(depth)};
}

}  // namespace

void multiply_tiled(const WeightProduct& p, Stream stream) {
  TileArgs args{};
  args.a = left_operand(p.a, p.rows, p.transposed ? p.count : p.weight.inputs);
  args.columns = args.stored = static_cast<int>(p.transposed ? p.weight.inputs : p.count);
  args.alpha = p.alpha;
  if (p.low_depth > 0) {
    args.low = left_operand(p.low, p.rows, p.low_depth);
    args.v = p.v;
    args.v_stride = p.v_stride;
  }
  args.y = p.y;
  args.y_stride = p.y_stride;
  args.y_bf16 = p.y_dtype == DType::bf16;
  args.accumulate = p.accumulate;
  args.bias = p.bias;
  args.addend = p.addend;
  args.vector = p.y_stride % (args.y_bf16 ? 8 : 4) == 0 && aligned16(p.y) && (p.addend == nullptr || aligned16(p.addend));
  p.transposed ? launch<true>(args, p.weight, p.first, p.count, stream) : launch<false>(args, p.weight, p.first, p.count, stream);
}

void softmax_parts(const SoftmaxParts& p, Stream stream) {
  TileArgs args{};
  args.a = left_operand(p.a, p.rows, p.weight.inputs);
  args.columns = args.stored = static_cast<int>(p.weight.outputs);
  args.epilogue = Epilogue::softmax;
  args.alpha = p.alpha;
  args.targets = p.targets;
  args.parts = p.parts;
  args.target_logits = p.target_logits;
  launch<false>(args, p.weight, 0, p.weight.outputs, stream);
}

void logit_gradients(const LogitGradients& p, Stream stream) {
  TileArgs args{};
  args.a = left_operand(p.a, p.rows, p.weight.inputs);
  args.columns = static_cast<int>(p.count);
  args.stored = static_cast<int>(p.stride);
  args.epilogue = Epilogue::gradient;
  args.alpha = p.alpha;
  args.first = static_cast<int>(p.first);
  args.targets = p.targets;
  args.log_sum_exp = p.log_sum_exp;
  args.gradient = p.gradient;
  args.y = p.dlogits;
  args.y_stride = p.stride;
  args.y_bf16 = true;
  args.vector = p.stride % 8 == 0 && aligned16(p.dlogits);
  launch<false>(args, p.weight, p.first, p.count, stream);
}

}  // namespace expctr::cuda
