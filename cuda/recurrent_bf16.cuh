// Recurrent cells with bf16 storage on tensor cores (mma.sync m16n8k16, float sums). A block owns 16 rows of the batch over all time steps:
// their states stay in shared memory, in float, and once more in bf16 as the left operand, twice (a step reads one copy and writes the
// other: one barrier a step). The right operand is the recurrent weights, laid out once a call in the order of the fragments: a lane loads
// 16 bytes, its share of 32 x 8 weights, from shared memory where all of them fit, else through the caches. A warp owns 16 units at a time
// with all their gates, so the cell is evaluated in the registers that hold the sums; which unit is which column of the two fragments of 8
// is chosen so that a lane has four neighbouring units, and four lanes a whole sector of memory. FLOPs and values moved as in
// cuda/recurrent_f32.cuh, at 2 bytes a value: bound by the latency of a step.
#pragma once

#include "cuda/mma_bf16.cuh"
#include "cuda/recurrent_f32.cuh"

namespace expctr::cuda {

constexpr int recurrent_rows = 16, units_per_lane = 4, most_recurrent_warps = recurrent_threads / 32;

/// Extents of a bf16 tile.
struct Bf16Extents {
  int groups;       ///< of 16 units
  int k_blocks;     ///< of 32 units: those of one gate, or of the state, in the left operand
  int left_stride;  ///< elements of a row of the left operand of `parts` such blocks: whole groups of eight 16-byte pieces, for the swizzle
  int row_stride;   ///< of a row of floats: 16 more than a multiple of 32, so that two rows of 16 units share no bank
  __host__ __device__ Bf16Extents(int hidden, int parts)
      : groups((hidden + 15) / 16),
        k_blocks((hidden + 31) / 32),
        left_stride((parts * k_blocks * 32 + 63) / 64 * 64),
        row_stride(groups * 16 + (groups % 2 == 0 ? 16 : 0)) {}
  /// Warps that have something to do.
  __host__ __device__ int warps() const { return groups < most_recurrent_warps ? groups : most_recurrent_warps; }
};

__host__ __device__ constexpr std::int64_t fragment_bytes(std::int64_t column_tiles, std::int64_t k_blocks) {
  return column_tiles * k_blocks * 32 * 16;
}

inline std::int64_t bf16_forward_shared(RecurrentCell cell, const Bf16Extents& e, std::int64_t hidden) {
  return 2 * recurrent_rows * e.left_stride * 2 + (cell == RecurrentCell::lstm ? 2 : 1) * recurrent_rows * e.row_stride * 4 +
         (2 * recurrent_gates(cell) * hidden + 3) / 4 * 16;
}
inline std::int64_t bf16_backward_shared(RecurrentCell cell, const Bf16Extents& e) {
  return recurrent_rows * e.left_stride * 2 + (cell == RecurrentCell::lstm ? 2 : 1) * recurrent_rows * e.row_stride * 4;
}

/// Unit of a group of 16 that is column n of its fragment 0 or 1: a lane's columns 2 q and 2 q + 1 of both are the units 4 q to 4 q + 3.
__device__ __forceinline__ int unit_of_column(int fragment, int n) { return n / 2 * 4 + fragment * 2 + n % 2; }

/// Right operands, fragment by fragment: element i of lane l of block b of a column tile is row k = 32 b + 16 (i / 4) + 8 (i / 2 % 2) + 2
/// (l % 4)
/// + i % 2, column l / 4. Forward: column tile (g * groups + group) * 2 + fragment holds units of gate g, k is a unit of the state;
/// backward: column tile group * 2 + fragment holds units of the state, k runs over the gates, each padded to 32 units.
template <bool Backward>
__global__ void __launch_bounds__(recurrent_threads)
    pack_fragments_kernel(const float* weight, int hidden, int gates, int groups, int k_blocks, std::int64_t elements, uint4* out) {
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * recurrent_threads + threadIdx.x;
  if (index >= elements) return;
  const int lane = static_cast<int>(index % 32), all_blocks = Backward ? gates * k_blocks : k_blocks;
  const int block = static_cast<int>(index / 32 % all_blocks), tile = static_cast<int>(index / 32 / all_blocks);
  std::uint32_t packed[4];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int k = 32 * (block % k_blocks) + 16 * (i / 4) + 8 * (i / 2 % 2) + 2 * (lane % 4) + i % 2;
    const int unit = tile / 2 % groups * 16 + unit_of_column(tile % 2, lane / 4), gate = Backward ? block / k_blocks : tile / 2 / groups;
    const std::int64_t row = static_cast<std::int64_t>(gate) * hidden + (Backward ? k : unit);
    const std::uint32_t half = k < hidden && unit < hidden ? bf16_of_float(weight[row * hidden + (Backward ? unit : k)]) : 0u;
    packed[i / 2] = i % 2 == 0 ? half : packed[i / 2] | half << 16;
  }
  out[index] = make_uint4(packed[0], packed[1], packed[2], packed[3]);
}

/// Byte offset of 16-byte piece `piece` of row `row` of the left operand. Pieces are exchanged within groups of eight so that eight rows of
/// one piece (a load) and two neighbouring pieces of four rows (a store) lie in different banks.
__device__ __forceinline__ int left_offset(int row, int piece, int left_stride) {
  const int swizzle = (2 * row & 6) | (row >> 2 & 1);
  return row * left_stride * 2 + ((piece & ~7) | ((piece ^ swizzle) & 7)) * 16;
}

/// Four neighbouring elements of a row; zeros beyond `hidden`. quads: they may be moved together (through the L2 cache only: every element
/// is read once, and so the compiler leaves the access whole).
__device__ __forceinline__ float4 load_quad(const std::uint16_t* row, int j, int hidden, bool quads) {
  if (quads) {
    const uint2 both = j < hidden ? __ldcg(reinterpret_cast<const uint2*>(row + j)) : make_uint2(0, 0);
    return make_float4(float_of_bits(both.x << 16), float_of_bits(both.x & 0xFFFF0000u), float_of_bits(both.y << 16),
                       float_of_bits(both.y & 0xFFFF0000u));
  }
  float out[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) out[i] = j + i < hidden ? float_of_bf16(row[j + i]) : 0.0f;
  return vector_of(out);
}
__device__ __forceinline__ uint2 bf16_quad(const float (&v)[4]) { return make_uint2(bf16_pair(v[0], v[1]), bf16_pair(v[2], v[3])); }
__device__ __forceinline__ void store_quad(std::uint16_t* row, int j, int hidden, bool quads, const float (&values)[4]) {
  if (quads) {
    if (j < hidden) __stcg(reinterpret_cast<uint2*>(row + j), bf16_quad(values));
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (j + i < hidden) row[j + i] = bf16_of_float(values[i]);
}

// Left to itself the compiler takes vectors in shared memory apart, and single words at strides of four meet in their banks.
__device__ __forceinline__ void load_four(const float* from, float (&v)[4]) {
  asm volatile("ld.shared.v4.f32 {%0,%1,%2,%3}, [%4];"
               : "=f"(v[0]), "=f"(v[1]), "=f"(v[2]), "=f"(v[3])
               : "r"(static_cast<std::uint32_t>(__cvta_generic_to_shared(from)))
               : "memory");
}
__device__ __forceinline__ void store_four(float* to, float a, float b, float c, float d) {
  asm volatile("st.shared.v4.f32 [%0], {%1,%2,%3,%4};" ::"r"(static_cast<std::uint32_t>(__cvta_generic_to_shared(to))), "f"(a), "f"(b),
               "f"(c), "f"(d)
               : "memory");
}
__device__ __forceinline__ void store_four(float* to, const float (&v)[4]) { store_four(to, v[0], v[1], v[2], v[3]); }

/// What a lane has of a group of 16 units: units column to column + 3 of rows low and low + 8.
struct LaneOfTile {
  int lane, warp, warps, low, column;
  __device__ __forceinline__ LaneOfTile()
      : lane(static_cast<int>(threadIdx.x) % 32),
        warp(static_cast<int>(threadIdx.x) / 32),
        warps(static_cast<int>(blockDim.x) / 32),
        low(lane / 4),
        column(lane % 4 * units_per_lane) {}
  __device__ __forceinline__ int row(int half) const { return low + 8 * half; }
  /// Stores four units from j on into the left operand (j counts its columns).
  __device__ __forceinline__ void store_left(unsigned char* left, int left_stride, int half, int j, const float (&values)[4]) const {
    *reinterpret_cast<uint2*>(left + left_offset(row(half), j / 8, left_stride) + j % 8 * 2) = bf16_quad(values);
  }
  /// The 16 x 16 fragment of columns 16 k16 on.
  __device__ __forceinline__ void load_fragment(std::uint32_t (&a)[4], const unsigned char* left, int left_stride, int k16) const {
    load_left(a, static_cast<std::uint32_t>(__cvta_generic_to_shared(left + left_offset(lane % 16, 2 * k16 + lane / 16, left_stride))));
  }
};

/// This lane's sums of a group: units i < 2 come from fragment 0, the others from fragment 1.
__device__ __forceinline__ float sum_of(const float (&sums)[2][4], int half, int i) { return sums[i / 2][2 * half + i % 2]; }

/// p.weight: fragments of pack_fragments_kernel<false>.
template <RecurrentCell Cell, bool Resident>
__global__ void __launch_bounds__(recurrent_threads, 1) recurrent_forward_bf16_kernel(RecurrentPointers<std::uint16_t> p) {
  extern __shared__ __align__(16) unsigned char bytes[];
  __shared__ int lengths[recurrent_rows];
  constexpr int gates = recurrent_gates(Cell);
  constexpr bool is_lstm = Cell == RecurrentCell::lstm;
  const int hidden = p.hidden, columns = gates * hidden, first = static_cast<int>(blockIdx.x) * recurrent_rows;
  const Bf16Extents e(hidden, 1);
  const int plane = recurrent_rows * e.left_stride * 2;
  unsigned char* left = bytes;
  float* states = reinterpret_cast<float*>(left + 2 * plane);
  float* cells = states + recurrent_rows * e.row_stride;
  float* biases = states + (is_lstm ? 2 : 1) * recurrent_rows * e.row_stride;
  const uint4* fragments = static_cast<const uint4*>(p.weight);
  const LaneOfTile mine;
  if (Resident) {
    uint4* resident = reinterpret_cast<uint4*>(biases + (2 * columns + 3) / 4 * 4);
    for (int i = static_cast<int>(threadIdx.x); i < gates * e.groups * 2 * e.k_blocks * 32; i += static_cast<int>(blockDim.x))
      resident[i] = fragments[i];
    fragments = resident;
  }
  load_biases(p, columns, biases);
  for (int i = static_cast<int>(threadIdx.x); i < plane / 8; i += static_cast<int>(blockDim.x))
    reinterpret_cast<uint4*>(left)[i] = make_uint4(0, 0, 0, 0);
  __syncthreads();
  for (int group = mine.warp; group < e.groups; group += mine.warps) {
    const int j = group * 16 + mine.column;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = first + mine.row(half);
      const std::int64_t at = static_cast<std::int64_t>(row) * hidden;
      float4 h = make_float4(0, 0, 0, 0), c = h;
      if (row < p.batch && p.initial != nullptr) h = load_quad(p.initial + at, j, hidden, p.quads);
      if (is_lstm && row < p.batch && p.initial_cell != nullptr) c = load_quad(p.initial_cell + at, j, hidden, p.quads);
      store_four(states + mine.row(half) * e.row_stride + j, h.x, h.y, h.z, h.w);
      if (is_lstm) store_four(cells + mine.row(half) * e.row_stride + j, c.x, c.y, c.z, c.w);
      float four[4];
      four_of(h, four);
      mine.store_left(left, e.left_stride, half, j, four);
    }
  }
  const int longest = load_lengths(p, first, recurrent_rows, lengths);
  const float zeros[4] = {};
  for (int t = 0; t < longest; ++t) {
    const unsigned char* before = left + (t & 1) * plane;
    unsigned char* next = left + (~t & 1) * plane;
    for (int group = mine.warp; group < e.groups; group += mine.warps) {
      const int j = group * 16 + mine.column;
      float from_input[2][gates][4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const bool active = t < lengths[mine.row(half)];
        const std::uint16_t* row = p.projected + p.step(first + mine.row(half), t) * columns;
#pragma unroll
        for (int g = 0; g < gates; ++g)
          four_of(active ? load_quad(row + g * hidden, j, hidden, p.quads) : make_float4(0, 0, 0, 0), from_input[half][g]);
      }
      float sums[gates][2][4] = {};
      for (int k = 0; k < e.k_blocks; ++k) {
        std::uint32_t a[2][4];
        mine.load_fragment(a[0], before, e.left_stride, 2 * k);
        mine.load_fragment(a[1], before, e.left_stride, 2 * k + 1);
#pragma unroll
        for (int g = 0; g < gates; ++g) {
#pragma unroll
          for (int fragment = 0; fragment < 2; ++fragment) {
            const uint4 b = fragments[(((g * e.groups + group) * 2 + fragment) * e.k_blocks + k) * 32 + mine.lane];
            multiply_add(sums[g][fragment], a[0], b.x, b.y);
            multiply_add(sums[g][fragment], a[1], b.z, b.w);
          }
        }
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int place = mine.row(half), row = first + place;
        const std::int64_t step = p.step(row, t);
        float* state = states + place * e.row_stride + j;
        float* cell_state = cells + place * e.row_stride + j;
        float h[4], c[4] = {};
        load_four(state, h);
        if (t < lengths[place]) {
          const float attention = Cell == RecurrentCell::augru ? float_of_bf16(p.attention[step]) : 1.0f;
          if (is_lstm) load_four(cell_state, c);
          float kept[4][4];
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            float input[gates], product[gates], kept_of_unit[4];
            const int unit = min(j + i, hidden - 1);
#pragma unroll
            for (int g = 0; g < gates; ++g) {
              input[g] = from_input[half][g][i] + biases[g * hidden + unit];
              product[g] = sum_of(sums[g], half, i) + biases[columns + g * hidden + unit];
            }
            cell_step<Cell>(input, product, attention, h[i], c[i], kept_of_unit);
            if (j + i >= hidden) h[i] = 0;
#pragma unroll
            for (int g = 0; g < 4; ++g) kept[g][i] = kept_of_unit[g];
          }
          store_four(state, h);
          if (is_lstm) store_four(cell_state, c);
          store_quad(p.states + step * hidden, j, hidden, p.quads, h);
          if (p.saved != nullptr) {
#pragma unroll
            for (int g = 0; g < 4; ++g) store_quad(p.saved + (step * 4 + g) * hidden, j, hidden, p.quads, kept[g]);
            if (is_lstm) store_quad(p.cells + step * hidden, j, hidden, p.quads, c);
          }
        } else if (row < p.batch) {
          store_quad(p.states + step * hidden, j, hidden, p.quads, zeros);
        }
        mine.store_left(next, e.left_stride, half, j, h);
      }
    }
    __syncthreads();
  }
  for (int group = mine.warp; group < e.groups; group += mine.warps) {
    const int j = group * 16 + mine.column;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int place = mine.row(half), row = first + place;
      if (row >= p.batch) continue;
      for (int t = longest; t < p.time; ++t) store_quad(p.states + p.step(row, t) * hidden, j, hidden, p.quads, zeros);
      float four[4];
      load_four(states + place * e.row_stride + j, four);
      store_quad(p.last + static_cast<std::int64_t>(row) * hidden, j, hidden, p.quads, four);
      if (!is_lstm) continue;
      load_four(cells + place * e.row_stride + j, four);
      store_quad(p.last_cell + static_cast<std::int64_t>(row) * hidden, j, hidden, p.quads, four);
    }
  }
}

/// p.weight: fragments of pack_fragments_kernel<true>. A step: gradients of the gates, a barrier, their product with the weights, a
/// barrier.
template <RecurrentCell Cell, bool Resident>
__global__ void __launch_bounds__(recurrent_threads, 1) recurrent_backward_bf16_kernel(RecurrentPointers<std::uint16_t> p) {
  extern __shared__ __align__(16) unsigned char bytes[];
  __shared__ int lengths[recurrent_rows];
  __shared__ float attention_parts[most_recurrent_warps][recurrent_rows];
  constexpr int gates = recurrent_gates(Cell);
  constexpr bool is_lstm = Cell == RecurrentCell::lstm, weighted = Cell == RecurrentCell::augru;
  const int hidden = p.hidden, columns = gates * hidden, first = static_cast<int>(blockIdx.x) * recurrent_rows,
            thread = static_cast<int>(threadIdx.x);
  const Bf16Extents e(hidden, gates);
  unsigned char* left = bytes;
  float* carry = reinterpret_cast<float*>(left + recurrent_rows * e.left_stride * 2);
  float* dcells = carry + recurrent_rows * e.row_stride;
  const uint4* fragments = static_cast<const uint4*>(p.weight);
  const LaneOfTile mine;
  if (Resident) {
    uint4* resident = reinterpret_cast<uint4*>(carry + (is_lstm ? 2 : 1) * recurrent_rows * e.row_stride);
    for (int i = thread; i < e.groups * 2 * gates * e.k_blocks * 32; i += static_cast<int>(blockDim.x)) resident[i] = fragments[i];
    fragments = resident;
  }
  for (int i = thread; i < recurrent_rows * e.left_stride / 8; i += static_cast<int>(blockDim.x))
    reinterpret_cast<uint4*>(left)[i] = make_uint4(0, 0, 0, 0);
  for (int group = mine.warp; group < e.groups; group += mine.warps) {
    const int j = group * 16 + mine.column;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = first + mine.row(half);
      const std::int64_t at = static_cast<std::int64_t>(row) * hidden;
      float4 h = make_float4(0, 0, 0, 0), c = h;
      if (row < p.batch && p.dlast != nullptr) h = load_quad(p.dlast + at, j, hidden, p.quads);
      if (is_lstm && row < p.batch && p.dlast_cell != nullptr) c = load_quad(p.dlast_cell + at, j, hidden, p.quads);
      store_four(carry + mine.row(half) * e.row_stride + j, h.x, h.y, h.z, h.w);
      if (is_lstm) store_four(dcells + mine.row(half) * e.row_stride + j, c.x, c.y, c.z, c.w);
    }
  }
  const int longest = load_lengths(p, first, recurrent_rows, lengths);
  for (int t = p.time - 1; t >= 0; --t) {
    float dattention[2] = {};
    for (int group = mine.warp; group < e.groups; group += mine.warps) {
      const int j = group * 16 + mine.column;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int place = mine.row(half), row = first + place;
        const std::int64_t step = p.step(row, t), base = step * hidden, initial = static_cast<std::int64_t>(row) * hidden;
        float grad[gates][4] = {}, candidate[4] = {}, before[4] = {};
        if (t < lengths[place]) {
          float* dh_state = carry + place * e.row_stride + j;
          float* dc_state = dcells + place * e.row_stride + j;
          float kept[4][4], dstate[4], dh[4], dc[4] = {}, cell[4] = {}, cell_before[4] = {};
          four_of(load_quad(p.dstates + base, j, hidden, p.quads), dstate);
#pragma unroll
          for (int g = 0; g < 4; ++g) four_of(load_quad(p.saved + (step * 4 + g) * hidden, j, hidden, p.quads), kept[g]);
          if (t > 0)
            four_of(load_quad(p.states + base - hidden, j, hidden, p.quads), before);
          else if (p.initial != nullptr)
            four_of(load_quad(p.initial + initial, j, hidden, p.quads), before);
          load_four(dh_state, dh);
          if (is_lstm) {
            load_four(dc_state, dc);
            four_of(load_quad(p.cells + base, j, hidden, p.quads), cell);
            if (t > 0)
              four_of(load_quad(p.cells + base - hidden, j, hidden, p.quads), cell_before);
            else if (p.initial_cell != nullptr)
              four_of(load_quad(p.initial_cell + initial, j, hidden, p.quads), cell_before);
          }
          const float attention = weighted ? float_of_bf16(p.attention[step]) : 1.0f;
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const float kept_of_unit[4] = {kept[0][i], kept[1][i], kept[2][i], kept[3][i]};
            float grad_of_unit[gates];
            dh[i] += dstate[i];
            cell_backward<Cell>(kept_of_unit, before[i], cell[i], cell_before[i], attention, dh[i], dc[i], grad_of_unit, candidate[i],
                                dattention[half]);
#pragma unroll
            for (int g = 0; g < gates; ++g) grad[g][i] = grad_of_unit[g];
          }
          store_four(dh_state, dh);
          if (is_lstm) store_four(dc_state, dc);
          if (p.dprojected != nullptr) {
#pragma unroll
            for (int g = 0; g < gates; ++g) {
              std::uint16_t* to = p.dprojected + step * columns + g * hidden;
              float sum[4];
              four_of(load_quad(to, j, hidden, p.quads), sum);
#pragma unroll
              for (int i = 0; i < 4; ++i) sum[i] += g + 1 < gates ? grad[g][i] : candidate[i];
              store_quad(to, j, hidden, p.quads, sum);
            }
          }
        }
        if (row < p.batch) {
#pragma unroll
          for (int g = 0; g < gates; ++g) store_quad(p.gates + step * columns + g * hidden, j, hidden, p.quads, grad[g]);
          if (!is_lstm) store_quad(p.candidates + base, j, hidden, p.quads, candidate);
          store_quad(p.before + base, j, hidden, p.quads, before);
        }
#pragma unroll
        for (int g = 0; g < gates; ++g) mine.store_left(left, e.left_stride, half, g * e.k_blocks * 32 + j, grad[g]);
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
      for (int w = 0; w < mine.warps; ++w) sum += attention_parts[w][thread];
      *to = bf16_of_float(float_of_bf16(*to) + sum);
    }
    for (int group = mine.warp; group < e.groups; group += mine.warps) {
      float* state[2] = {carry + mine.row(0) * e.row_stride + group * 16 + mine.column,
                         carry + mine.row(1) * e.row_stride + group * 16 + mine.column};
      float low[4], high[4];
      load_four(state[0], low);
      load_four(state[1], high);
      float sums[2][4] = {{low[0], low[1], high[0], high[1]}, {low[2], low[3], high[2], high[3]}};
      const uint4* column = fragments + group * 2 * gates * e.k_blocks * 32 + mine.lane;
#pragma unroll 2
      for (int k = 0; k < gates * e.k_blocks; ++k) {
        std::uint32_t a[2][4];
        mine.load_fragment(a[0], left, e.left_stride, 2 * k);
        mine.load_fragment(a[1], left, e.left_stride, 2 * k + 1);
#pragma unroll
        for (int fragment = 0; fragment < 2; ++fragment) {
          const uint4 b = column[(fragment * gates * e.k_blocks + k) * 32];
          multiply_add(sums[fragment], a[0], b.x, b.y);
          multiply_add(sums[fragment], a[1], b.z, b.w);
        }
      }
      store_four(state[0], sums[0][0], sums[0][1], sums[1][0], sums[1][1]);
      store_four(state[1], sums[0][2], sums[0][3], sums[1][2], sums[1][3]);
    }
    __syncthreads();
  }
  for (int group = mine.warp; group < e.groups; group += mine.warps) {
    const int j = group * 16 + mine.column;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int place = mine.row(half), row = first + place;
      if (row >= p.batch) continue;
      const auto add = [&](std::uint16_t* to, const float* from) {
        float old[4], more[4];
        four_of(load_quad(to, j, hidden, p.quads), old);
        load_four(from + place * e.row_stride + j, more);
#pragma unroll
        for (int i = 0; i < 4; ++i) old[i] += more[i];
        store_quad(to, j, hidden, p.quads, old);
      };
      if (p.dinitial != nullptr) add(p.dinitial + static_cast<std::int64_t>(row) * hidden, carry);
      if (is_lstm && p.dinitial_cell != nullptr) add(p.dinitial_cell + static_cast<std::int64_t>(row) * hidden, dcells);
    }
  }
}

}  // namespace expctr::cuda
