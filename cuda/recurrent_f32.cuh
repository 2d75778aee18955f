// Recurrent cells in float on the ordinary units. A block owns a few rows of the batch over all time steps; their states stay in shared
// memory, the recurrent weights too where they fit, else they are read through the caches. A thread has a unit of four rows: per k it loads
// the unit's gate weights (neighbouring threads neighbouring words) and, broadcast, four states. 2 gates hidden^2 FLOPs a row and step over
// 4 (5 gates + 6) hidden bytes (forward) of device memory: bound by the fp32 units and the latency of a step, not by memory.
#pragma once

#include "cuda/recurrent_cell.cuh"

namespace expctr::cuda {

constexpr int rows_per_thread = 4;

/// Threads across units; 256 / lanes groups of threads have four rows each.
inline int recurrent_lanes(std::int64_t hidden) {
  int lanes = 32;
  while (lanes < recurrent_threads && lanes < hidden) lanes *= 2;
  return lanes;
}

struct TileOfRows {
  int rows, group, lane, first;  ///< rows of the block; this thread's group and lane; the block's first row
  __device__ __forceinline__ explicit TileOfRows(int lanes)
      : rows(recurrent_threads / lanes * rows_per_thread),
        group(static_cast<int>(threadIdx.x) / lanes),
        lane(static_cast<int>(threadIdx.x) % lanes),
        first(static_cast<int>(blockIdx.x) * rows) {}
  __device__ __forceinline__ int place(int r) const { return group * rows_per_thread + r; }
};

/// Row lengths of the block into shared memory; returns the longest. A barrier.
template <class T>
__device__ __forceinline__ int load_lengths(const RecurrentPointers<T>& p, int first, int rows, int* lengths) {
  for (int i = static_cast<int>(threadIdx.x); i < rows; i += recurrent_threads) lengths[i] = p.length(first + i);
  __syncthreads();
  int longest = 0;
  for (int i = 0; i < rows; ++i) longest = max(longest, lengths[i]);
  return longest;
}

__device__ __forceinline__ void copy_words(const float* from, std::int64_t count, float* to) {
  const float4* wide = reinterpret_cast<const float4*>(from);
  if (aligned16(from) && count % 4 == 0) {
    for (std::int64_t i = threadIdx.x; i < count / 4; i += recurrent_threads) reinterpret_cast<float4*>(to)[i] = wide[i];
  } else {
    for (std::int64_t i = threadIdx.x; i < count; i += recurrent_threads) to[i] = from[i];
  }
}

__device__ __forceinline__ void four_of(const float4& v, float (&out)[4]) {
  out[0] = v.x;
  out[1] = v.y;
  out[2] = v.z;
  out[3] = v.w;
}

/// Floats of shared memory without the weights.
__host__ __device__ constexpr std::int64_t forward_shared_floats(RecurrentCell cell, std::int64_t hidden, std::int64_t rows) {
  return (cell == RecurrentCell::lstm ? 3 : 2) * hidden * rows;
}
__host__ __device__ constexpr std::int64_t backward_shared_floats(RecurrentCell cell, std::int64_t hidden, std::int64_t rows) {
  return (recurrent_gates(cell) + (cell == RecurrentCell::lstm ? 2 : 1)) * hidden * rows;
}

/// p.weight: transposed, [hidden, gates * hidden].
template <RecurrentCell Cell, bool Resident>
__global__ void __launch_bounds__(recurrent_threads, 2) recurrent_forward_kernel(RecurrentPointers<float> p, int lanes) {
  extern __shared__ __align__(16) float memory[];
  __shared__ int lengths[recurrent_threads / 32 * rows_per_thread];
  constexpr int gates = recurrent_gates(Cell);
  constexpr bool is_lstm = Cell == RecurrentCell::lstm;
  const TileOfRows tile(lanes);
  const int hidden = p.hidden, columns = gates * hidden, plane = hidden * tile.rows;
  float *cells = memory + 2 * plane, *resident = memory + forward_shared_floats(Cell, hidden, tile.rows);
  const float* weights = static_cast<const float*>(p.weight);
  if (Resident) {
    copy_words(weights, static_cast<std::int64_t>(hidden) * columns, resident);
    weights = resident;
  }
  for (int j = tile.lane; j < hidden; j += lanes) {
#pragma unroll
    for (int r = 0; r < rows_per_thread; ++r) {
      const int row = tile.first + tile.place(r);
      const std::int64_t at = static_cast<std::int64_t>(row) * hidden + j;
      memory[j * tile.rows + tile.place(r)] = p.initial != nullptr && row < p.batch ? p.initial[at] : 0.0f;
      if (is_lstm) cells[j * tile.rows + tile.place(r)] = p.initial_cell != nullptr && row < p.batch ? p.initial_cell[at] : 0.0f;
    }
  }
  const int longest = load_lengths(p, tile.first, tile.rows, lengths);
  for (int t = 0; t < longest; ++t) {
    const float* state = memory + (t & 1) * plane;
    float* next = memory + (~t & 1) * plane;
    for (int j = tile.lane; j < hidden; j += lanes) {
      float from_input[rows_per_thread][gates], sums[rows_per_thread][gates];
#pragma unroll
      for (int r = 0; r < rows_per_thread; ++r) {
        const bool active = t < lengths[tile.place(r)];
        const float* row = p.projected + p.step(tile.first + tile.place(r), t) * columns + j;
#pragma unroll
        for (int g = 0; g < gates; ++g) {
          from_input[r][g] = active ? row[g * hidden] : 0.0f;
          sums[r][g] = 0;
        }
      }
      const float* column = weights + j;
#pragma unroll 4
      for (int k = 0; k < hidden; ++k) {
        float h[4];
        four_of(*reinterpret_cast<const float4*>(state + k * tile.rows + tile.place(0)), h);
#pragma unroll
        for (int g = 0; g < gates; ++g) {
          const float w = column[k * columns + g * hidden];
#pragma unroll
          for (int r = 0; r < rows_per_thread; ++r) sums[r][g] += h[r] * w;
        }
      }
      float after[rows_per_thread];
      four_of(*reinterpret_cast<const float4*>(state + j * tile.rows + tile.place(0)), after);
#pragma unroll
      for (int r = 0; r < rows_per_thread; ++r) {
        const int row = tile.first + tile.place(r);
        if (row >= p.batch) continue;
        const std::int64_t step = p.step(row, t);
        if (t >= lengths[tile.place(r)]) {
          p.states[step * hidden + j] = 0.0f;
          continue;
        }
        float input[gates], product[gates], kept[4], c = is_lstm ? cells[j * tile.rows + tile.place(r)] : 0.0f;
#pragma unroll
        for (int g = 0; g < gates; ++g) {
          input[g] = from_input[r][g] + p.input_bias(g * hidden + j);
          product[g] = sums[r][g] + p.hidden_bias(g * hidden + j);
        }
        cell_step<Cell>(input, product, Cell == RecurrentCell::augru ? p.attention[step] : 1.0f, after[r], c, kept);
        p.states[step * hidden + j] = after[r];
        if (is_lstm) cells[j * tile.rows + tile.place(r)] = c;
        if (p.saved == nullptr) continue;
#pragma unroll
        for (int g = 0; g < 4; ++g) p.saved[(step * 4 + g) * hidden + j] = kept[g];
        if (is_lstm) p.cells[step * hidden + j] = c;
      }
      *reinterpret_cast<float4*>(next + j * tile.rows + tile.place(0)) = make_float4(after[0], after[1], after[2], after[3]);
    }
    __syncthreads();
  }
  for (int j = tile.lane; j < hidden; j += lanes) {
#pragma unroll
    for (int r = 0; r < rows_per_thread; ++r) {
      const int row = tile.first + tile.place(r);
      if (row >= p.batch) continue;
      for (int t = longest; t < p.time; ++t) p.states[p.step(row, t) * hidden + j] = 0.0f;
      p.last[static_cast<std::int64_t>(row) * hidden + j] = memory[(longest & 1) * plane + j * tile.rows + tile.place(r)];
      if (is_lstm) p.last_cell[static_cast<std::int64_t>(row) * hidden + j] = cells[j * tile.rows + tile.place(r)];
    }
  }
}

/// p.weight: [gates * hidden, hidden].
template <RecurrentCell Cell, bool Resident>
__global__ void __launch_bounds__(recurrent_threads, 2) recurrent_backward_kernel(RecurrentPointers<float> p, int lanes) {
  extern __shared__ __align__(16) float memory[];
  __shared__ int lengths[recurrent_threads / 32 * rows_per_thread];
  __shared__ float attention_parts[recurrent_threads / 32][rows_per_thread];
  constexpr int gates = recurrent_gates(Cell);
  constexpr bool is_lstm = Cell == RecurrentCell::lstm, weighted = Cell == RecurrentCell::augru;
  const TileOfRows tile(lanes);
  const int hidden = p.hidden, columns = gates * hidden, plane = hidden * tile.rows, thread = static_cast<int>(threadIdx.x);
  float *dgates = memory, *carry = memory + gates * plane, *dcell = carry + plane,
        *resident = memory + backward_shared_floats(Cell, hidden, tile.rows);
  const float* weights = static_cast<const float*>(p.weight);
  if (Resident) {
    copy_words(weights, static_cast<std::int64_t>(hidden) * columns, resident);
    weights = resident;
  }
  for (int j = tile.lane; j < hidden; j += lanes) {
#pragma unroll
    for (int r = 0; r < rows_per_thread; ++r) {
      const int row = tile.first + tile.place(r);
      const std::int64_t at = static_cast<std::int64_t>(row) * hidden + j;
      carry[j * tile.rows + tile.place(r)] = p.dlast != nullptr && row < p.batch ? p.dlast[at] : 0.0f;
      if (is_lstm) dcell[j * tile.rows + tile.place(r)] = p.dlast_cell != nullptr && row < p.batch ? p.dlast_cell[at] : 0.0f;
    }
  }
  const int longest = load_lengths(p, tile.first, tile.rows, lengths);
  for (int t = p.time - 1; t >= 0; --t) {
    float dattention[rows_per_thread] = {};
    for (int j = tile.lane; j < hidden; j += lanes) {
#pragma unroll
      for (int r = 0; r < rows_per_thread; ++r) {
        const int row = tile.first + tile.place(r), at = j * tile.rows + tile.place(r);
        float grad[gates] = {}, candidate = 0, before = 0;
        const std::int64_t step = p.step(row, t);
        const bool active = t < lengths[tile.place(r)];
        if (active) {
          const std::int64_t base = step * hidden + j, initial = static_cast<std::int64_t>(row) * hidden + j;
          float kept[4], cell = 0, cell_before = 0, dh = carry[at] + p.dstates[base], dc = is_lstm ? dcell[at] : 0.0f;
#pragma unroll
          for (int g = 0; g < 4; ++g) kept[g] = p.saved[(step * 4 + g) * hidden + j];
          before = t > 0 ? p.states[base - hidden] : p.initial != nullptr ? p.initial[initial] : 0.0f;
          if (is_lstm) {
            cell = p.cells[base];
            cell_before = t > 0 ? p.cells[base - hidden] : p.initial_cell != nullptr ? p.initial_cell[initial] : 0.0f;
          }
          cell_backward<Cell>(kept, before, cell, cell_before, weighted ? p.attention[step] : 1.0f, dh, dc, grad, candidate, dattention[r]);
          carry[at] = dh;
          if (is_lstm) dcell[at] = dc;
          if (p.dprojected != nullptr) {
            float* to = p.dprojected + step * columns + j;
#pragma unroll
            for (int g = 0; g < gates; ++g) to[g * hidden] += g + 1 < gates ? grad[g] : candidate;
          }
        }
        if (row < p.batch) {
#pragma unroll
          for (int g = 0; g < gates; ++g) p.gates[step * columns + g * hidden + j] = grad[g];
          if (!is_lstm) p.candidates[step * hidden + j] = candidate;
          p.before[step * hidden + j] = before;
        }
#pragma unroll
        for (int g = 0; g < gates; ++g) dgates[g * plane + at] = grad[g];
      }
    }
    if (t >= longest) continue;  // dgates are rewritten by their own threads before anyone reads them
    if (weighted) {
#pragma unroll
      for (int r = 0; r < rows_per_thread; ++r) {
#pragma unroll
        for (int offset = 16; offset > 0; offset /= 2) dattention[r] += __shfl_xor_sync(0xFFFFFFFFu, dattention[r], offset);
        if (thread % 32 == 0) attention_parts[thread / 32][r] = dattention[r];
      }
    }
    __syncthreads();
    if (weighted && p.dattention != nullptr && thread < tile.rows && t < lengths[thread]) {
      const int warps = lanes / 32, group = thread / rows_per_thread;
      float sum = 0;
      for (int w = 0; w < warps; ++w) sum += attention_parts[group * warps + w][thread % rows_per_thread];
      p.dattention[p.step(tile.first + thread, t)] += sum;
    }
    for (int j = tile.lane; j < hidden; j += lanes) {
      float sums[4], d[4];
      four_of(*reinterpret_cast<const float4*>(carry + j * tile.rows + tile.place(0)), sums);
      const float* column = weights + j;
#pragma unroll 8
      for (int k = 0; k < columns; ++k) {
        four_of(*reinterpret_cast<const float4*>(dgates + k * tile.rows + tile.place(0)), d);
        const float w = column[k * hidden];
#pragma unroll
        for (int r = 0; r < rows_per_thread; ++r) sums[r] += d[r] * w;
      }
      *reinterpret_cast<float4*>(carry + j * tile.rows + tile.place(0)) = make_float4(sums[0], sums[1], sums[2], sums[3]);
    }
    __syncthreads();
  }
  for (int j = tile.lane; j < hidden; j += lanes) {
#pragma unroll
    for (int r = 0; r < rows_per_thread; ++r) {
      const int row = tile.first + tile.place(r);
      if (row >= p.batch) continue;
      const std::int64_t at = static_cast<std::int64_t>(row) * hidden + j;
      if (p.dinitial != nullptr) p.dinitial[at] += carry[j * tile.rows + tile.place(r)];
      if (is_lstm && p.dinitial_cell != nullptr) p.dinitial_cell[at] += dcell[j * tile.rows + tile.place(r)];
    }
  }
}

}  // namespace expctr::cuda
