// Attention forward, and over the paged cache. Tiles of 32 queries x 32 keys, online softmax in float32, nothing of size [tokens, tokens]:
// 4 tokens^2 head_dim FLOPs a head (half of it when causal); a block reads its keys and values once per 32 queries. A warp has 8 queries, a
// lane a key for the scores and head_dim / 32 columns for the sums: 9 shared loads for 32 multiply-adds, so bound by shared memory, then by
// arithmetic. Decoding (few queries a sequence): a block a query and head, its 4 warps take key blocks in turn and merge in order; bound by
// reading the cache, 8 bytes a key, key-value head and column.   Source: Dao et al. 2022 (tiling); Kwon et al. 2023 (pages).
#include "cuda/attention_tile.cuh"

namespace expctr::cuda {

namespace {

/// Keys and values of one sequence: consecutive rows, or pages of attention_block rows.
struct Rows {
  const float *keys, *values;
  const std::int32_t* pages;  ///< null: consecutive
  std::int64_t stride;        ///< floats from token to token
  __device__ __forceinline__ std::int64_t at(int token) const {
    const std::int64_t row =
        pages == nullptr ? token : static_cast<std::int64_t>(pages[token / attention_block]) * attention_block + token % attention_block;
    return row * stride;
  }
};

struct ForwardArgs {
  int heads, kv_heads, head_dim, sequences;
  bool causal, vector;
  float scale;
  const float *q, *k, *v;
  const std::int32_t *offsets, *context_lengths, *page_table;  ///< the last two null without pages
  std::int64_t most_pages;
  float *y, *log_sum_exp;  ///< log_sum_exp may be null

  /// Keys of a sequence, for one key-value head; `context` = their number.
  __device__ __forceinline__ Rows rows_of(int sequence, int kv_head, int& context) const {
    Rows rows;
    rows.stride = static_cast<std::int64_t>(kv_heads) * head_dim;
    std::int64_t start = static_cast<std::int64_t>(kv_head) * head_dim;
    if (page_table == nullptr) {
      context = offsets[sequence + 1] - offsets[sequence];
      start += offsets[sequence] * rows.stride;
      rows.pages = nullptr;
    } else {
      context = context_lengths[sequence];
      rows.pages = page_table + sequence * most_pages;
    }
    rows.keys = k + start;
    rows.values = v + start;
    return rows;
  }
};

template <int D>
constexpr std::size_t forward_shared_bytes = (attention_block * (3 * D + 4) + attention_block * attention_block) * sizeof(float);

template <int D>
__global__ void __launch_bounds__(attention_threads, blocks_at_least<D>) forward_kernel(const __grid_constant__ ForwardArgs args) {
  extern __shared__ float4 shared[];
  float *q_tile = reinterpret_cast<float*>(shared), *k_tile = q_tile + attention_block * D, *v_tile = k_tile + attention_block * (D + 4),
        *p_tile = v_tile + attention_block * D;
  int sequence, first;
  if (!find_tile(args.offsets, args.sequences, blockIdx.x, sequence, first)) return;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32, head = static_cast<int>(blockIdx.y),
            start = args.offsets[sequence], queries = args.offsets[sequence + 1] - start;
  int context;
  const Rows rows = args.rows_of(sequence, head / (args.heads / args.kv_heads), context);
  const std::int64_t q_stride = static_cast<std::int64_t>(args.heads) * args.head_dim,
                     q_start = (start + first) * q_stride + head * args.head_dim;
  const int count = min(attention_block, queries - first), shift = context - queries;  // query i stands at position shift + i
  load_tile<D, D>(q_tile, count, args.head_dim, args.vector, [&](int row) { return args.q + q_start + row * q_stride; });

  float sums[rows_per_warp][D / 32] = {}, maximum[rows_per_warp], total[rows_per_warp] = {};
#pragma unroll
  for (int i = 0; i < rows_per_warp; ++i) maximum[i] = -INFINITY;
  const int key_end = args.causal ? shift + first + count : context;
  for (int block = 0; block < key_end; block += attention_block) {
    __syncthreads();
    const int keys = min(attention_block, context - block);
    load_tile<D, D + 4>(k_tile, keys, args.head_dim, args.vector, [&](int row) { return rows.keys + rows.at(block + row); });
    load_tile<D, D>(v_tile, keys, args.head_dim, args.vector, [&](int row) { return rows.values + rows.at(block + row); });
    __syncthreads();
    float scores[rows_per_warp];
    row_products<D, D, D + 4>(q_tile, k_tile, warp, lane, scores);
#pragma unroll
    for (int i = 0; i < rows_per_warp; ++i) {
      const int position = shift + first + warp * rows_per_warp + i;
      const bool seen = lane < keys && (!args.causal || block + lane <= position);
      const float score = seen ? scores[i] * args.scale : -INFINITY, most = fmaxf(maximum[i], warp_maximum(score));
      // Key 0 is seen by every query, so the maximum is finite from the first block on.
      const float p = expf(score - most), correction = expf(maximum[i] - most);
      maximum[i] = most;
      total[i] = total[i] * correction + warp_sum(p);
#pragma unroll
      for (int j = 0; j < D / 32; ++j) sums[i][j] *= correction;
      p_tile[(warp * rows_per_warp + i) * attention_block + lane] = p;
    }
    __syncwarp();
    add_weighted_rows<D, D>(p_tile, v_tile, warp, lane, sums);
  }
#pragma unroll
  for (int i = 0; i < rows_per_warp; ++i) {
    const int row = warp * rows_per_warp + i;
    if (row >= count) break;
    const float inverse = 1.0f / total[i];
#pragma unroll
    for (int j = 0; j < D / 32; ++j)
      if (lane + 32 * j < args.head_dim) args.y[q_start + row * q_stride + lane + 32 * j] = sums[i][j] * inverse;
    if (lane == 0 && args.log_sum_exp != nullptr)
      args.log_sum_exp[static_cast<std::int64_t>(start + first + row) * args.heads + head] = maximum[i] + logf(total[i]);
  }
}

/// A block a query and head; causal, so the query sees the keys up to its own position.
template <int D>
__global__ void __launch_bounds__(attention_threads, 1) decode_kernel(const __grid_constant__ ForwardArgs args) {
  __shared__ __align__(16) float query[D];
  __shared__ float parts[attention_warps][D], maxima[attention_warps], totals[attention_warps];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32, head = static_cast<int>(blockIdx.y),
            token = static_cast<int>(blockIdx.x);
  int low = 0, high = args.sequences;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (args.offsets[middle] <= token ? low : high) = middle;
  }
  if (token < args.offsets[low] || token >= args.offsets[low + 1]) return;
  int context;
  const Rows rows = args.rows_of(low, head / (args.heads / args.kv_heads), context);
  const int keys = context - (args.offsets[low + 1] - args.offsets[low]) + (token - args.offsets[low]) + 1;
  const std::int64_t at = (static_cast<std::int64_t>(token) * args.heads + head) * args.head_dim;
  for (int d = static_cast<int>(threadIdx.x); d < D; d += attention_threads) query[d] = d < args.head_dim ? args.q[at + d] : 0.0f;
  __syncthreads();

  float sums[D / 32] = {}, maximum = -INFINITY, total = 0;
  for (int block = warp * attention_block; block < keys; block += attention_warps * attention_block) {
    const int key = block + lane;
    float score = -INFINITY;
    if (key < keys) {
      const float* row = rows.keys + rows.at(key);
      float dot = 0;
      if (args.vector) {
#pragma unroll 8
        for (int d = 0; d < args.head_dim; d += 4) {
          const float4 a = *reinterpret_cast<const float4*>(query + d), b = *reinterpret_cast<const float4*>(row + d);
          dot += a.x * b.x;
          dot += a.y * b.y;
          dot += a.z * b.z;
          dot += a.w * b.w;
        }
      } else {
        for (int d = 0; d < args.head_dim; ++d) dot += query[d] * row[d];
      }
      score = dot * args.scale;
    }
    const float most = fmaxf(maximum, warp_maximum(score)), p = expf(score - most), correction = expf(maximum - most);
    maximum = most;
    total = total * correction + warp_sum(p);
#pragma unroll
    for (int j = 0; j < D / 32; ++j) sums[j] *= correction;
    const int here = min(attention_block, keys - block);
    const float* values = rows.values + rows.at(block);  // a block lies in one page
#pragma unroll 4
    for (int k = 0; k < here; ++k) {
      const float weight = __shfl_sync(0xFFFFFFFFu, p, k);
#pragma unroll
      for (int j = 0; j < D / 32; ++j)
        if (lane + 32 * j < args.head_dim) sums[j] += weight * values[k * rows.stride + lane + 32 * j];
    }
  }
#pragma unroll
  for (int j = 0; j < D / 32; ++j) parts[warp][lane + 32 * j] = sums[j];
  if (lane == 0) {
    maxima[warp] = maximum;
    totals[warp] = total;
  }
  __syncthreads();
  float most = maxima[0];
#pragma unroll
  for (int w = 1; w < attention_warps; ++w) most = fmaxf(most, maxima[w]);
  float weights[attention_warps], sum = 0;
#pragma unroll
  for (int w = 0; w < attention_warps; ++w) {
    weights[w] = expf(maxima[w] - most);
    sum += totals[w] * weights[w];
  }
  for (int d = static_cast<int>(threadIdx.x); d < args.head_dim; d += attention_threads) {
    float value = 0;
#pragma unroll
    for (int w = 0; w < attention_warps; ++w) value += parts[w][d] * weights[w];
    args.y[at + d] = value / sum;
  }
}

/// Rows of `width` floats (float4 when Vector) to their slots; a negative slot is skipped.
template <class T>
__global__ void __launch_bounds__(block_threads)
    store_kernel(std::int64_t total, std::int64_t width, const T* k, const T* v, const std::int32_t* slots, T* key_pages, T* value_pages) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x;
  if (i >= total) return;
  const std::int64_t token = i / width, slot = slots[token];
  if (slot < 0) return;
  const std::int64_t to = slot * width + (i - token * width);
  key_pages[to] = k[i];
  value_pages[to] = v[i];
}

ForwardArgs common_args(const AttentionShape& shape, const View& q, const View& offsets, const View& y) {
  ForwardArgs args{};
  args.heads = shape.heads;
  args.kv_heads = shape.kv_heads;
  args.head_dim = shape.head_dim;
  args.sequences = static_cast<int>(offsets.size()) - 1;
  args.scale = static_cast<float>(shape.scale);
  args.q = q.as<float>();
  args.offsets = offsets.as<std::int32_t>();
  args.y = y.as<float>();
  return args;
}

void launch_tiles(const char* name, const ForwardArgs& args, std::int64_t tokens, Stream stream) {
  dispatch_head_dim(name, args.head_dim, [&](auto dim) {
    constexpr int D = decltype(dim)::value;
    allow_shared_bytes(forward_kernel<D>, forward_shared_bytes<D>);
    const dim3 grid(blocks_for(tile_count(tokens, args.sequences), 1), static_cast<unsigned>(args.heads));
    forward_kernel<D><<<grid, attention_threads, forward_shared_bytes<D>, native(stream)>>>(args);
  });
  check_launch(name);
}

}  // namespace

template <>
void run(const AttentionForward& a, Stream stream) {
  require_f32("attention", {&a.q, &a.k, &a.v, &a.y, &a.log_sum_exp});
  require("attention", DType::i32, {&a.sequence_offsets});
  check_attention("attention", a.shape);
  ForwardArgs args = common_args(a.shape, a.q, a.sequence_offsets, a.y);
  args.causal = a.shape.causal;
  args.vector = vector_rows(a.shape, {&a.q, &a.k, &a.v});
  args.k = a.k.as<float>();
  args.v = a.v.as<float>();
  args.log_sum_exp = a.log_sum_exp.as<float>();
  const std::int64_t tokens = a.q.rows();
  if (tokens == 0 || args.sequences < 1) return;
  launch_tiles("attention", args, tokens, stream);
}

template <>
void run(const PagedAttention& a, Stream stream) {
  require_f32("paged_attention", {&a.q, &a.key_pages, &a.value_pages, &a.y});
  require("paged_attention", DType::i32, {&a.query_offsets, &a.context_lengths, &a.page_table});
  check_attention("paged_attention", a.shape);
  ForwardArgs args = common_args(a.shape, a.q, a.query_offsets, a.y);
  args.causal = true;
  args.vector = vector_rows(a.shape, {&a.q, &a.key_pages, &a.value_pages});
  args.k = a.key_pages.as<float>();
  args.v = a.value_pages.as<float>();
  args.context_lengths = a.context_lengths.as<std::int32_t>();
  args.page_table = a.page_table.as<std::int32_t>();
  args.most_pages = a.page_table.width();
  const std::int64_t tokens = a.q.rows();
  if (tokens == 0 || args.sequences < 1) return;
  if (tokens >= 4 * static_cast<std::int64_t>(args.sequences)) return launch_tiles("paged_attention", args, tokens, stream);
  dispatch_head_dim("paged_attention", args.head_dim, [&](auto dim) {
    const dim3 grid(blocks_for(tokens, 1), static_cast<unsigned>(args.heads));
    decode_kernel<decltype(dim)::value><<<grid, attention_threads, 0, native(stream)>>>(args);
  });
  check_launch("paged_attention");
}

template <>
void run(const StoreKeysValues& args, Stream stream) {
  require_f32("store_keys_values", {&args.k, &args.v, &args.key_pages, &args.value_pages});
  require("store_keys_values", DType::i32, {&args.slots});
  const std::int64_t total = args.k.size(), width = args.k.width();
  if (total == 0) return;
  if (width % 4 == 0 && aligned16(args.k.data) && aligned16(args.v.data) && aligned16(args.key_pages.data) &&
      aligned16(args.value_pages.data))
    store_kernel<<<blocks_for(total / 4, block_threads), block_threads, 0, native(stream)>>>(
        total / 4, width / 4, args.k.as<const float4>(), args.v.as<const float4>(), args.slots.as<std::int32_t>(),
        args.key_pages.as<float4>(), args.value_pages.as<float4>());
  else
    store_kernel<<<blocks_for(total, block_threads), block_threads, 0, native(stream)>>>(
        total, width, args.k.as<const float>(), args.v.as<const float>(), args.slots.as<std::int32_t>(), args.key_pages.as<float>(),
        args.value_pages.as<float>());
  check_launch("store_keys_values");
}

}  // namespace expctr::cuda
