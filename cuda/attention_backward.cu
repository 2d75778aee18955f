// Gradient of attention in float32 arithmetic (f32 storage, and bf16 that tensor cores do not take), without atomics: probabilities are
// computed again from log_sum_exp. First delta = dy . y a query and head; then one launch with a block a query tile that visits key tiles
// in order (dq), and one with a block a key tile that visits query heads and query tiles in order (dk, dv). 14 tokens^2 head_dim FLOPs a
// head (half of it when causal; the scores and dy v products are computed in both launches); bound by shared memory, then by arithmetic.
// Source: Dao 2023 (FlashAttention-2), without its atomic additions to dq.
#include "cuda/attention_mma.h"
#include "cuda/attention_tile.cuh"

namespace expctr::cuda {

namespace {

template <class T>
struct BackwardArgs {
  int heads, kv_heads, head_dim;
  bool vector;
  float scale;
  const T *q, *k, *v, *y, *dy;
  const float* log_sum_exp;
  SequenceArgs sequences;
  T *dq, *dk, *dv;
  float* delta;
};

/// A warp a token and head.
template <class T>
__global__ void __launch_bounds__(block_threads) delta_kernel(std::int64_t rows, int head_dim, const T* y, const T* dy, float* delta) {
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * (block_threads / 32) + threadIdx.x / 32;
  if (row >= rows) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float sum = 0;
  for (int d = lane; d < head_dim; d += 32) sum += float_of(y[row * head_dim + d]) * float_of(dy[row * head_dim + d]);
  sum = warp_sum(sum);
  if (lane == 0) delta[row] = sum;
}

template <int D>
constexpr std::size_t query_shared_bytes = (attention_block * (2 * D + 2 * (D + 4)) + attention_block * attention_block) * sizeof(float);
template <int D>
constexpr std::size_t key_shared_bytes = (attention_block * (2 * D + 2 * (D + 4)) + 2 * attention_block * attention_block) * sizeof(float);

template <class T, int D>
__global__ void __launch_bounds__(attention_threads) query_gradient_kernel(const __grid_constant__ BackwardArgs<T> args) {
  extern __shared__ float4 shared[];
  float *q_tile = reinterpret_cast<float*>(shared), *dy_tile = q_tile + attention_block * D, *k_tile = dy_tile + attention_block * D,
        *v_tile = k_tile + attention_block * (D + 4), *ds_tile = v_tile + attention_block * (D + 4);
  int sequence, first;
  if (!find_tile<attention_block>(args.sequences.query_offsets, args.sequences.count, static_cast<int>(blockIdx.x), sequence, first))
    return;
  const KeyRange range = args.sequences.range(sequence);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32, head = static_cast<int>(blockIdx.y),
            start = args.sequences.query_offsets[sequence], count = min(attention_block, range.queries - first);
  const std::int64_t q_stride = static_cast<std::int64_t>(args.heads) * args.head_dim,
                     k_stride = static_cast<std::int64_t>(args.kv_heads) * args.head_dim,
                     q_start = (start + first) * q_stride + head * args.head_dim,
                     k_start = args.sequences.key_offsets[sequence] * k_stride + head / (args.heads / args.kv_heads) * args.head_dim;
  load_tile<D, D>(q_tile, count, args.head_dim, args.vector, [&](int row) { return args.q + q_start + row * q_stride; });
  load_tile<D, D>(dy_tile, count, args.head_dim, args.vector, [&](int row) { return args.dy + q_start + row * q_stride; });
  float log_sum[rows_per_warp], delta[rows_per_warp], sums[rows_per_warp][D / 32] = {};
#pragma unroll
  for (int i = 0; i < rows_per_warp; ++i) {
    const int row = warp * rows_per_warp + i;
    const std::int64_t at = static_cast<std::int64_t>(start + first + row) * args.heads + head;
    log_sum[i] = row < count ? args.log_sum_exp[at] : 0.0f;
    delta[i] = row < count ? args.delta[at] : 0.0f;
  }
  const int key_end = range.end(first + count - 1);
  for (int block = range.first(first) / attention_block * attention_block; block < key_end; block += attention_block) {
    __syncthreads();
    const int keys = min(attention_block, range.keys - block);
    load_tile<D, D + 4>(k_tile, keys, args.head_dim, args.vector, [&](int row) { return args.k + k_start + (block + row) * k_stride; });
    load_tile<D, D + 4>(v_tile, keys, args.head_dim, args.vector, [&](int row) { return args.v + k_start + (block + row) * k_stride; });
    __syncthreads();
    float scores[rows_per_warp], dp[rows_per_warp];
    row_products<D, D, D + 4>(q_tile, k_tile, warp, lane, scores);
    row_products<D, D, D + 4>(dy_tile, v_tile, warp, lane, dp);
#pragma unroll
    for (int i = 0; i < rows_per_warp; ++i) {
      const int row = warp * rows_per_warp + i;
      const bool seen = row < count && block + lane >= range.first(first + row) && block + lane < range.end(first + row);
      const float p = seen ? expf(scores[i] * args.scale - log_sum[i]) : 0.0f;
      ds_tile[row * attention_block + lane] = p * (dp[i] - delta[i]) * args.scale;
    }
    __syncwarp();
    add_weighted_rows<D, D + 4>(ds_tile, k_tile, warp, lane, sums);
  }
#pragma unroll
  for (int i = 0; i < rows_per_warp; ++i) {
    const int row = warp * rows_per_warp + i;
    if (row >= count) break;
#pragma unroll
    for (int j = 0; j < D / 32; ++j)
      if (lane + 32 * j < args.head_dim) add_to(args.dq[q_start + row * q_stride + lane + 32 * j], sums[i][j]);
  }
}

/// A warp has 8 keys; a lane a query for the products, columns for the sums.
template <class T, int D>
__global__ void __launch_bounds__(attention_threads) key_gradient_kernel(const __grid_constant__ BackwardArgs<T> args) {
  extern __shared__ float4 shared[];
  __shared__ int2 seeing_queries[attention_block];  // first and end by key: in registers they would be spilled
  float *k_tile = reinterpret_cast<float*>(shared), *v_tile = k_tile + attention_block * D, *q_tile = v_tile + attention_block * D,
        *dy_tile = q_tile + attention_block * (D + 4), *p_tile = dy_tile + attention_block * (D + 4),
        *ds_tile = p_tile + attention_block * attention_block;
  int sequence, first;
  if (!find_tile<attention_block>(args.sequences.key_offsets, args.sequences.count, static_cast<int>(blockIdx.x), sequence, first)) return;
  const KeyRange range = args.sequences.range(sequence);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32, kv_head = static_cast<int>(blockIdx.y),
            group = args.heads / args.kv_heads, start = args.sequences.query_offsets[sequence],
            count = min(attention_block, range.keys - first);
  if (count <= 0) return;  // padding
  const std::int64_t q_stride = static_cast<std::int64_t>(args.heads) * args.head_dim,
                     k_stride = static_cast<std::int64_t>(args.kv_heads) * args.head_dim,
                     k_start = (args.sequences.key_offsets[sequence] + first) * k_stride + kv_head * args.head_dim;
  const int query_begin = range.first_query(first) / attention_block * attention_block, query_end = range.end_query(first + count - 1);
  if (threadIdx.x < attention_block) {
    const int key = first + static_cast<int>(threadIdx.x);
    seeing_queries[threadIdx.x] = {range.first_query(key), range.end_query(key)};
  }
  load_tile<D, D>(k_tile, count, args.head_dim, args.vector, [&](int row) { return args.k + k_start + row * k_stride; });
  load_tile<D, D>(v_tile, count, args.head_dim, args.vector, [&](int row) { return args.v + k_start + row * k_stride; });
  float dk[rows_per_warp][D / 32] = {}, dv[rows_per_warp][D / 32] = {};
  for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    const std::int64_t q_start = start * q_stride + head * args.head_dim;
    for (int block = query_begin; block < query_end; block += attention_block) {
      __syncthreads();
      const int queries = min(attention_block, range.queries - block);
      load_tile<D, D + 4>(q_tile, queries, args.head_dim, args.vector,
                          [&](int row) { return args.q + q_start + (block + row) * q_stride; });
      load_tile<D, D + 4>(dy_tile, queries, args.head_dim, args.vector,
                          [&](int row) { return args.dy + q_start + (block + row) * q_stride; });
      const std::int64_t at = static_cast<std::int64_t>(start + block + lane) * args.heads + head;
      const float log_sum = lane < queries ? args.log_sum_exp[at] : 0.0f, delta = lane < queries ? args.delta[at] : 0.0f;
      __syncthreads();
      float scores[rows_per_warp], dp[rows_per_warp];
      row_products<D, D, D + 4>(k_tile, q_tile, warp, lane, scores);
      row_products<D, D, D + 4>(v_tile, dy_tile, warp, lane, dp);
#pragma unroll
      for (int i = 0; i < rows_per_warp; ++i) {
        const int row = warp * rows_per_warp + i;
        const int2 interval = seeing_queries[row];
        const bool seen = row < count && block + lane >= interval.x && block + lane < interval.y;
        const float p = seen ? expf(scores[i] * args.scale - log_sum) : 0.0f;
        p_tile[row * attention_block + lane] = p;
        ds_tile[row * attention_block + lane] = p * (dp[i] - delta) * args.scale;
      }
      __syncwarp();
      add_weighted_rows<D, D + 4>(p_tile, dy_tile, warp, lane, dv);
      add_weighted_rows<D, D + 4>(ds_tile, q_tile, warp, lane, dk);
    }
  }
#pragma unroll
  for (int i = 0; i < rows_per_warp; ++i) {
    const int row = warp * rows_per_warp + i;
    if (row >= count) break;
#pragma unroll
    for (int j = 0; j < D / 32; ++j) {
      if (lane + 32 * j >= args.head_dim) continue;
      const std::int64_t to = k_start + row * k_stride + lane + 32 * j;
      if (args.dk != nullptr) add_to(args.dk[to], dk[i][j]);
      if (args.dv != nullptr) add_to(args.dv[to], dv[i][j]);
    }
  }
}

}  // namespace

template <>
std::size_t scratch_bytes(const AttentionBackward& a) {
  return static_cast<std::size_t>(a.q.rows() * a.shape.heads) * sizeof(float) * (fits_tensor_cores(a) ? 2 : 1);
}

template <>
void run(const AttentionBackward& a, Stream stream) {
  require_storage("attention_backward", a.q.dtype, {&a.q, &a.k, &a.v, &a.y, &a.dy, &a.dq, &a.dk, &a.dv});
  require_f32("attention_backward", {&a.log_sum_exp});
  require("attention_backward", DType::i32, {&a.sequence_offsets, &a.keys.offsets, &a.keys.lengths, &a.keys.prefixes});
  require_scratch("attention_backward", a.scratch, scratch_bytes(a));
  check_attention("attention_backward", a.shape);
  const std::int64_t tokens = a.q.rows();
  if (tokens == 0 || a.sequence_offsets.size() < 2) return;
  if (fits_tensor_cores(a)) return backward_on_tensor_cores(a, stream);
  dispatch_head_dim("attention_backward", a.q.dtype, a.shape.head_dim, [&](auto storage, auto dim) {
    using T = decltype(storage);
    constexpr int D = decltype(dim)::value;
    BackwardArgs<T> args{};
    args.heads = a.shape.heads;
    args.kv_heads = a.shape.kv_heads;
    args.head_dim = a.shape.head_dim;
    args.vector = vector_rows(a.shape, {&a.q, &a.k, &a.v, &a.dy});
    args.scale = static_cast<float>(a.shape.scale);
    args.q = a.q.as<T>();
    args.k = a.k.as<T>();
    args.v = a.v.as<T>();
    args.y = a.y.as<T>();
    args.dy = a.dy.as<T>();
    args.log_sum_exp = a.log_sum_exp.as<float>();
    args.sequences = sequence_args(a);
    args.dq = a.dq.as<T>();
    args.dk = a.dk.as<T>();
    args.dv = a.dv.as<T>();
    args.delta = a.scratch.as<float>();
    const std::int64_t rows = tokens * a.shape.heads;
    delta_kernel<T>
        <<<blocks_for(rows, block_threads / 32), block_threads, 0, native(stream)>>>(rows, args.head_dim, args.y, args.dy, args.delta);
    check_launch("attention_backward");
    if (args.dq != nullptr) {
      allow_shared_bytes(query_gradient_kernel<T, D>, query_shared_bytes<D>);
      const dim3 grid(tile_count<attention_block>(tokens, args.sequences.count), static_cast<unsigned>(args.heads));
      query_gradient_kernel<T, D><<<grid, attention_threads, query_shared_bytes<D>, native(stream)>>>(args);
      check_launch("attention_backward");
    }
    if (args.dk != nullptr || args.dv != nullptr) {
      allow_shared_bytes(key_gradient_kernel<T, D>, key_shared_bytes<D>);
      const dim3 grid(tile_count<attention_block>(a.k.rows(), args.sequences.count), static_cast<unsigned>(args.kv_heads));
      key_gradient_kernel<T, D><<<grid, attention_threads, key_shared_bytes<D>, native(stream)>>>(args);
      check_launch("attention_backward");
    }
  });
}

}  // namespace expctr::cuda
