// Attention of single new tokens over the paged cache. A block has one token, up to 4 query heads of one key-value head and 256 keys; its 4
// warps take pages in turn. Some lanes share a row, 16 bytes each, so a warp reads 32 chunks of a page at once and every key and value is
// read once for all heads of the block; the next values are on their way while scores are computed. Each warp keeps an online softmax; the
// warps merge in order, then the blocks of a token merge in order in a second launch (left out where a table holds 256 keys or fewer).
// Bytes a token and key-value head: keys and values once, 2 x keys x head_dim x 2 (bf16) or 4 (f32), times ceil(group / 4) where a group
// has more than 4 heads; parts of 4 (head_dim + 2) bytes a head and 256 keys, written and read. 4 keys head_dim FLOPs a head: bound by
// reading the cache.   Source: Dao et al. 2023 (Flash-Decoding); Kwon et al. 2023 (pages).
#include "cuda/attention_mma.h"
#include "cuda/attention_tile.cuh"

namespace expctr::cuda {

namespace {

constexpr int split_pages = 8, split_keys = split_pages * attention_block;

template <class T>
struct DecodeArgs {
  int heads, kv_heads, head_dim, sequences, window, splits;
  bool vector;
  float scale;  ///< times log2(e)
  const T *q, *keys, *values;
  const std::int32_t *query_offsets, *context_lengths, *page_table;
  std::int64_t most_pages;
  T* y;
  float *part_sums, *part_statistics;  ///< [tokens heads, splits, head_dim] and [tokens heads, splits, 2] (maximum, total)

  __device__ __forceinline__ KeyRange range(int sequence) const {
    const int queries = query_offsets[sequence + 1] - query_offsets[sequence], context = context_lengths[sequence];
    return {queries, context, context - queries, 0, window, true};
  }
};

/// 16 bytes of a row as floats: 4 of float, 8 of bf16.
template <class T>
struct Chunk {
  static constexpr int columns = 16 / static_cast<int>(sizeof(T));
  uint4 bits = {0, 0, 0, 0};

  /// Columns from `columns` on are zero.
  __device__ __forceinline__ void load(const T* row, int column, int head_dim, bool vector) {
    if (vector) {
      if (column < head_dim) bits = *reinterpret_cast<const uint4*>(row + column);
      return;
    }
    T values[columns] = {};
#pragma unroll
    for (int i = 0; i < columns; ++i)
      if (column + i < head_dim) values[i] = row[column + i];
    memcpy(&bits, values, sizeof bits);
  }
  __device__ __forceinline__ void unpack(float (&to)[columns]) const {
    const std::uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (columns == 4) {
        to[i] = float_of_bits(words[i]);
      } else {
        to[2 * i] = float_of_bits(words[i] << 16);
        to[2 * i + 1] = float_of_bits(words[i] & 0xFFFF0000u);
      }
    }
  }
};

template <class T, int D, int Heads>
__global__ void __launch_bounds__(attention_threads) decode_kernel(const __grid_constant__ DecodeArgs<T> args) {
  constexpr int columns = Chunk<T>::columns, lanes = D / columns < 32 ? D / columns : 32, chunks = D / columns / lanes,
                together = 32 / lanes, rows = Heads == 1 ? 8 / chunks : 4,
                unroll = rows < attention_block / together ? rows : attention_block / together;
  __shared__ __align__(16) float parts[attention_warps][Heads][D];
  __shared__ float maxima[attention_warps][Heads], totals[attention_warps][Heads];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32, token = static_cast<int>(blockIdx.x),
            group = args.heads / args.kv_heads, blocks_per_group = (group + Heads - 1) / Heads,
            kv_head = static_cast<int>(blockIdx.y) / blocks_per_group, first_head = static_cast<int>(blockIdx.y) % blocks_per_group * Heads,
            heads = min(Heads, group - first_head), split = static_cast<int>(blockIdx.z);
  const int sequence = sequence_of(args.query_offsets, args.sequences, token);
  const KeyRange range = args.range(sequence);
  const int query = token - args.query_offsets[sequence], low = max(range.first(query), split * split_keys),
            high = min(range.end(query), (split + 1) * split_keys);
  if (split > 0 && low >= high) return;  // the first split writes zeros where nothing is seen
  const std::int64_t stride = static_cast<std::int64_t>(args.kv_heads) * args.head_dim,
                     first_row = static_cast<std::int64_t>(token) * args.heads + kv_head * group + first_head;
  float q[Heads][chunks][columns], sums[Heads][chunks][columns] = {}, maximum[Heads], total[Heads] = {};
#pragma unroll
  for (int h = 0; h < Heads; ++h) {
    maximum[h] = -INFINITY;
#pragma unroll
    for (int c = 0; c < chunks; ++c) {
      Chunk<T> chunk;
      if (h < heads) chunk.load(args.q + (first_row + h) * args.head_dim, (lane % lanes + c * lanes) * columns, args.head_dim, args.vector);
      chunk.unpack(q[h][c]);
    }
  }
  const std::int32_t* pages = args.page_table + sequence * args.most_pages;
  for (int page = split * split_pages + warp; page < (split + 1) * split_pages; page += attention_warps) {
    if (page * attention_block >= high || (page + 1) * attention_block <= low) continue;
    const std::int64_t page_start = static_cast<std::int64_t>(pages[page]) * attention_block * stride + kv_head * args.head_dim;
#pragma unroll 1
    for (int place = 0; place < attention_block; place += unroll * together) {
      Chunk<T> keys[unroll][chunks], values[unroll][chunks];
#pragma unroll
      for (int u = 0; u < unroll; ++u) {
        const int at = place + u * together + lane / lanes, key = page * attention_block + at;
        if (key < low || key >= high) continue;
#pragma unroll
        for (int c = 0; c < chunks; ++c) {
          const int column = (lane % lanes + c * lanes) * columns;
          keys[u][c].load(args.keys + page_start + at * stride, column, args.head_dim, args.vector);
          values[u][c].load(args.values + page_start + at * stride, column, args.head_dim, args.vector);
        }
      }
#pragma unroll
      for (int h = 0; h < Heads; ++h) {
        if (h >= heads) break;
        float scores[unroll], most = maximum[h];
#pragma unroll
        for (int u = 0; u < unroll; ++u) {
          float dot = 0;
#pragma unroll
          for (int c = 0; c < chunks; ++c) {
            float k[columns];
            keys[u][c].unpack(k);
#pragma unroll
            for (int i = 0; i < columns; ++i) dot += q[h][c][i] * k[i];
          }
#pragma unroll
          for (int offset = lanes / 2; offset > 0; offset /= 2) dot += __shfl_xor_sync(0xFFFFFFFFu, dot, offset);
          const int key = page * attention_block + place + u * together + lane / lanes;
          scores[u] = key >= low && key < high ? dot * args.scale : -INFINITY;
          most = fmaxf(most, scores[u]);
        }
#pragma unroll
        for (int offset = lanes; offset < 32; offset *= 2) most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFu, most, offset));
        const float base = most == -INFINITY ? 0.0f : most, correction = exp2f(maximum[h] - base);
        maximum[h] = most;
        total[h] *= correction;
#pragma unroll
        for (int c = 0; c < chunks; ++c)
#pragma unroll
          for (int i = 0; i < columns; ++i) sums[h][c][i] *= correction;
#pragma unroll
        for (int u = 0; u < unroll; ++u) {
          const float p = exp2f(scores[u] - base);
          total[h] += p;
#pragma unroll
          for (int c = 0; c < chunks; ++c) {
            float v[columns];
            values[u][c].unpack(v);
#pragma unroll
            for (int i = 0; i < columns; ++i) sums[h][c][i] += p * v[i];
          }
        }
      }
    }
  }
  // The lanes with the same columns add up.
#pragma unroll
  for (int h = 0; h < Heads; ++h) {
#pragma unroll
    for (int offset = lanes; offset < 32; offset *= 2) {
      total[h] += __shfl_xor_sync(0xFFFFFFFFu, total[h], offset);
#pragma unroll
      for (int c = 0; c < chunks; ++c)
#pragma unroll
        for (int i = 0; i < columns; ++i) sums[h][c][i] += __shfl_xor_sync(0xFFFFFFFFu, sums[h][c][i], offset);
    }
    if (lane < lanes)
#pragma unroll
      for (int c = 0; c < chunks; ++c)
#pragma unroll
        for (int i = 0; i < columns; i += 4) {
          // Of eight columns, every other four lanes write the second half first: 8 lanes, 32 banks.
          const bool second = columns == 8 && (i == 4) != (lane / 4 % 2 == 1);
          const auto pick = [&](int j) {
            return columns == 8 ? (second ? sums[h][c][(4 + j) % columns] : sums[h][c][j]) : sums[h][c][i + j];
          };
          *reinterpret_cast<float4*>(&parts[warp][h][(lane + c * lanes) * columns + (second ? 4 : 0)]) =
              make_float4(pick(0), pick(1), pick(2), pick(3));
        }
    if (lane == 0) {
      maxima[warp][h] = maximum[h];
      totals[warp][h] = total[h];
    }
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < heads * D; i += attention_threads) {
    const int h = i / D, column = i % D;
    float most = -INFINITY, sum = 0, value = 0;
#pragma unroll
    for (int w = 0; w < attention_warps; ++w) most = fmaxf(most, maxima[w][h]);
#pragma unroll
    for (int w = 0; w < attention_warps; ++w) {
      const float weight = totals[w][h] > 0 ? exp2f(maxima[w][h] - most) : 0.0f;
      sum += totals[w][h] * weight;
      value += parts[w][h][column] * weight;
    }
    if (column >= args.head_dim) continue;
    const std::int64_t row = first_row + h;
    if (args.splits == 1) {
      assign(args.y[row * args.head_dim + column], sum > 0 ? value / sum : 0.0f);
    } else {
      args.part_sums[(row * args.splits + split) * args.head_dim + column] = value;
      if (column < 2) args.part_statistics[(row * args.splits + split) * 2 + column] = column == 0 ? most : sum;
    }
  }
}

/// A warp a token and head.
template <class T>
__global__ void __launch_bounds__(attention_threads) merge_kernel(std::int64_t rows, const __grid_constant__ DecodeArgs<T> args) {
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * attention_warps + threadIdx.x / 32;
  if (row >= rows) return;
  const int token = static_cast<int>(row / args.heads), sequence = sequence_of(args.query_offsets, args.sequences, token);
  const KeyRange range = args.range(sequence);
  const int query = token - args.query_offsets[sequence], low = range.first(query), high = range.end(query);
  const int first = low < high ? low / split_keys : 0, end = low < high ? (high + split_keys - 1) / split_keys : 0;
  const float* statistics = args.part_statistics + row * args.splits * 2;
  float most = -INFINITY, total = 0;
  for (int s = first; s < end; ++s) most = fmaxf(most, statistics[2 * s]);
  for (int s = first; s < end; ++s) total += statistics[2 * s + 1] * exp2f(statistics[2 * s] - most);
  for (int column = static_cast<int>(threadIdx.x) % 32; column < args.head_dim; column += 32) {
    float value = 0;
    for (int s = first; s < end; ++s)
      value += args.part_sums[(row * args.splits + s) * args.head_dim + column] * exp2f(statistics[2 * s] - most);
    assign(args.y[row * args.head_dim + column], total > 0 ? value / total : 0.0f);
  }
}

std::int64_t split_count(const PagedAttention& a) { return std::max<std::int64_t>(1, ceil_div(a.page_table.width(), split_pages)); }

template <class T, int D, int Heads>
void launch(DecodeArgs<T>& args, std::int64_t tokens, Stream stream) {
  const int group = args.heads / args.kv_heads;
  const dim3 grid(blocks_for(tokens, 1), static_cast<unsigned>(args.kv_heads * ceil_div(group, Heads)), static_cast<unsigned>(args.splits));
  decode_kernel<T, D, Heads><<<grid, attention_threads, 0, native(stream)>>>(args);
  check_launch("paged_attention");
  if (args.splits == 1) return;
  const std::int64_t rows = tokens * args.heads;
  merge_kernel<T><<<blocks_for(rows, attention_warps), attention_threads, 0, native(stream)>>>(rows, args);
  check_launch("paged_attention");
}

template <class T, int D>
void launch_for_group(const PagedAttention& a, Stream stream) {
  DecodeArgs<T> args{};
  args.heads = a.shape.heads;
  args.kv_heads = a.shape.kv_heads;
  args.head_dim = a.shape.head_dim;
  args.sequences = static_cast<int>(a.context_lengths.size());
  args.window = a.shape.window;
  args.splits = static_cast<int>(split_count(a));
  args.vector =
      a.shape.head_dim % Chunk<T>::columns == 0 && aligned16(a.q.data) && aligned16(a.key_pages.data) && aligned16(a.value_pages.data);
  args.scale = static_cast<float>(a.shape.scale) * log2_of_e;
  args.q = a.q.as<T>();
  args.keys = a.key_pages.as<T>();
  args.values = a.value_pages.as<T>();
  args.query_offsets = a.query_offsets.as<std::int32_t>();
  args.context_lengths = a.context_lengths.as<std::int32_t>();
  args.page_table = a.page_table.as<std::int32_t>();
  args.most_pages = a.page_table.width();
  args.y = a.y.as<T>();
  args.part_statistics = a.scratch.as<float>();
  args.part_sums = args.part_statistics + a.q.rows() * args.heads * args.splits * 2;
  // Four heads of 256 columns would not fit the registers.
  const int group = args.heads / args.kv_heads;
  if (D == 256 || group == 1)
    launch<T, D, 1>(args, a.q.rows(), stream);
  else if constexpr (D < 256)
    launch<T, D, 4>(args, a.q.rows(), stream);
}

}  // namespace

bool is_decoding(const PagedAttention& a) { return a.q.rows() < 4 * a.context_lengths.size(); }

template <>
std::size_t scratch_bytes(const PagedAttention& a) {
  const std::int64_t splits = split_count(a);
  if (!is_decoding(a) || splits == 1) return 0;
  return sizeof(float) * static_cast<std::size_t>(a.q.rows() * a.shape.heads * splits * (a.shape.head_dim + 2));
}

void decode(const PagedAttention& a, Stream stream) {
  dispatch_width<32, 64, 128, 256>("paged_attention", a.shape.head_dim, [&](auto dim) {
    constexpr int D = decltype(dim)::value;
    if (a.q.dtype == DType::bf16)
      launch_for_group<std::uint16_t, D>(a, stream);
    else
      launch_for_group<float, D>(a, stream);
  });
}

}  // namespace expctr::cuda
