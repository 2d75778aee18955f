// Rotary position embedding: a thread turns the pairs (i, i + head_dim / 2), four neighbouring i at a time where the layout allows.
// Reads x and writes y, 8 bytes an element (12 when accumulating); the table's rows stay in cache. Bound by memory.
// A position past the table gives NaN: a kernel cannot throw.
#include "base/kernels/rotary.h"
#include "cuda/launch.cuh"

namespace expctr::cuda {

namespace {

template <int Step>
struct Piece;
template <>
struct Piece<1> {
  using Type = float;
};
template <>
struct Piece<4> {
  using Type = float4;
};

/// x and y may be the same tensor: a thread reads both halves of its pairs before it writes them.
template <int Step>
__global__ void __launch_bounds__(block_threads)
    rotary_kernel(bool accumulate, float sign, std::int64_t pairs, std::int64_t heads, std::int64_t half, std::int64_t most_positions,
                  const float* x, const std::int32_t* positions, const float* table, float* y) {
  using Type = typename Piece<Step>::Type;
  const std::int64_t index = (static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x) * Step;
  if (index >= pairs) return;
  const std::int64_t vector = index / half, i = index - vector * half, token = vector / heads, at = vector * 2 * half + i;
  const std::int64_t position = positions[token];
  const bool known = position >= 0 && position < most_positions;
  const float* row = table + (known ? position : 0) * 2 * half + i;
  union Values {
    Type whole;
    float part[Step];
  };
  Values first, second, cosine, sine, old_first, old_second;
  first.whole = *reinterpret_cast<const Type*>(x + at);
  second.whole = *reinterpret_cast<const Type*>(x + at + half);
  cosine.whole = *reinterpret_cast<const Type*>(row);
  sine.whole = *reinterpret_cast<const Type*>(row + half);
  if (accumulate) {
    old_first.whole = *reinterpret_cast<const Type*>(y + at);
    old_second.whole = *reinterpret_cast<const Type*>(y + at + half);
  }
  Values out_first, out_second;
#pragma unroll
  for (int k = 0; k < Step; ++k) {
    const float c = known ? cosine.part[k] : NAN, s = sign * sine.part[k];
    out_first.part[k] = first.part[k] * c - second.part[k] * s + (accumulate ? old_first.part[k] : 0.0f);
    out_second.part[k] = second.part[k] * c + first.part[k] * s + (accumulate ? old_second.part[k] : 0.0f);
  }
  *reinterpret_cast<Type*>(y + at) = out_first.whole;
  *reinterpret_cast<Type*>(y + at + half) = out_second.whole;
}

}  // namespace

template <>
void run(const Rotary& args, Stream stream) {
  require_f32("rotary", {&args.x, &args.table, &args.y});
  require("rotary", DType::i32, {&args.positions});
  const View& x = args.x;
  if (x.rank != 3 || x.shape[2] % 2 != 0) throw ShapeError("cuda: rotary takes [tokens, heads, head_dim] with an even head_dim");
  const std::int64_t heads = x.shape[1], half = x.shape[2] / 2, pairs = x.size() / 2;
  if (pairs == 0) return;
  const bool vector = half % 4 == 0 && aligned16(x.data) && aligned16(args.table.data) && aligned16(args.y.data);
  (vector ? rotary_kernel<4> : rotary_kernel<1>)<<<blocks_for(pairs, block_threads * (vector ? 4 : 1)), block_threads, 0, native(stream)>>>(
      args.accumulate, args.inverse ? -1.0f : 1.0f, pairs, heads, half, args.table.rows(), x.as<float>(), args.positions.as<std::int32_t>(),
      args.table.as<float>(), args.y.as<float>());
  check_launch("rotary");
}

}  // namespace expctr::cuda
