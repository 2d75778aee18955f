// Gradient of attention, without atomics: probabilities are computed again from log_sum_exp. First delta = dy . y a query and head; then
// one launch with a block a query tile that visits key tiles in order (dq), and one with a block a key tile that visits query heads and
// query tiles in order (dk, dv). 14 tokens^2 head_dim FLOPs a head (half of it when causal; the scores and dy v products are computed in
// both launches); bound by shared memory, then by arithmetic.   Source: Dao 2023 (FlashAttention-2), without its atomic additions to dq.
#include "cuda/attention_tile.cuh"

namespace expctr::cuda {

namespace {

struct BackwardArgs {
  int heads, kv_heads, head_dim, sequences;
  bool causal, vector;
  float scale;
  const float *q, *k, *v, *y, *dy, *log_sum_exp;
  const std::int32_t* offsets;
  float *dq, *dk, *dv, *delta;
};

/// A warp a token and head.
__global__ void __launch_bounds__(block_threads)
    delta_kernel(std::int64_t rows, int head_dim, const float* y, const float* dy, float* delta) {
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * (block_threads / 32) + threadIdx.x / 32;
  if (row >= rows) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float sum = 0;
  for (int d = lane; d < head_dim; d += 32) sum += y[row * head_dim + d] * dy[row * head_dim + d];
  sum = warp_sum(sum);
  if (lane == 0) delta[row] = sum;
}

template <int D>
constexpr std::size_t query_shared_bytes = (attention_block * (2 * D + 2 * (D + 4)) + attention_block * attention_block) * sizeof(float);
template <int D>
constexpr std::size_t key_shared_bytes = (attention_block * (2 * D + 2 * (D + 4)) + 2 * attention_block * attention_block) * sizeof(float);

template <int D>
__global__ void __launch_bounds__(attention_threads) query_gradient_kernel(const __grid_constant__ BackwardArgs args) {
  extern __shared__ float4 shared[];
  float *q_tile = reinterpret_cast<float*>(shared), *dy_tile = q_tile + attention_block * D, *k_tile = dy_tile + attention_block * D,
        *v_tile = k_tile + attention_block * (D + 4), *ds_tile = v_tile + attention_block * (D + 4);
  int sequence, first;
  if (!find_tile(args.offsets, args.sequences, blockIdx.x, sequence, first)) return;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32, head = static_cast<int>(blockIdx.y),
            start = args.offsets[sequence], length = args.offsets[sequence + 1] - start, count = min(attention_block, length - first);
  const std::int64_t q_stride = static_cast<std::int64_t>(args.heads) * args.head_dim,
                     k_stride = static_cast<std::int64_t>(args.kv_heads) * args.head_dim,
                     q_start = (start + first) * q_stride + head * args.head_dim,
                     k_start = start * k_stride + head / (args.heads / args.kv_heads) * args.head_dim;
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
  const int key_end = args.causal ? first + count : length;
  for (int block = 0; block < key_end; block += attention_block) {
    __syncthreads();
    const int keys = min(attention_block, length - block);
    load_tile<D, D + 4>(k_tile, keys, args.head_dim, args.vector, [&](int row) { return args.k + k_start + (block + row) * k_stride; });
    load_tile<D, D + 4>(v_tile, keys, args.head_dim, args.vector, [&](int row) { return args.v + k_start + (block + row) * k_stride; });
    __syncthreads();
    float scores[rows_per_warp], dp[rows_per_warp];
    row_products<D, D, D + 4>(q_tile, k_tile, warp, lane, scores);
    row_products<D, D, D + 4>(dy_tile, v_tile, warp, lane, dp);
#pragma unroll
    for (int i = 0; i < rows_per_warp; ++i) {
      const int row = warp * rows_per_warp + i;
      const bool seen = row < count && lane < keys && (!args.causal || block + lane <= first + row);
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
      if (lane + 32 * j < args.head_dim) args.dq[q_start + row * q_stride + lane + 32 * j] += sums[i][j];
  }
}

/// A warp has 8 keys; a lane a query for the products, columns for the sums.
template <int D>
__global__ void __launch_bounds__(attention_threads) key_gradient_kernel(const __grid_constant__ BackwardArgs args) {
  extern __shared__ float4 shared[];
  float *k_tile = reinterpret_cast<float*>(shared), *v_tile = k_tile + attention_block * D, *q_tile = v_tile + attention_block * D,
        *dy_tile = q_tile + attention_block * (D + 4), *p_tile = dy_tile + attention_block * (D + 4),
        *ds_tile = p_tile + attention_block * attention_block;
  int sequence, first;
  if (!find_tile(args.offsets, args.sequences, blockIdx.x, sequence, first)) return;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32, kv_head = static_cast<int>(blockIdx.y),
            group = args.heads / args.kv_heads, start = args.offsets[sequence], length = args.offsets[sequence + 1] - start,
            count = min(attention_block, length - first);
  const std::int64_t q_stride = static_cast<std::int64_t>(args.heads) * args.head_dim,
                     k_stride = static_cast<std::int64_t>(args.kv_heads) * args.head_dim,
                     k_start = (start + first) * k_stride + kv_head * args.head_dim;
  load_tile<D, D>(k_tile, count, args.head_dim, args.vector, [&](int row) { return args.k + k_start + row * k_stride; });
  load_tile<D, D>(v_tile, count, args.head_dim, args.vector, [&](int row) { return args.v + k_start + row * k_stride; });
  float dk[rows_per_warp][D / 32] = {}, dv[rows_per_warp][D / 32] = {};
  for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    const std::int64_t q_start = start * q_stride + head * args.head_dim;
    for (int block = args.causal ? first : 0; block < length; block += attention_block) {
      __syncthreads();
      const int queries = min(attention_block, length - block);
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
        const bool seen = row < count && lane < queries && (!args.causal || first + row <= block + lane);
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
      if (args.dk != nullptr) args.dk[to] += dk[i][j];
      if (args.dv != nullptr) args.dv[to] += dv[i][j];
    }
  }
}

}  // namespace

template <>
std::size_t scratch_bytes(const AttentionBackward& a) {
  return static_cast<std::size_t>(a.q.rows() * a.shape.heads) * sizeof(float);
}

template <>
void run(const AttentionBackward& a, Stream stream) {
  require_f32("attention_backward", {&a.q, &a.k, &a.v, &a.y, &a.log_sum_exp, &a.dy, &a.dq, &a.dk, &a.dv});
  require("attention_backward", DType::i32, {&a.sequence_offsets});
  require_scratch("attention_backward", a.scratch, scratch_bytes(a));
  check_attention("attention_backward", a.shape);
  const std::int64_t tokens = a.q.rows(), sequences = a.sequence_offsets.size() - 1;
  if (tokens == 0 || sequences < 1) return;
  const BackwardArgs args{a.shape.heads,
                          a.shape.kv_heads,
                          a.shape.head_dim,
                          static_cast<int>(sequences),
                          a.shape.causal,
                          vector_rows(a.shape, {&a.q, &a.k, &a.v, &a.dy}),
                          static_cast<float>(a.shape.scale),
                          a.q.as<float>(),
                          a.k.as<float>(),
                          a.v.as<float>(),
                          a.y.as<float>(),
                          a.dy.as<float>(),
                          a.log_sum_exp.as<float>(),
                          a.sequence_offsets.as<std::int32_t>(),
                          a.dq.as<float>(),
                          a.dk.as<float>(),
                          a.dv.as<float>(),
                          a.scratch.as<float>()};
  const std::int64_t rows = tokens * a.shape.heads;
  delta_kernel<<<blocks_for(rows, block_threads / 32), block_threads, 0, native(stream)>>>(rows, args.head_dim, args.y, args.dy,
                                                                                           args.delta);
  check_launch("attention_backward");
  const unsigned tiles = blocks_for(tile_count(tokens, sequences), 1);
  dispatch_head_dim("attention_backward", args.head_dim, [&](auto dim) {
    constexpr int D = decltype(dim)::value;
    if (args.dq != nullptr) {
      allow_shared_bytes(query_gradient_kernel<D>, query_shared_bytes<D>);
      query_gradient_kernel<D>
          <<<dim3(tiles, static_cast<unsigned>(args.heads)), attention_threads, query_shared_bytes<D>, native(stream)>>>(args);
      check_launch("attention_backward");
    }
    if (args.dk != nullptr || args.dv != nullptr) {
      allow_shared_bytes(key_gradient_kernel<D>, key_shared_bytes<D>);
      key_gradient_kernel<D>
          <<<dim3(tiles, static_cast<unsigned>(args.kv_heads)), attention_threads, key_shared_bytes<D>, native(stream)>>>(args);
      check_launch("attention_backward");
    }
  });
}

}  // namespace expctr::cuda
