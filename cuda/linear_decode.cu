// Products of up to 16 rows with a block-quantised weight: y = a w^T + bias. A lane of a tensor-core fragment takes 16 bytes of codes
// straight from global memory into registers, its span: 32 elements of a row of w, 16 with eight-bit codes. The order of the reduction
// inside a fragment is free as long as a uses the same, so lane c of a quad works on span 4 j + c and an mma on four elements of each of
// the quad's spans. A warp has 16 outputs and every split-th group of four spans; the splits of an output are added in ascending order, so
// a row's result depends neither on the other rows nor on their number. 2 x 16 x outputs x inputs FLOPs whatever the rows. Bytes: the
// packed weight once (what 256 elements share once a unit, q8_0's scales twice, from cache), whole sectors; a once a block (16 to 128
// outputs, fewer when there are few outputs so that all multiprocessors work), y once. Bound by reading the weight.
#include "cuda/linear_format.cuh"
#include "cuda/linear_mma.cuh"
#include "cuda/linear_weight.h"

namespace expctr::cuda {

namespace {

constexpr int decode_warps = 8, decode_threads = decode_warps * 32, decode_rows = 16, warp_outputs = 16, staged_stride = 24,
              warp_stride = decode_rows * staged_stride + 16;
constexpr int chunk_elements = 1024;                // of a row of a that shared memory holds
constexpr int row_bytes = chunk_elements * 2 + 64;  // 64 mod 128: two rows of a quarter-warp fall into different banks

template <class F>
constexpr int span_elements = F::code_bytes == 32 ? 16 : 32;

struct DecodeArgs {
  const std::uint16_t* a;
  std::int64_t a_stride;
  int rows, outputs, first;  ///< outputs first .. first + outputs - 1
  int splits;                ///< warps that share an output: 1, 2, 4 or 8
  float alpha;
  const float* bias;
  void* y;
  std::int64_t y_stride;
  bool y_bf16;
};

/// A lane's part of one group: its span of outputs r and r + 8, and their scales, which lie side by side.
template <class F>
struct GroupParts {
  uint4 codes[2];
  std::uint32_t high[2][F::high_bytes == 8 ? 2 : 1];
  std::uint32_t scales[2], supers[2];

  __device__ __forceinline__ void load(const Planes& planes, int span, int row, int slot) {
    constexpr int spans = unit_elements / span_elements<F>;  // of a unit
    const bool valid = span < planes.units * spans;
    const int unit = valid ? span / spans : 0, half = span % spans;
    const std::int64_t side = static_cast<std::int64_t>(unit) * planes.rows + slot;
#pragma unroll
    for (int r = 0; r < 2; ++r)
      codes[r] =
          valid ? reinterpret_cast<const uint4*>(planes.codes)[codes_at<F>(unit, half, planes.rows, row + 8 * r)] : make_uint4(0, 0, 0, 0);
    if constexpr (F::high_bytes == 4) {
      const uint2 both = reinterpret_cast<const uint2*>(planes.high)[side / 2];
      high[0][0] = both.x, high[1][0] = both.y;
    } else if constexpr (F::high_bytes == 8) {
      const uint4 both = reinterpret_cast<const uint4*>(planes.high)[side / 2];
      high[0][0] = both.x, high[0][1] = both.y, high[1][0] = both.z, high[1][1] = both.w;
    }
    if constexpr (F::scale_bytes == 2) {
      const std::uint32_t both = reinterpret_cast<const std::uint32_t*>(planes.scales)[side / 2];
      scales[0] = both & 0xFFFFu, scales[1] = both >> 16;
    } else {
      const uint2 both = reinterpret_cast<const uint2*>(planes.scales)[side / 2];
      scales[0] = both.x, scales[1] = both.y;
    }
    supers[0] = supers[1] = 0;
    if constexpr (F::super_bytes != 0) {
      const uint2 both = reinterpret_cast<const uint2*>(planes.supers)[(static_cast<std::int64_t>(unit / 8) * planes.rows + slot) / 2];
      supers[0] = both.x, supers[1] = both.y;
    }
  }

  /// Elements 8 chunk .. 8 chunk + 7 of output r's span as bf16 pairs.
  __device__ __forceinline__ void chunk(int r, int chunk, std::uint32_t (&pairs)[4]) const {
    const auto word = [&](int i) { return i == 0 ? codes[r].x : i == 1 ? codes[r].y : i == 2 ? codes[r].z : codes[r].w; };
    const uint2 own = F::code_bytes == 32 ? make_uint2(word(2 * chunk), word(2 * chunk + 1)) : make_uint2(word(chunk), 0);
    const ScaleOffset s = scale_of<F>(scales[r], supers[r], chunk);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 v = pair_values<F>(own, F::high_bits == 0 ? 0 : high[r][F::high_bytes == 8 ? chunk / 2 : 0], s, chunk, i);
      pairs[i] = bf16_pair(v.x, v.y);
    }
  }
};

template <class F>
__global__ void __launch_bounds__(decode_threads)
    decode_kernel(const __grid_constant__ DecodeArgs args, const __grid_constant__ Planes planes) {
  constexpr int chunks = span_elements<F> / 8, group_elements = 4 * span_elements<F>, chunk_groups = chunk_elements / group_elements,
                group_pieces = group_elements / 8;
  __shared__ __align__(128) unsigned char a_rows[decode_rows * row_bytes];
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32, quad = lane / 4, c = lane % 4;
  const int warps_of_block = decode_warps / args.splits, outputs_of_block = warps_of_block * warp_outputs, split = warp % args.splits;
  const int output = static_cast<int>(blockIdx.x) * outputs_of_block + warp / args.splits * warp_outputs;
  const bool active = output < args.outputs;
  const int row = args.first + (active ? output : 0) + quad, slot = static_cast<int>(side_slot(row));
  const int inputs = planes.units * unit_elements, groups = (inputs + group_elements - 1) / group_elements,
            rows_used = args.rows > 8 ? 16 : 8;
  float sums[2][4] = {};
  for (int group0 = 0; group0 < groups; group0 += chunk_groups) {
    __syncthreads();  // the chunk before has been used
    const int here = min(chunk_groups, groups - group0);
    // 16 bytes (chunk q of span 4 j + s) of every row, ordered j, q, s, so that a quad reads 64 bytes at once. Eight neighbouring threads:
    // whole sectors of global memory, different banks of shared memory.
    for (int i = thread; i < rows_used * here * group_pieces; i += decode_threads) {
      const int r = i / (here * group_pieces), piece = i % (here * group_pieces), j = piece / group_pieces, within = piece % group_pieces,
                q = (within & 1) | (within >> 2 & 2), s = within >> 1 & 3, element = ((group0 + j) * 4 + s) * span_elements<F> + q * 8;
      uint4 value = make_uint4(0, 0, 0, 0);
      if (r < args.rows && element < inputs) value = *reinterpret_cast<const uint4*>(args.a + r * args.a_stride + element);
      *reinterpret_cast<uint4*>(a_rows + r * row_bytes + ((j * chunks + q) * 4 + s) * 16) = value;
    }
    __syncthreads();
    if (!active) continue;
    // Group j of the whole reduction belongs to split j mod splits.
    int j = (split - group0 % args.splits + args.splits) % args.splits;
    GroupParts<F> next;
    if (j < here) next.load(planes, (group0 + j) * 4 + c, row, slot);
    for (; j < here; j += args.splits) {
      const GroupParts<F> parts = next;
      if (j + args.splits < here) next.load(planes, (group0 + j + args.splits) * 4 + c, row, slot);
#pragma unroll
      for (int q = 0; q < chunks; ++q) {
        const unsigned char* from = a_rows + quad * row_bytes + ((j * chunks + q) * 4 + c) * 16;
        const uint4 low = *reinterpret_cast<const uint4*>(from);
        uint4 high = make_uint4(0, 0, 0, 0);
        if (args.rows > 8) high = *reinterpret_cast<const uint4*>(from + 8 * row_bytes);
        const std::uint32_t first[4] = {low.x, high.x, low.y, high.y}, second[4] = {low.z, high.z, low.w, high.w};
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          std::uint32_t pairs[4];
          parts.chunk(r, q, pairs);
          multiply_add(sums[r], first, pairs[0], pairs[1]);
          multiply_add(sums[r], second, pairs[2], pairs[3]);
        }
      }
    }
  }
  __syncthreads();
  // [splits][warps of the block][row of a][16 outputs and padding]; neighbouring warps half the banks apart.
  const std::uint32_t staged_address = shared_address(a_rows) + (split * warps_of_block + warp / args.splits) * warp_stride * 4;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const std::uint32_t to = staged_address + (quad * staged_stride + r * 8 + c * 2) * 4;
    store_shared2(to, sums[r][0], sums[r][1]);
    store_shared2(to + 8 * staged_stride * 4, sums[r][2], sums[r][3]);
  }
  __syncthreads();
  const float* staged = reinterpret_cast<const float*>(a_rows);
  for (int i = thread; i < (args.rows + 3) / 4 * 4 * outputs_of_block; i += decode_threads) {
    // Rows in the order 0, 2, 1, 3: two rows of 16 outputs that a warp reads together lie half the banks apart.
    const int at_row = i / outputs_of_block, m = (at_row & ~3) | (at_row & 1) << 1 | (at_row >> 1 & 1), n = i % outputs_of_block,
              at_output = static_cast<int>(blockIdx.x) * outputs_of_block + n;
    if (m >= args.rows || at_output >= args.outputs) continue;
    const float* from = staged + n / warp_outputs * warp_stride + m * staged_stride + n % warp_outputs;
    float sum = 0;
    for (int s = 0; s < args.splits; ++s) sum += from[s * warps_of_block * warp_stride];
    sum *= args.alpha;
    if (args.bias != nullptr) sum += args.bias[at_output];
    if (args.y_bf16)
      static_cast<std::uint16_t*>(args.y)[m * args.y_stride + at_output] = bf16_of_float(sum);
    else
      static_cast<float*>(args.y)[m * args.y_stride + at_output] = sum;
  }
}

}  // namespace

bool decodes(const WeightProduct& p) {
  return is_quantised(p.weight.dtype) && !p.transposed && p.rows <= decode_rows && p.addend == nullptr && !p.accumulate && p.low_depth == 0;
}

void multiply_decoding(const WeightProduct& p, Stream stream) {
  if (p.rows == 0 || p.count == 0) return;
  DecodeArgs args{p.a.data, p.a.stride, static_cast<int>(p.rows), static_cast<int>(p.count), static_cast<int>(p.first), 1, p.alpha, p.bias,
                  p.y,      p.y_stride, p.y_dtype == DType::bf16};
  // At least 128 blocks where the shape has them, and no more splits than groups.
  while (args.splits < decode_warps && ceil_div(p.count, decode_warps / args.splits * warp_outputs) < 128 &&
         2 * args.splits * 4 * unit_elements <= p.weight.inputs)
    args.splits *= 2;
  const unsigned blocks = blocks_for(p.count, decode_warps / args.splits * warp_outputs);
  dispatch_format(p.weight.dtype, [&](auto format) {
    using F = decltype(format);
    decode_kernel<F><<<blocks, decode_threads, 0, native(stream)>>>(args, planes_of<F>(p.weight));
  });
  check_launch("product of few rows");
}

}  // namespace expctr::cuda
