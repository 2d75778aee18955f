// Attention forward in float32 arithmetic: f32 storage, and the bf16 rows that tensor cores do not take (cuda/attention_mma.h). Tiles of 32
// queries x 32 keys, online softmax, nothing of size [tokens, tokens]: 4 tokens^2 head_dim FLOPs a head (half of it when causal); a block
// reads its keys and values once per 32 queries. A warp has 8 queries, a lane a key for the scores and head_dim / 32 columns for the sums:
// 9 shared loads for 32 multiply-adds, so bound by shared memory, then by arithmetic. Source: Dao et al. 2022 (tiling); Kwon et al. 2023
// (pages).
#include "cuda/attention_mma.h"
#include "cuda/attention_tile.cuh"

namespace expctr::cuda {

namespace {

/// Keys and values of one sequence: consecutive rows, or pages of attention_block rows.
template <class T>
struct Rows {
  const T *keys, *values;
  const std::int32_t* pages;  ///< null: consecutive
  std::int64_t stride;        ///< elements from token to token
  __device__ __forceinline__ std::int64_t at(int token) const {
    const std::int64_t row =
        pages == nullptr ? token : static_cast<std::int64_t>(pages[token / attention_block]) * attention_block + token % attention_block;
    return row * stride;
  }
};

template <class T>
struct ForwardArgs {
  int heads, kv_heads, head_dim;
  bool vector;
  float scale;
  const T *q, *k, *v;
  SequenceArgs sequences;
  const std::int32_t *context_lengths, *page_table;  ///< null without pages
  std::int64_t most_pages;
  T* y;
  float* log_sum_exp;  ///< may be null

  /// Keys of a sequence, for one key-value head, and which of them are seen.
  __device__ __forceinline__ Rows<T> rows_of(int sequence, int kv_head, KeyRange& range) const {
    Rows<T> rows;
    rows.stride = static_cast<std::int64_t>(kv_heads) * head_dim;
    std::int64_t start = static_cast<std::int64_t>(kv_head) * head_dim;
    if (page_table == nullptr) {
      range = sequences.range(sequence);
      start += sequences.key_offsets[sequence] * rows.stride;
      rows.pages = nullptr;
    } else {
      const int queries = sequences.query_offsets[sequence + 1] - sequences.query_offsets[sequence], context = context_lengths[sequence];
      range = {queries, context, context - queries, 0, sequences.window, true};
      rows.pages = page_table + sequence * most_pages;
    }
    rows.keys = k + start;
    rows.values = v + start;
    return rows;
  }
};

template <int D>
constexpr std::size_t forward_shared_bytes = (attention_block * (3 * D + 4) + attention_block * attention_block) * sizeof(float);

template <class T, int D>
__global__ void __launch_bounds__(attention_threads, blocks_at_least<D>) forward_kernel(const __grid_constant__ ForwardArgs<T> args) {
  extern __shared__ float4 shared[];
  __shared__ int2 seen_keys[attention_block];  // first and end by query: in registers they would be spilled
  float *q_tile = reinterpret_cast<float*>(shared), *k_tile = q_tile + attention_block * D, *v_tile = k_tile + attention_block * (D + 4),
        *p_tile = v_tile + attention_block * D;
  int sequence, first;
  if (!find_tile<attention_block>(args.sequences.query_offsets, args.sequences.count, static_cast<int>(blockIdx.x), sequence, first))
    return;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32, head = static_cast<int>(blockIdx.y),
            start = args.sequences.query_offsets[sequence];
  KeyRange range;
  const Rows<T> rows = args.rows_of(sequence, head / (args.heads / args.kv_heads), range);
  const std::int64_t q_stride = static_cast<std::int64_t>(args.heads) * args.head_dim,
                     q_start = (start + first) * q_stride + head * args.head_dim;
  const int count = min(attention_block, range.queries - first);
  if (threadIdx.x < attention_block) {
    const int query = first + static_cast<int>(threadIdx.x);
    seen_keys[threadIdx.x] = {range.first(query), range.end(query)};
  }
  load_tile<D, D>(q_tile, count, args.head_dim, args.vector, [&](int row) { return args.q + q_start + row * q_stride; });

  float sums[rows_per_warp][D / 32] = {}, maximum[rows_per_warp], total[rows_per_warp] = {};
#pragma unroll
  for (int i = 0; i < rows_per_warp; ++i) maximum[i] = -INFINITY;
  const int key_end = range.end(first + count - 1);
  for (int block = range.first(first) / attention_block * attention_block; block < key_end; block += attention_block) {
    __syncthreads();
    const int keys = min(attention_block, range.keys - block);
    load_tile<D, D + 4>(k_tile, keys, args.head_dim, args.vector, [&](int row) { return rows.keys + rows.at(block + row); });
    load_tile<D, D>(v_tile, keys, args.head_dim, args.vector, [&](int row) { return rows.values + rows.at(block + row); });
    __syncthreads();
    float scores[rows_per_warp];
    row_products<D, D, D + 4>(q_tile, k_tile, warp, lane, scores);
#pragma unroll
    for (int i = 0; i < rows_per_warp; ++i) {
      const int2 interval = seen_keys[warp * rows_per_warp + i];
      const bool seen = block + lane >= interval.x && block + lane < interval.y;
      const float score = seen ? scores[i] * args.scale : -INFINITY, most = fmaxf(maximum[i], warp_maximum(score));
      const float base = most == -INFINITY ? 0.0f : most;  // no key seen so far
      const float p = expf(score - base), correction = expf(maximum[i] - base);
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
    const float inverse = total[i] > 0 ? 1.0f / total[i] : 0.0f;
#pragma unroll
    for (int j = 0; j < D / 32; ++j)
      if (lane + 32 * j < args.head_dim) assign(args.y[q_start + row * q_stride + lane + 32 * j], sums[i][j] * inverse);
    if (lane == 0 && args.log_sum_exp != nullptr)
      args.log_sum_exp[static_cast<std::int64_t>(start + first + row) * args.heads + head] = maximum[i] + logf(total[i]);
  }
}

/// Rows of `width` units to their slots; a negative slot is skipped.
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

template <class Complete>
void launch_tiles(const char* name, const AttentionShape& shape, const View& q, const View& k, const View& v, const View& y, Stream stream,
                  Complete complete) {
  dispatch_head_dim(name, q.dtype, shape.head_dim, [&](auto storage, auto dim) {
    using T = decltype(storage);
    constexpr int D = decltype(dim)::value;
    ForwardArgs<T> args{};
    args.heads = shape.heads;
    args.kv_heads = shape.kv_heads;
    args.head_dim = shape.head_dim;
    args.vector = vector_rows(shape, {&q, &k, &v});
    args.scale = static_cast<float>(shape.scale);
    args.q = q.as<T>();
    args.k = k.as<T>();
    args.v = v.as<T>();
    args.y = y.as<T>();
    complete(args);
    allow_shared_bytes(forward_kernel<T, D>, forward_shared_bytes<D>);
    const dim3 grid(tile_count<attention_block>(q.rows(), args.sequences.count), static_cast<unsigned>(shape.heads));
    forward_kernel<T, D><<<grid, attention_threads, forward_shared_bytes<D>, native(stream)>>>(args);
  });
  check_launch(name);
}

}  // namespace

template <>
void run(const AttentionForward& a, Stream stream) {
  require_storage("attention", a.q.dtype, {&a.q, &a.k, &a.v, &a.y});
  require_f32("attention", {&a.log_sum_exp});
  require("attention", DType::i32, {&a.sequence_offsets, &a.keys.offsets, &a.keys.lengths, &a.keys.prefixes});
  check_attention("attention", a.shape);
  if (a.q.rows() == 0 || a.sequence_offsets.size() < 2) return;
  if (fits_tensor_cores(a)) return forward_on_tensor_cores(a, stream);
  launch_tiles("attention", a.shape, a.q, a.k, a.v, a.y, stream, [&](auto& args) {
    args.sequences = sequence_args(a);
    args.log_sum_exp = a.log_sum_exp.as<float>();
  });
}

template <>
void run(const PagedAttention& a, Stream stream) {
  require_storage("paged_attention", a.q.dtype, {&a.q, &a.key_pages, &a.value_pages, &a.y});
  require("paged_attention", DType::i32, {&a.query_offsets, &a.context_lengths, &a.page_table});
  require_scratch("paged_attention", a.scratch, scratch_bytes(a));
  check_attention("paged_attention", a.shape);
  if (a.q.rows() == 0 || a.query_offsets.size() < 2) return;
  if (is_decoding(a)) return decode(a, stream);
  if (fits_tensor_cores(a)) return forward_on_tensor_cores(a, stream);
  launch_tiles("paged_attention", a.shape, a.q, a.key_pages, a.value_pages, a.y, stream, [&](auto& args) {
    args.sequences.query_offsets = a.query_offsets.template as<std::int32_t>();
    args.sequences.count = static_cast<int>(a.context_lengths.size());
    args.sequences.window = a.shape.window;
    args.context_lengths = a.context_lengths.template as<std::int32_t>();
    args.page_table = a.page_table.template as<std::int32_t>();
    args.most_pages = a.page_table.width();
  });
}

template <>
void run(const StoreKeysValues& args, Stream stream) {
  require_storage("store_keys_values", args.k.dtype, {&args.k, &args.v, &args.key_pages, &args.value_pages});
  require("store_keys_values", DType::i32, {&args.slots});
  const std::int64_t total = args.k.size(), width = args.k.width();
  if (total == 0) return;
  const auto launch = [&](auto unit, std::int64_t per_unit) {
    using Unit = decltype(unit);
    store_kernel<<<blocks_for(total / per_unit, block_threads), block_threads, 0, native(stream)>>>(
        total / per_unit, width / per_unit, args.k.as<const Unit>(), args.v.as<const Unit>(), args.slots.as<std::int32_t>(),
        args.key_pages.as<Unit>(), args.value_pages.as<Unit>());
  };
  const std::int64_t in_16_bytes = args.k.dtype == DType::bf16 ? 8 : 4;
  if (width % in_16_bytes == 0 && aligned16(args.k.data) && aligned16(args.v.data) && aligned16(args.key_pages.data) &&
      aligned16(args.value_pages.data))
    launch(uint4{}, in_16_bytes);
  else if (args.k.dtype == DType::bf16)
    launch(std::uint16_t{}, 1);
  else
    launch(float{}, 1);
  check_launch("store_keys_values");
}

}  // namespace expctr::cuda
