// Attention forward on tensor cores, bf16 storage, float32 softmax: FlashAttention-2's loop. A block has 64 queries of one head, a warp 16
// of them; tiles of 64 keys and values come by cp.async into two stages, the next while this one is used. Scores stay in registers, their
// exponentials become the left factor of the second product there; nothing of size [tokens, tokens] exists.
// FLOPs a head: 4 tokens^2 head_dim; causal: tiles above the diagonal are skipped, n (n + 1) / 2 tiles of 64 x 64 for tokens = 64 n, so
// 1 + 1 / n of half the square: 1.06 at 1,024 tokens.
// Bytes a head, requested: q and y once, 4 tokens head_dim; keys and values once a query tile, 4 head_dim x 64 x tiles; log_sum_exp 4
// tokens. DRAM sees q, k, v and y once while keys and values of a head stay in L2. Shared memory: a key chunk serves 16 query rows, 256
// bytes an mma, as many cycles as the mma takes on sm_80 and sm_90: bound by tensor cores and shared memory alike. Source: Dao 2023
// (FlashAttention-2); Kwon et al. 2023 (pages).
#include "cuda/attention_mma.cuh"
#include "cuda/attention_mma.h"

namespace expctr::cuda {

namespace {

struct MmaForwardArgs {
  int heads, kv_heads, head_dim;
  float scale;  ///< positive, times log2(e)
  const std::uint16_t *q, *k, *v;
  SequenceArgs sequences;
  const std::int32_t *context_lengths, *page_table;  ///< null without pages
  std::int64_t most_pages;
  std::uint16_t* y;
  float* log_sum_exp;  ///< may be null
};

template <int D>
constexpr std::uint32_t mma_forward_bytes = tile_bytes<D>(mma_rows) * 5;

template <int D, bool Paged>
__global__ void __launch_bounds__(mma_threads, D <= 64 ? 3 : 2) mma_forward_kernel(const __grid_constant__ MmaForwardArgs args) {
  extern __shared__ __align__(128) uint4 shared[];
  constexpr std::uint32_t bytes = tile_bytes<D>(mma_rows);
  const std::uint32_t q_tile = shared_address(shared), stages = q_tile + bytes;
  int sequence, first;
  // The last tiles of a causal sequence have most keys: they start first.
  if (!find_tile<mma_rows>(args.sequences.query_offsets, args.sequences.count, static_cast<int>(gridDim.x - 1 - blockIdx.x), sequence,
                           first))
    return;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32, head = static_cast<int>(blockIdx.y);
  KeyRange range;
  if constexpr (Paged) {
    const int queries = args.sequences.query_offsets[sequence + 1] - args.sequences.query_offsets[sequence],
              context = args.context_lengths[sequence];
    range = {queries, context, context - queries, 0, args.sequences.window, true};
  } else {
    range = args.sequences.range(sequence);
  }
  const int q_stride = args.heads * args.head_dim, k_stride = args.kv_heads * args.head_dim;
  const std::int64_t start = args.sequences.query_offsets[sequence] + first, q_start = start * q_stride + head * args.head_dim,
                     k_start = product(Paged ? 0 : args.sequences.key_offsets[sequence], k_stride) +
                               head / (args.heads / args.kv_heads) * args.head_dim;
  const std::int32_t* pages = Paged ? args.page_table + sequence * args.most_pages : nullptr;
  const int count = min(mma_rows, range.queries - first), key_begin = range.first(first) / mma_rows * mma_rows,
            key_end = range.end(first + count - 1);
  const auto copy_keys = [&](int stage, int block) {
    const auto row = [&](int key) {
      if constexpr (Paged)
        return pages[key / attention_block] * attention_block + key % attention_block;
      else
        return key;
    };
    const std::uint32_t to = stages + static_cast<std::uint32_t>(stage) * 2 * bytes;
    copy_rows<D, mma_rows>(to, key_end - block, args.head_dim, [&](int r) { return args.k + k_start + product(row(block + r), k_stride); });
    copy_rows<D, mma_rows>(to + bytes, key_end - block, args.head_dim,
                           [&](int r) { return args.v + k_start + product(row(block + r), k_stride); });
    close_copies();
  };
  copy_rows<D, mma_rows>(q_tile, count, args.head_dim, [&](int r) { return args.q + q_start + product(r, q_stride); });
  close_copies();
  if (key_begin < key_end) copy_keys(0, key_begin);
  wait_for_copies();
  __syncthreads();
  Fragment q[D / 16];
  left_fragments<D>(q_tile, warp, lane, q);

  // This thread has rows lane / 4 and lane / 4 + 8 of the warp's.
  const int row = first + 16 * warp + lane / 4;
  const int low[2] = {range.first(row), range.first(row + 8)}, high[2] = {range.end(row), range.end(row + 8)};
  const int all_from = range.first(first + count - 1), all_to = range.end(first);  // keys that every query of the tile sees
  float sums[D / 8][4] = {}, maximum[2] = {-INFINITY, -INFINITY}, total[2] = {};
  for (int block = key_begin, stage = 0; block < key_end; block += mma_rows, stage ^= 1) {
    wait_for_copies();
    __syncthreads();
    if (block + mma_rows < key_end) copy_keys(stage ^ 1, block + mma_rows);
    const std::uint32_t k_tile = stages + static_cast<std::uint32_t>(stage) * 2 * bytes;
    float scores[mma_rows / 8][4];
    row_products_mma<D, mma_rows>(scores, k_tile, lane, [&](int step) { return q[step]; });
    if (block < all_from || block + mma_rows > all_to) {
#pragma unroll
      for (int n = 0; n < mma_rows / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int key = block + 8 * n + lane % 4 * 2 + i % 2;
          if (key < low[i / 2] || key >= high[i / 2]) scores[n][i] = -INFINITY;
        }
    }
    float most[2] = {maximum[0], maximum[1]};
#pragma unroll
    for (int n = 0; n < mma_rows / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) most[i / 2] = fmaxf(most[i / 2], scores[n][i]);
    float shift[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      most[half] = fmaxf(most[half], __shfl_xor_sync(0xFFFFFFFFu, most[half], 1));
      most[half] = fmaxf(most[half], __shfl_xor_sync(0xFFFFFFFFu, most[half], 2));
      const bool none = most[half] == -INFINITY;  // no key seen so far
      const float correction = none ? 1.0f : exp2_fast((maximum[half] - most[half]) * args.scale);
      maximum[half] = most[half];
      shift[half] = none ? 0.0f : most[half] * args.scale;
      total[half] *= correction;
#pragma unroll
      for (int n = 0; n < D / 8; ++n) {
        sums[n][2 * half] *= correction;
        sums[n][2 * half + 1] *= correction;
      }
    }
#pragma unroll
    for (int n = 0; n < mma_rows / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        scores[n][i] = exp2_fast(scores[n][i] * args.scale - shift[i / 2]);
        total[i / 2] += scores[n][i];
      }
    Fragment weights[mma_rows / 16];
    as_left_factor<mma_rows>(scores, weights);
    add_weighted_rows_mma<D, mma_rows>(sums, weights, k_tile + bytes, lane);
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    total[half] += __shfl_xor_sync(0xFFFFFFFFu, total[half], 1);
    total[half] += __shfl_xor_sync(0xFFFFFFFFu, total[half], 2);
  }
  const int left = count - 16 * warp;
  if (lane % 4 == 0 && args.log_sum_exp != nullptr)
#pragma unroll
    for (int half = 0; half < 2; ++half)
      if (lane / 4 + 8 * half < left)
        args.log_sum_exp[(start + 16 * warp + lane / 4 + 8 * half) * args.heads + head] =
            maximum[half] * (args.scale / log2_of_e) + logf(total[half]);
  write_rows<D, false>(
      sums, left, args.head_dim, lane, [&](int r) { return args.y + q_start + product(16 * warp + r, q_stride); },
      [&](int half) { return total[half] > 0 ? 1.0f / total[half] : 0.0f; });
}

bool fits(const AttentionShape& shape, const View& q, std::initializer_list<const View*> views) {
  bool aligned = q.dtype == DType::bf16 && shape.head_dim % 8 == 0 && shape.head_dim <= 128 && shape.scale > 0;
  for (const View* view : views) aligned = aligned && aligned16(view->data);
  return aligned;
}

template <bool Paged>
void launch(const char* name, MmaForwardArgs args, const AttentionShape& shape, const View& q, const View& k, const View& v, const View& y,
            Stream stream) {
  args.heads = shape.heads;
  args.kv_heads = shape.kv_heads;
  args.head_dim = shape.head_dim;
  args.scale = static_cast<float>(shape.scale) * log2_of_e;
  args.q = q.as<std::uint16_t>();
  args.k = k.as<std::uint16_t>();
  args.v = v.as<std::uint16_t>();
  args.y = y.as<std::uint16_t>();
  dispatch_width<32, 64, 96, 128>(name, shape.head_dim, [&](auto dim) {
    constexpr int D = decltype(dim)::value;
    allow_shared_bytes(mma_forward_kernel<D, Paged>, mma_forward_bytes<D>);
    const dim3 grid(tile_count<mma_rows>(q.rows(), args.sequences.count), static_cast<unsigned>(shape.heads));
    mma_forward_kernel<D, Paged><<<grid, mma_threads, mma_forward_bytes<D>, native(stream)>>>(args);
  });
  check_launch(name);
}

}  // namespace

bool fits_tensor_cores(const AttentionForward& a) { return fits(a.shape, a.q, {&a.q, &a.k, &a.v, &a.y}); }
bool fits_tensor_cores(const PagedAttention& a) { return fits(a.shape, a.q, {&a.q, &a.key_pages, &a.value_pages, &a.y}); }
bool fits_tensor_cores(const AttentionBackward& a) { return fits(a.shape, a.q, {&a.q, &a.k, &a.v, &a.y, &a.dy, &a.dq, &a.dk, &a.dv}); }

void forward_on_tensor_cores(const AttentionForward& a, Stream stream) {
  MmaForwardArgs args{};
  args.sequences = sequence_args(a);
  args.log_sum_exp = a.log_sum_exp.as<float>();
  launch<false>("attention", args, a.shape, a.q, a.k, a.v, a.y, stream);
}

void forward_on_tensor_cores(const PagedAttention& a, Stream stream) {
  MmaForwardArgs args{};
  args.sequences.query_offsets = a.query_offsets.as<std::int32_t>();
  args.sequences.count = static_cast<int>(a.context_lengths.size());
  args.sequences.window = a.shape.window;
  args.context_lengths = a.context_lengths.as<std::int32_t>();
  args.page_table = a.page_table.as<std::int32_t>();
  args.most_pages = a.page_table.width();
  launch<true>("paged_attention", args, a.shape, a.q, a.key_pages, a.value_pages, a.y, stream);
}

}  // namespace expctr::cuda
