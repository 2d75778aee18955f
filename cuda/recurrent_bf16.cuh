// Recurrent cells with bf16 storage on tensor cores (mma.sync m16n8k16, float sums). A block owns 16 rows of the batch over all time steps:
// their states stay in shared memory, in float, and once more in bf16 as the left operand, twice (a step reads one copy and writes the
// other: one barrier a step). The right operand is the recurrent weights, laid out once a call in the order of the fragments: a lane loads
// 16 bytes, its share of 32 x 8 weights, from shared memory where all of them fit, else through the caches. A warp owns 8 units at a time
// with all their gates, so the cell is evaluated in the registers that hold the sums. 2 gates hidden^2 FLOPs a row and step, 2 (5 gates +
// 6) hidden bytes: bound by the latency of a step.
#pragma once

#include "cuda/mma_bf16.cuh"
#include "cuda/recurrent_f32.cuh"

namespace expctr::cuda {

constexpr int recurrent_rows = 16, recurrent_warps = recurrent_threads / 32;

/// Extents of a bf16 tile; a warp has 8 units at a time.
struct Bf16Extents {
  int tiles;        ///< groups of 8 units
  int k_blocks;     ///< groups of 32 units, as the left operand pads them
  int left_stride;  ///< of a row of the left operand for one gate's width, in elements, for `parts` of them: no two rows of 8 share a bank
  int row_stride;   ///< of a row of floats: 8 more than a multiple of 32
  __host__ __device__ Bf16Extents(int hidden, int parts)
      : tiles((hidden + 7) / 8),
        k_blocks((hidden + 31) / 32),
        left_stride(parts * k_blocks * 32 + 8),
        row_stride(tiles * 8 + (40 - tiles * 8 % 32) % 32) {}
};

__host__ __device__ constexpr std::int64_t fragment_bytes(std::int64_t tiles, std::int64_t k_blocks) { return tiles * k_blocks * 32 * 16; }

inline std::int64_t bf16_forward_shared(RecurrentCell cell, const Bf16Extents& e) {
  return 2 * recurrent_rows * e.left_stride * 2 + (cell == RecurrentCell::lstm ? 2 : 1) * recurrent_rows * e.row_stride * 4;
}
inline std::int64_t bf16_backward_shared(RecurrentCell cell, const Bf16Extents& e) {
  return recurrent_rows * e.left_stride * 2 + (cell == RecurrentCell::lstm ? 2 : 1) * recurrent_rows * e.row_stride * 4;
}

/// Right operands, fragment by fragment: element i of lane l of block (column tile u, k block b) is row k = 32 b + 16 (i / 4) + 8 (i / 2 %
/// 2) + 2 (l % 4) + i % 2 of column u's l / 4. Forward: column tile g * tiles + u are the units of gate g, k a unit of the state; backward:
/// column tiles are units of the state, k runs over the gates, each padded to 32 units.
template <bool Backward>
__global__ void __launch_bounds__(recurrent_threads)
    pack_fragments_kernel(const float* weight, int hidden, int gates, int tiles, int k_blocks, std::int64_t elements, uint4* out) {
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * recurrent_threads + threadIdx.x;
  if (index >= elements) return;
  const int lane = static_cast<int>(index % 32), all_blocks = Backward ? gates * k_blocks : k_blocks;
  const int block = static_cast<int>(index / 32 % all_blocks), column_tile = static_cast<int>(index / 32 / all_blocks);
  std::uint32_t packed[4];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int k = 32 * (block % k_blocks) + 16 * (i / 4) + 8 * (i / 2 % 2) + 2 * (lane % 4) + i % 2;
    const int unit = column_tile % tiles * 8 + lane / 4, gate = Backward ? block / k_blocks : column_tile / tiles;
    float value = 0;
    if (k < hidden && unit < hidden)
      value = Backward ? weight[(static_cast<std::int64_t>(gate) * hidden + k) * hidden + unit]
                       : weight[(static_cast<std::int64_t>(gate) * hidden + unit) * hidden + k];
    const std::uint32_t half = bf16_of_float(value);
    packed[i / 2] = i % 2 == 0 ? half : packed[i / 2] | half << 16;
  }
  out[index] = make_uint4(packed[0], packed[1], packed[2], packed[3]);
}

/// Elements j and j + 1 of a row of `hidden` (zero beyond it).
__device__ __forceinline__ float2 load_pair(const std::uint16_t* row, int j, int hidden, bool pairs) {
  if (pairs) {
    const std::uint32_t both = j < hidden ? *reinterpret_cast<const std::uint32_t*>(row + j) : 0u;
    return make_float2(float_of_bf16(static_cast<std::uint16_t>(both)), float_of_bf16(static_cast<std::uint16_t>(both >> 16)));
  }
  return make_float2(j < hidden ? float_of_bf16(row[j]) : 0.0f, j + 1 < hidden ? float_of_bf16(row[j + 1]) : 0.0f);
}
__device__ __forceinline__ void store_pair(std::uint16_t* row, int j, int hidden, bool pairs, float first, float second) {
  if (pairs) {
    if (j < hidden) *reinterpret_cast<std::uint32_t*>(row + j) = bf16_pair(first, second);
    return;
  }
  if (j < hidden) row[j] = bf16_of_float(first);
  if (j + 1 < hidden) row[j + 1] = bf16_of_float(second);
}

/// What a lane has of a tile of 8 units: units j and j + 1 of rows low and low + 8.
struct LaneOfTile {
  int lane, warp, low, column;
  __device__ __forceinline__ LaneOfTile()
      : lane(static_cast<int>(threadIdx.x) % 32), warp(static_cast<int>(threadIdx.x) / 32), low(lane / 4), column(lane % 4 * 2) {}
  __device__ __forceinline__ int row(int half) const { return low + 8 * half; }
};

/// p.weight: fragments of pack_fragments_kernel<false>.
template <RecurrentCell Cell, bool Resident>
__global__ void __launch_bounds__(recurrent_threads, 1) recurrent_forward_bf16_kernel(RecurrentPointers<std::uint16_t> p) {
  extern __shared__ __align__(16) unsigned char bytes[];
  __shared__ int lengths[recurrent_rows];
  constexpr int gates = recurrent_gates(Cell);
  constexpr bool is_lstm = Cell == RecurrentCell::lstm;
  const int hidden = p.hidden, columns = gates * hidden, first = static_cast<int>(blockIdx.x) * recurrent_rows;
  const Bf16Extents e(hidden, 1);
  const int plane = recurrent_rows * e.left_stride;
  std::uint16_t* left = reinterpret_cast<std::uint16_t*>(bytes);
  float* states = reinterpret_cast<float*>(left + 2 * plane);
  float* cells = states + recurrent_rows * e.row_stride;
  const uint4* fragments = static_cast<const uint4*>(p.weight);
  const LaneOfTile mine;
  if (Resident) {
    uint4* resident = reinterpret_cast<uint4*>(cells + (is_lstm ? recurrent_rows * e.row_stride : 0));
    for (int i = static_cast<int>(threadIdx.x); i < gates * e.tiles * e.k_blocks * 32; i += recurrent_threads) resident[i] = fragments[i];
    fragments = resident;
  }
  for (int i = static_cast<int>(threadIdx.x); i < plane; i += recurrent_threads) reinterpret_cast<std::uint32_t*>(left)[i] = 0;
  __syncthreads();
  for (int u = mine.warp; u < e.tiles; u += recurrent_warps) {
    const int j = u * 8 + mine.column;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = first + mine.row(half);
      const std::int64_t at = static_cast<std::int64_t>(row) * hidden;
      float2 h = make_float2(0, 0), c = h;
      if (row < p.batch && p.initial != nullptr) h = load_pair(p.initial + at, j, hidden, p.pairs);
      if (is_lstm && row < p.batch && p.initial_cell != nullptr) c = load_pair(p.initial_cell + at, j, hidden, p.pairs);
      *reinterpret_cast<float2*>(states + mine.row(half) * e.row_stride + j) = h;
      if (is_lstm) *reinterpret_cast<float2*>(cells + mine.row(half) * e.row_stride + j) = c;
      *reinterpret_cast<std::uint32_t*>(left + mine.row(half) * e.left_stride + j) = bf16_pair(h.x, h.y);
    }
  }
  const int longest = load_lengths(p, first, recurrent_rows, lengths);
  for (int t = 0; t < longest; ++t) {
    const std::uint32_t address = left_address(left + (t & 1) * plane, e.left_stride, mine.lane);
    std::uint16_t* next = left + (~t & 1) * plane;
    for (int u = mine.warp; u < e.tiles; u += recurrent_warps) {
      const int j = u * 8 + mine.column;
      float2 from_input[2][gates];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const bool active = t < lengths[mine.row(half)];
        const std::uint16_t* row = p.projected + p.step(first + mine.row(half), t) * columns;
#pragma unroll
        for (int g = 0; g < gates; ++g) from_input[half][g] = active ? load_pair(row + g * hidden, j, hidden, p.pairs) : make_float2(0, 0);
      }
      float sums[gates][4] = {};
      for (int k = 0; k < e.k_blocks; ++k) {
        std::uint32_t a[2][4];
        load_left(a[0], address + k * 64);
        load_left(a[1], address + k * 64 + 32);
#pragma unroll
        for (int g = 0; g < gates; ++g) {
          const uint4 b = fragments[((g * e.tiles + u) * e.k_blocks + k) * 32 + mine.lane];
          multiply_add(sums[g], a[0], b.x, b.y);
          multiply_add(sums[g], a[1], b.z, b.w);
        }
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int place = mine.row(half), row = first + place;
        const std::int64_t step = p.step(row, t);
        float2 h = *reinterpret_cast<const float2*>(states + place * e.row_stride + j);
        if (t < lengths[place]) {
          const float attention = Cell == RecurrentCell::augru ? float_of_bf16(p.attention[step]) : 1.0f;
          float2 c = is_lstm ? *reinterpret_cast<const float2*>(cells + place * e.row_stride + j) : make_float2(0, 0);
          float kept[2][4], after[2] = {h.x, h.y}, cell[2] = {c.x, c.y};
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            float input[gates], product[gates];
            const int unit = min(j + i, hidden - 1);
#pragma unroll
            for (int g = 0; g < gates; ++g) {
              input[g] = (i == 0 ? from_input[half][g].x : from_input[half][g].y) + p.input_bias(g * hidden + unit);
              product[g] = sums[g][2 * half + i] + p.hidden_bias(g * hidden + unit);
            }
            cell_step<Cell>(input, product, attention, after[i], cell[i], kept[i]);
          }
          h = make_float2(j < hidden ? after[0] : 0.0f, j + 1 < hidden ? after[1] : 0.0f);
          *reinterpret_cast<float2*>(states + place * e.row_stride + j) = h;
          store_pair(p.states + step * hidden, j, hidden, p.pairs, h.x, h.y);
          if (is_lstm) *reinterpret_cast<float2*>(cells + place * e.row_stride + j) = make_float2(cell[0], cell[1]);
          if (p.saved != nullptr) {
#pragma unroll
            for (int g = 0; g < 4; ++g) store_pair(p.saved + (step * 4 + g) * hidden, j, hidden, p.pairs, kept[0][g], kept[1][g]);
            if (is_lstm) store_pair(p.cells + step * hidden, j, hidden, p.pairs, cell[0], cell[1]);
          }
        } else if (row < p.batch) {
          store_pair(p.states + step * hidden, j, hidden, p.pairs, 0, 0);
        }
        *reinterpret_cast<std::uint32_t*>(next + place * e.left_stride + j) = bf16_pair(h.x, h.y);
      }
    }
    __syncthreads();
  }
  for (int u = mine.warp; u < e.tiles; u += recurrent_warps) {
    const int j = u * 8 + mine.column;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int place = mine.row(half), row = first + place;
      if (row >= p.batch) continue;
      for (int t = longest; t < p.time; ++t) store_pair(p.states + p.step(row, t) * hidden, j, hidden, p.pairs, 0, 0);
      const float2 h = *reinterpret_cast<const float2*>(states + place * e.row_stride + j);
      store_pair(p.last + static_cast<std::int64_t>(row) * hidden, j, hidden, p.pairs, h.x, h.y);
      if (!is_lstm) continue;
      const float2 c = *reinterpret_cast<const float2*>(cells + place * e.row_stride + j);
      store_pair(p.last_cell + static_cast<std::int64_t>(row) * hidden, j, hidden, p.pairs, c.x, c.y);
    }
  }
}

/// p.weight: fragments of pack_fragments_kernel<true>. A step: gradients of the gates, a barrier, their product with the weights, a
/// barrier.
template <RecurrentCell Cell, bool Resident>
__global__ void __launch_bounds__(recurrent_threads, 1) recurrent_backward_bf16_kernel(RecurrentPointers<std::uint16_t> p) {
  extern __shared__ __align__(16) unsigned char bytes[];
  __shared__ int lengths[recurrent_rows];
  __shared__ float attention_parts[recurrent_warps][recurrent_rows];
  constexpr int gates = recurrent_gates(Cell);
  constexpr bool is_lstm = Cell == RecurrentCell::lstm, weighted = Cell == RecurrentCell::augru;
  const int hidden = p.hidden, columns = gates * hidden, first = static_cast<int>(blockIdx.x) * recurrent_rows,
            thread = static_cast<int>(threadIdx.x);
  const Bf16Extents e(hidden, gates);
  std::uint16_t* left = reinterpret_cast<std::uint16_t*>(bytes);
  float* carry = reinterpret_cast<float*>(left + recurrent_rows * e.left_stride);
  float* dcells = carry + recurrent_rows * e.row_stride;
  const uint4* fragments = static_cast<const uint4*>(p.weight);
  const LaneOfTile mine;
  if (Resident) {
    uint4* resident = reinterpret_cast<uint4*>(dcells + (is_lstm ? recurrent_rows * e.row_stride : 0));
    for (int i = thread; i < e.tiles * gates * e.k_blocks * 32; i += recurrent_threads) resident[i] = fragments[i];
    fragments = resident;
  }
  for (int i = thread; i < recurrent_rows * e.left_stride / 2; i += recurrent_threads) reinterpret_cast<std::uint32_t*>(left)[i] = 0;
  for (int u = mine.warp; u < e.tiles; u += recurrent_warps) {
    const int j = u * 8 + mine.column;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = first + mine.row(half);
      const std::int64_t at = static_cast<std::int64_t>(row) * hidden;
      float2 h = make_float2(0, 0), c = h;
      if (row < p.batch && p.dlast != nullptr) h = load_pair(p.dlast + at, j, hidden, p.pairs);
      if (is_lstm && row < p.batch && p.dlast_cell != nullptr) c = load_pair(p.dlast_cell + at, j, hidden, p.pairs);
      *reinterpret_cast<float2*>(carry + mine.row(half) * e.row_stride + j) = h;
      if (is_lstm) *reinterpret_cast<float2*>(dcells + mine.row(half) * e.row_stride + j) = c;
    }
  }
  const int longest = load_lengths(p, first, recurrent_rows, lengths);
  const std::uint32_t address = left_address(left, e.left_stride, mine.lane);
  for (int t = p.time - 1; t >= 0; --t) {
    float dattention[2] = {};
    for (int u = mine.warp; u < e.tiles; u += recurrent_warps) {
      const int j = u * 8 + mine.column;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int place = mine.row(half), row = first + place;
        const std::int64_t step = p.step(row, t), base = step * hidden, initial = static_cast<std::int64_t>(row) * hidden;
        float grad[2][gates] = {}, candidate[2] = {};
        float2 before = make_float2(0, 0);
        if (t < lengths[place]) {
          float2 kept[4], cell = before, cell_before = before;
          const float2 dstate = load_pair(p.dstates + base, j, hidden, p.pairs);
          float2* dh = reinterpret_cast<float2*>(carry + place * e.row_stride + j);
          float2* dc = reinterpret_cast<float2*>(dcells + place * e.row_stride + j);
#pragma unroll
          for (int g = 0; g < 4; ++g) kept[g] = load_pair(p.saved + (step * 4 + g) * hidden, j, hidden, p.pairs);
          if (t > 0)
            before = load_pair(p.states + base - hidden, j, hidden, p.pairs);
          else if (p.initial != nullptr)
            before = load_pair(p.initial + initial, j, hidden, p.pairs);
          if (is_lstm) {
            cell = load_pair(p.cells + base, j, hidden, p.pairs);
            if (t > 0)
              cell_before = load_pair(p.cells + base - hidden, j, hidden, p.pairs);
            else if (p.initial_cell != nullptr)
              cell_before = load_pair(p.initial_cell + initial, j, hidden, p.pairs);
          }
          const float attention = weighted ? float_of_bf16(p.attention[step]) : 1.0f;
          float dh_after[2] = {dh->x + dstate.x, dh->y + dstate.y}, dc_after[2] = {is_lstm ? dc->x : 0.0f, is_lstm ? dc->y : 0.0f};
          const float kept_low[4] = {kept[0].x, kept[1].x, kept[2].x, kept[3].x},
                      kept_high[4] = {kept[0].y, kept[1].y, kept[2].y, kept[3].y};
          cell_backward<Cell>(kept_low, before.x, cell.x, cell_before.x, attention, dh_after[0], dc_after[0], grad[0], candidate[0],
                              dattention[half]);
          cell_backward<Cell>(kept_high, before.y, cell.y, cell_before.y, attention, dh_after[1], dc_after[1], grad[1], candidate[1],
                              dattention[half]);
          *dh = make_float2(dh_after[0], dh_after[1]);
          if (is_lstm) *dc = make_float2(dc_after[0], dc_after[1]);
          if (p.dprojected != nullptr) {
#pragma unroll
            for (int g = 0; g < gates; ++g) {
              std::uint16_t* to = p.dprojected + step * columns + g * hidden;
              const float2 old = load_pair(to, j, hidden, p.pairs);
              store_pair(to, j, hidden, p.pairs, old.x + (g + 1 < gates ? grad[0][g] : candidate[0]),
                         old.y + (g + 1 < gates ? grad[1][g] : candidate[1]));
            }
          }
        }
        if (row < p.batch) {
#pragma unroll
          for (int g = 0; g < gates; ++g) store_pair(p.gates + step * columns + g * hidden, j, hidden, p.pairs, grad[0][g], grad[1][g]);
          if (!is_lstm) store_pair(p.candidates + base, j, hidden, p.pairs, candidate[0], candidate[1]);
          store_pair(p.before + base, j, hidden, p.pairs, before.x, before.y);
        }
#pragma unroll
        for (int g = 0; g < gates; ++g)
          *reinterpret_cast<std::uint32_t*>(left + place * e.left_stride + g * e.k_blocks * 32 + j) = bf16_pair(grad[0][g], grad[1][g]);
      }
    }
    if (t >= longest) continue;  // the left operand is rewritten by its own threads before anyone reads it
    if (weighted) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        dattention[half] += __shfl_xor_sync(0xFFFFFFFFu, dattention[half], 1);
        dattention[half] += __shfl_xor_sync(0xFFFFFFFFu, dattention[half], 2);
        if (mine.lane % 4 == 0) attention_parts[mine.warp][mine.row(half)] = dattention[half];
      }
    }
    __syncthreads();
    if (weighted && p.dattention != nullptr && thread < recurrent_rows && t < lengths[thread]) {
      std::uint16_t* to = p.dattention + p.step(first + thread, t);
      float sum = 0;
#pragma unroll
      for (int w = 0; w < recurrent_warps; ++w) sum += attention_parts[w][thread];
      *to = bf16_of_float(float_of_bf16(*to) + sum);
    }
    for (int u = mine.warp; u < e.tiles; u += recurrent_warps) {
      float2* low = reinterpret_cast<float2*>(carry + mine.row(0) * e.row_stride + u * 8 + mine.column);
      float2* high = reinterpret_cast<float2*>(carry + mine.row(1) * e.row_stride + u * 8 + mine.column);
      float sums[4] = {low->x, low->y, high->x, high->y};
      const uint4* column = fragments + u * gates * e.k_blocks * 32 + mine.lane;
#pragma unroll 2
      for (int k = 0; k < gates * e.k_blocks; ++k) {
        std::uint32_t a[2][4];
        load_left(a[0], address + k * 64);
        load_left(a[1], address + k * 64 + 32);
        const uint4 b = column[k * 32];
        multiply_add(sums, a[0], b.x, b.y);
        multiply_add(sums, a[1], b.z, b.w);
      }
      *low = make_float2(sums[0], sums[1]);
      *high = make_float2(sums[2], sums[3]);
    }
    __syncthreads();
  }
  for (int u = mine.warp; u < e.tiles; u += recurrent_warps) {
    const int j = u * 8 + mine.column;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int place = mine.row(half), row = first + place;
      if (row >= p.batch) continue;
      const auto add = [&](std::uint16_t* to, const float* from) {
        const float2 old = load_pair(to, j, hidden, p.pairs), more = *reinterpret_cast<const float2*>(from + place * e.row_stride + j);
        store_pair(to, j, hidden, p.pairs, old.x + more.x, old.y + more.y);
      };
      if (p.dinitial != nullptr) add(p.dinitial + static_cast<std::int64_t>(row) * hidden, carry);
      if (is_lstm && p.dinitial_cell != nullptr) add(p.dinitial_cell + static_cast<std::int64_t>(row) * hidden, dcells);
    }
  }
}

}  // namespace expctr::cuda
