// Gradient of attention on tensor cores, bf16 storage, without atomics. First the statistics of every query and head: delta = dy . y and
// log_sum_exp, laid out by head. Then a launch with a block for 64 queries of a head that visits key tiles in order (dq), and one with a
// block for 64 keys of a key-value head that visits the group's heads and their query tiles in order (dk, dv). Both compute the
// probabilities again; the second works on transposed scores, so that its accumulators, too, become left factors in registers.
// FLOPs a head: 3 products in the first launch, 4 in the second: 14 tokens^2 head_dim, half of it times (1 + 1 / n) when causal with tokens
// = 64 n (1.06 at 1,024 tokens). One launch with all five products needs 10, but must add dq across blocks, in a fixed order and in
// float32: a pair of tiles then reads and writes 8 x 64 head_dim bytes more, 1,400 cycles of an SM's share of L2 (5.5 TB/s over 132 SMs
// at 1.7 GHz: 24 bytes a cycle) at head_dim 64, where the 4 x 64 x 64 head_dim FLOPs that it saves take 510 (mma: 2,048 FLOPs a cycle and
// SM). So: two. Bytes a head, requested: dq: q, dy, dq (read and written) once, 8 tokens head_dim; keys and values once a query tile, 4
// head_dim x 64 x tiles; dk, dv: keys, values and their gradients once, 12 tokens head_dim a key-value head; q and dy once a key tile, (4
// head_dim + 8) x 64 x tiles. Bound by tensor cores and shared memory alike, as the forward pass.
//
// Source: Dao 2023 (FlashAttention-2), its two loops as two launches.
#include "cuda/attention_mma.cuh"
#include "cuda/attention_mma.h"

namespace expctr::cuda {

namespace {

struct MmaBackwardArgs {
  int heads, kv_heads, head_dim;
  float scale;
  std::int64_t tokens;
  const std::uint16_t *q, *k, *v, *y, *dy;
  const float* log_sum_exp;
  SequenceArgs sequences;
  std::uint16_t *dq, *dk, *dv;
  float *log2_sums, *delta;  ///< [heads, tokens]: log_sum_exp times log2(e), dy . y
};

constexpr int statistics_threads = 256, statistics_tokens = statistics_threads / 8;

/// Eight lanes a token, a block 32 tokens of one head.
__global__ void __launch_bounds__(statistics_threads) statistics_kernel(const __grid_constant__ MmaBackwardArgs args) {
  __shared__ float sums[statistics_tokens];
  const int place = static_cast<int>(threadIdx.x) / 8, head = static_cast<int>(blockIdx.y);
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * statistics_tokens, token = first + place;
  float sum = 0;
  if (token < args.tokens)
    for (int column = static_cast<int>(threadIdx.x) % 8 * 8; column < args.head_dim; column += 64) {
      const std::int64_t at = (token * args.heads + head) * args.head_dim + column;
      const uint4 a = *reinterpret_cast<const uint4*>(args.y + at), b = *reinterpret_cast<const uint4*>(args.dy + at);
      const std::uint32_t x[4] = {a.x, a.y, a.z, a.w}, g[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        sum += float_of_bits(x[i] << 16) * float_of_bits(g[i] << 16);
        sum += float_of_bits(x[i] & 0xFFFF0000u) * float_of_bits(g[i] & 0xFFFF0000u);
      }
    }
#pragma unroll
  for (int offset = 4; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, offset);
  if (threadIdx.x % 8 == 0) sums[place] = sum;
  __syncthreads();
  const std::int64_t mine = first + threadIdx.x;
  if (threadIdx.x >= statistics_tokens || mine >= args.tokens) return;
  args.delta[head * args.tokens + mine] = sums[threadIdx.x];
  args.log2_sums[head * args.tokens + mine] = args.log_sum_exp[mine * args.heads + head] * log2_of_e;
}

/// Rows of the other side's tiles: fewer where two accumulators of head_dim columns leave few registers.
template <int D>
constexpr int other_rows = D <= 96 ? 64 : 32;

template <int D>
constexpr std::uint32_t query_gradient_bytes = tile_bytes<D>(2 * mma_rows + 4 * other_rows<D>);
template <int D>
constexpr std::uint32_t key_gradient_bytes = tile_bytes<D>(2 * mma_rows + 4 * other_rows<D>) + 4 * other_rows<D> * sizeof(float);

template <int D>
__global__ void __launch_bounds__(mma_threads, 2) mma_query_gradient_kernel(const __grid_constant__ MmaBackwardArgs args) {
  extern __shared__ __align__(128) uint4 shared[];
  constexpr int other = other_rows<D>;
  constexpr std::uint32_t own_bytes = tile_bytes<D>(mma_rows), other_bytes = tile_bytes<D>(other);
  const std::uint32_t q_tile = shared_address(shared), dy_tile = q_tile + own_bytes, stages = dy_tile + own_bytes;
  int sequence, first;
  if (!find_tile<mma_rows>(args.sequences.query_offsets, args.sequences.count, static_cast<int>(gridDim.x - 1 - blockIdx.x), sequence,
                           first))
    return;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32, head = static_cast<int>(blockIdx.y);
  const KeyRange range = args.sequences.range(sequence);
  const int q_stride = args.heads * args.head_dim, k_stride = args.kv_heads * args.head_dim;
  const std::int64_t start = args.sequences.query_offsets[sequence] + first, q_start = start * q_stride + head * args.head_dim,
                     k_start =
                         product(args.sequences.key_offsets[sequence], k_stride) + head / (args.heads / args.kv_heads) * args.head_dim;
  const int count = min(mma_rows, range.queries - first), key_begin = range.first(first) / other * other,
            key_end = range.end(first + count - 1);
  if (key_begin >= key_end) return;
  const auto copy_keys = [&](int stage, int block) {
    const std::uint32_t to = stages + static_cast<std::uint32_t>(stage) * 2 * other_bytes;
    copy_rows<D, other>(to, key_end - block, args.head_dim, [&](int r) { return args.k + k_start + product(block + r, k_stride); });
    copy_rows<D, other>(to + other_bytes, key_end - block, args.head_dim,
                        [&](int r) { return args.v + k_start + product(block + r, k_stride); });
    close_copies();
  };
  copy_rows<D, mma_rows>(q_tile, count, args.head_dim, [&](int r) { return args.q + q_start + product(r, q_stride); });
  copy_rows<D, mma_rows>(dy_tile, count, args.head_dim, [&](int r) { return args.dy + q_start + product(r, q_stride); });
  copy_keys(0, key_begin);
  const int place = 16 * warp + lane / 4, row = first + place;
  const int low[2] = {range.first(row), range.first(row + 8)}, high[2] = {range.end(row), range.end(row + 8)};
  const int all_from = range.first(first + count - 1), all_to = range.end(first);
  float log2_sum[2] = {}, delta[2] = {};
#pragma unroll
  for (int half = 0; half < 2; ++half)
    if (place + 8 * half < count) {
      const std::int64_t at = head * args.tokens + start + place + 8 * half;
      log2_sum[half] = args.log2_sums[at];
      delta[half] = args.delta[at];
    }
  wait_for_copies();
  __syncthreads();
  Fragment q[D / 16], dy[D / 16];
  left_fragments<D>(q_tile, warp, lane, q);
  left_fragments<D>(dy_tile, warp, lane, dy);
  const float scale = args.scale * log2_of_e;
  float sums[D / 8][4] = {};
  for (int block = key_begin, stage = 0; block < key_end; block += other, stage ^= 1) {
    wait_for_copies();
    __syncthreads();
    if (block + other < key_end) copy_keys(stage ^ 1, block + other);
    const std::uint32_t k_tile = stages + static_cast<std::uint32_t>(stage) * 2 * other_bytes;
    float scores[other / 8][4], dp[other / 8][4];
    row_products_mma<D, other>(scores, k_tile, lane, [&](int step) { return q[step]; });
    row_products_mma<D, other>(dp, k_tile + other_bytes, lane, [&](int step) { return dy[step]; });
#pragma unroll
    for (int n = 0; n < other / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float p = exp2_fast(scores[n][i] * scale - log2_sum[i / 2]);
        scores[n][i] = p * (dp[n][i] - delta[i / 2]);
      }
    if (block < all_from || block + other > all_to) {
#pragma unroll
      for (int n = 0; n < other / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int key = block + 8 * n + lane % 4 * 2 + i % 2;
          if (key < low[i / 2] || key >= high[i / 2]) scores[n][i] = 0;
        }
    }
    Fragment ds[other / 16];
    as_left_factor<other>(scores, ds);
    add_weighted_rows_mma<D, other>(sums, ds, k_tile, lane);
  }
  write_rows<D, true>(
      sums, count - 16 * warp, args.head_dim, lane, [&](int r) { return args.dq + q_start + product(16 * warp + r, q_stride); },
      [&](int) { return args.scale; });
}

/// A warp has 16 keys: scores, and all that follows from them, are transposed.
template <int D>
__global__ void __launch_bounds__(mma_threads, 2) mma_key_gradient_kernel(const __grid_constant__ MmaBackwardArgs args) {
  extern __shared__ __align__(128) uint4 shared[];
  constexpr int other = other_rows<D>;
  constexpr bool keep = D <= 64;  // keys and values stay in registers as left factors
  constexpr std::uint32_t own_bytes = tile_bytes<D>(mma_rows), other_bytes = tile_bytes<D>(other);
  const std::uint32_t k_tile = shared_address(shared), v_tile = k_tile + own_bytes, stages = v_tile + own_bytes;
  const float* statistics = reinterpret_cast<const float*>(reinterpret_cast<const char*>(shared) + 2 * own_bytes + 4 * other_bytes);
  int sequence, first;
  if (!find_tile<mma_rows>(args.sequences.key_offsets, args.sequences.count, static_cast<int>(blockIdx.x), sequence, first)) return;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32, kv_head = static_cast<int>(blockIdx.y),
            group = args.heads / args.kv_heads;
  const KeyRange range = args.sequences.range(sequence);
  const int count = min(mma_rows, range.keys - first);
  if (count <= 0) return;
  const int q_stride = args.heads * args.head_dim, k_stride = args.kv_heads * args.head_dim;
  const std::int64_t start = args.sequences.query_offsets[sequence],
                     k_start = product(args.sequences.key_offsets[sequence] + first, k_stride) + kv_head * args.head_dim;
  const int query_begin = range.first_query(first) / other * other, query_end = range.end_query(first + count - 1);
  if (query_begin >= query_end) return;
  const int blocks = (query_end - query_begin + other - 1) / other, steps = blocks * group;
  // Step i: head kv_head group + i / blocks, queries query_begin + i % blocks other and on.
  const auto copy_queries = [&](int stage, int step) {
    const int head = kv_head * group + step / blocks, block = query_begin + step % blocks * other, rows = query_end - block;
    const std::int64_t q_start = (start + block) * q_stride + head * args.head_dim;
    const std::uint32_t to = stages + static_cast<std::uint32_t>(stage) * 2 * other_bytes;
    copy_rows<D, other>(to, rows, args.head_dim, [&](int r) { return args.q + q_start + product(r, q_stride); });
    copy_rows<D, other>(to + other_bytes, rows, args.head_dim, [&](int r) { return args.dy + q_start + product(r, q_stride); });
    if (threadIdx.x < 2 * other) {
      const int r = static_cast<int>(threadIdx.x) % other;
      const bool inside = r < rows;
      const float* from = threadIdx.x < other ? args.log2_sums : args.delta;
      copy_4(shared_address(statistics + stage * 2 * other + static_cast<int>(threadIdx.x)),
             inside ? from + head * args.tokens + start + block + r : from, inside ? 4 : 0);
    }
    close_copies();
  };
  copy_rows<D, mma_rows>(k_tile, count, args.head_dim, [&](int r) { return args.k + k_start + product(r, k_stride); });
  copy_rows<D, mma_rows>(v_tile, count, args.head_dim, [&](int r) { return args.v + k_start + product(r, k_stride); });
  copy_queries(0, 0);
  wait_for_copies();
  __syncthreads();
  Fragment keys[keep ? D / 16 : 1], values[keep ? D / 16 : 1];
  if constexpr (keep) {
    left_fragments<D>(k_tile, warp, lane, keys);
    left_fragments<D>(v_tile, warp, lane, values);
  }
  const auto left = [&](const auto& kept, std::uint32_t tile, int step) {
    if constexpr (keep)
      return kept[step];
    else
      return left_fragment<D>(tile, warp, step, lane);
  };
  const int key = first + 16 * warp + lane / 4;
  const int low[2] = {range.first_query(key), range.first_query(key + 8)}, high[2] = {range.end_query(key), range.end_query(key + 8)};
  const int all_from = range.first_query(first + count - 1), all_to = range.end_query(first);  // queries that see every key of the tile
  const float scale = args.scale * log2_of_e;
  float dk[D / 8][4] = {}, dv[D / 8][4] = {};
  for (int step = 0, stage = 0; step < steps; ++step, stage ^= 1) {
    wait_for_copies();
    __syncthreads();
    if (step + 1 < steps) copy_queries(stage ^ 1, step + 1);
    const int block = query_begin + step % blocks * other;
    const std::uint32_t q_tile = stages + static_cast<std::uint32_t>(stage) * 2 * other_bytes, dy_tile = q_tile + other_bytes;
    const float *log2_sums = statistics + stage * 2 * other, *delta = log2_sums + other;
    float scores[other / 8][4], dp[other / 8][4];
    row_products_mma<D, other>(scores, q_tile, lane, [&](int i) { return left(keys, k_tile, i); });
#pragma unroll
    for (int n = 0; n < other / 8; ++n) {
      const float2 shift = *reinterpret_cast<const float2*>(log2_sums + 8 * n + lane % 4 * 2);
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[n][i] = exp2_fast(scores[n][i] * scale - (i % 2 == 0 ? shift.x : shift.y));
    }
    if (block < all_from || block + other > all_to) {
#pragma unroll
      for (int n = 0; n < other / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int query = block + 8 * n + lane % 4 * 2 + i % 2;
          if (query < low[i / 2] || query >= high[i / 2]) scores[n][i] = 0;
        }
    }
    Fragment weights[other / 16];
    as_left_factor<other>(scores, weights);
    if (args.dv != nullptr) add_weighted_rows_mma<D, other>(dv, weights, dy_tile, lane);
    if (args.dk == nullptr) continue;
    row_products_mma<D, other>(dp, dy_tile, lane, [&](int i) { return left(values, v_tile, i); });
#pragma unroll
    for (int n = 0; n < other / 8; ++n) {
      const float2 sum = *reinterpret_cast<const float2*>(delta + 8 * n + lane % 4 * 2);
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[n][i] *= dp[n][i] - (i % 2 == 0 ? sum.x : sum.y);
    }
    as_left_factor<other>(scores, weights);
    add_weighted_rows_mma<D, other>(dk, weights, q_tile, lane);
  }
  const auto write = [&](const float(&sums)[D / 8][4], std::uint16_t* to, float factor) {
    write_rows<D, true>(
        sums, count - 16 * warp, args.head_dim, lane, [&](int r) { return to + k_start + product(16 * warp + r, k_stride); },
        [&](int) { return factor; });
  };
  if (args.dk != nullptr) write(dk, args.dk, args.scale);
  if (args.dv != nullptr) write(dv, args.dv, 1.0f);
}

}  // namespace

void backward_on_tensor_cores(const AttentionBackward& a, Stream stream) {
  MmaBackwardArgs args{};
  args.heads = a.shape.heads;
  args.kv_heads = a.shape.kv_heads;
  args.head_dim = a.shape.head_dim;
  args.scale = static_cast<float>(a.shape.scale);
  args.tokens = a.q.rows();
  args.q = a.q.as<std::uint16_t>();
  args.k = a.k.as<std::uint16_t>();
  args.v = a.v.as<std::uint16_t>();
  args.y = a.y.as<std::uint16_t>();
  args.dy = a.dy.as<std::uint16_t>();
  args.log_sum_exp = a.log_sum_exp.as<float>();
  args.sequences = sequence_args(a);
  args.dq = a.dq.as<std::uint16_t>();
  args.dk = a.dk.as<std::uint16_t>();
  args.dv = a.dv.as<std::uint16_t>();
  args.log2_sums = a.scratch.as<float>();
  args.delta = args.log2_sums + args.tokens * args.heads;
  const unsigned heads = static_cast<unsigned>(args.heads), kv_heads = static_cast<unsigned>(args.kv_heads);
  statistics_kernel<<<dim3(blocks_for(args.tokens, statistics_tokens), heads), statistics_threads, 0, native(stream)>>>(args);
  check_launch("attention_backward");
  dispatch_width<32, 64, 96, 128>("attention_backward", args.head_dim, [&](auto dim) {
    constexpr int D = decltype(dim)::value;
    if (args.dq != nullptr) {
      allow_shared_bytes(mma_query_gradient_kernel<D>, query_gradient_bytes<D>);
      mma_query_gradient_kernel<D>
          <<<dim3(tile_count<mma_rows>(args.tokens, args.sequences.count), heads), mma_threads, query_gradient_bytes<D>, native(stream)>>>(
              args);
      check_launch("attention_backward");
    }
    if (args.dk != nullptr || args.dv != nullptr) {
      allow_shared_bytes(mma_key_gradient_kernel<D>, key_gradient_bytes<D>);
      mma_key_gradient_kernel<D>
          <<<dim3(tile_count<mma_rows>(a.k.rows(), args.sequences.count), kv_heads), mma_threads, key_gradient_bytes<D>, native(stream)>>>(
              args);
      check_launch("attention_backward");
    }
  });
}

}  // namespace expctr::cuda
