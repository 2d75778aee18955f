// Rotary position embedding: a thread turns the pairs (i, i + head_dim / 2), a packet of neighbouring i, in several heads of a token, so
// that it reads sine and cosine once for them. Reads x and writes y, 2 b bytes an element of b bytes (3 b when accumulating); the table's
// rows (f32) once a token and group of heads. Bound by memory. A position past the table gives NaN: a kernel cannot throw.
#include <algorithm>

#include "base/kernels/rotary.h"
#include "cuda/packet.cuh"

namespace expctr::cuda {

namespace {

constexpr std::int64_t most_heads_each = 16;

/// x and y may be the same tensor: a thread reads both halves of its pairs before it writes them.
template <int N, class S>
__global__ void __launch_bounds__(block_threads)
    rotary_kernel(bool accumulate, float sign, std::int64_t tokens, std::int64_t heads, std::int64_t half, int each,
                  std::int64_t most_positions, const S* x, const std::int32_t* positions, const float* table, S* y) {
  const std::int64_t thread = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x;
  std::int64_t packet, group;
  const std::int64_t token = divide(divide(thread, half / N, packet), ceil_div(heads, each), group);
  if (token >= tokens) return;
  const std::int64_t position = positions[token], i = packet * N;
  const bool known = position >= 0 && position < most_positions;
  float cosine[N], sine[N];
  const float* row = table + (known ? position : 0) * 2 * half + i;
  load_packet(row, cosine);
  load_packet(row + half, sine);
#pragma unroll
  for (int k = 0; k < N; ++k) {
    if (!known) cosine[k] = NAN;
    sine[k] *= sign;
  }
  const std::int64_t last = group * each + each < heads ? group * each + each : heads;
  for (std::int64_t head = group * each; head < last; ++head) {
    const std::int64_t at = (token * heads + head) * 2 * half + i;
    float first[N], second[N], out_first[N] = {}, out_second[N] = {};
    load_packet(x + at, first);
    load_packet(x + at + half, second);
    if (accumulate) {
      load_packet(y + at, out_first);
      load_packet(y + at + half, out_second);
    }
#pragma unroll
    for (int k = 0; k < N; ++k) {
      // Rounded as written, so that a pair gets the same bits with and without packets.
      out_first[k] = __fadd_rn(out_first[k], fmaf(first[k], cosine[k], -__fmul_rn(second[k], sine[k])));
      out_second[k] = __fadd_rn(out_second[k], fmaf(second[k], cosine[k], __fmul_rn(first[k], sine[k])));
    }
    store_packet(y + at, out_first);
    store_packet(y + at + half, out_second);
  }
}

}  // namespace

template <>
void run(const Rotary& args, Stream stream) {
  require_f32("rotary", {&args.table});
  require("rotary", DType::i32, {&args.positions});
  const DType dtype = require_activations("rotary", {&args.x, &args.y});
  const View& x = args.x;
  if (x.rank != 3 || x.shape[2] % 2 != 0) throw ShapeError("cuda: rotary takes [tokens, heads, head_dim] with an even head_dim");
  const std::int64_t tokens = x.shape[0], heads = x.shape[1], half = x.shape[2] / 2;
  if (x.size() == 0) return;
  dispatch_activation(dtype, [&](auto storage) {
    using S = decltype(storage);
    const auto launch = [&](auto packet) {
      constexpr int N = decltype(packet)::value;
      // One head each where there is little work, else the device would not be full.
      const std::int64_t each = std::clamp<std::int64_t>(x.size() / 2 / N / (1 << 15), 1, std::min(heads, most_heads_each));
      const std::int64_t threads = tokens * ceil_div(heads, each) * (half / N);
      rotary_kernel<N><<<blocks_for(threads, block_threads), block_threads, 0, native(stream)>>>(
          args.accumulate, args.inverse ? -1.0f : 1.0f, tokens, heads, half, static_cast<int>(each), args.table.rows(), x.as<const S>(),
          args.positions.as<std::int32_t>(), args.table.as<float>(), args.y.as<S>());
    };
    if (packets_fit<packet_size<S>>(half, {&args.x, &args.table, &args.y}))
      launch(std::integral_constant<int, packet_size<S>>{});
    else
      launch(std::integral_constant<int, 1>{});
  });
  check_launch("rotary");
}

}  // namespace expctr::cuda
