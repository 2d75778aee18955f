// Recurrent cells in float on the ordinary units. A block owns a few rows of the batch over all time steps; their states stay in shared
// memory, the recurrent weights too where they fit, else they are read through the caches. A thread has a unit of four rows: per k it loads
// the unit's gate weights (neighbouring threads neighbouring words) and, broadcast, four states. A row and step: 2 gates
// hidden^2 FLOPs either way; forward reads gates and writes 5 hidden values (lstm 6), backward moves 17 (lstm 21); and every block reads
// the weights once. Bound by the fp32 units and the latency of a step.
#pragma once

#include "cuda/recurrent_cell.cuh"

namespace expctr::cuda {

constexpr int rows_per_thread = 4;

/// Threads across units; each group of so many threads has four rows.
inline int recurrent_lanes(std::int64_t hidden) {
  int lanes = 32;
  while (lanes < recurrent_threads && lanes < hidden) lanes *= 2;
  return lanes;
}

/// Threads of a block: few, because a step's latency is what counts and more blocks hide it; two warps share the weights of narrow layers.
inline int recurrent_block(int lanes) { return lanes < 64 ? 64 : lanes; }

struct TileOfRows {
  int rows, group, lane, first;  ///< rows of the block; this thread's group and lane; the block's first row
  __device__ __forceinline__ explicit TileOfRows(int lanes)
      : rows(static_cast<int>(blockDim.x) / lanes * rows_per_thread),
        group(static_cast<int>(threadIdx.x) / lanes),
        lane(static_cast<int>(threadIdx.x) % lanes),
        first(static_cast<int>(blockIdx.x) * rows) {}
  __device__ __forceinline__ int place(int r) const { return group * rows_per_thread + r; }
  /// The group's four rows of unit (or gate) `index`, of `count`: neighbouring threads' vectors lie side by side.
  __device__ __forceinline__ float4* vector(float* plane, int count, int index) const {
    return reinterpret_cast<float4*>(plane) + group * count + index;
  }
  __device__ __forceinline__ const float4* vector(const float* plane, int count, int index) const {
    return reinterpret_cast<const float4*>(plane) + group * count + index;
  }
};

__device__ __forceinline__ void four_of(const float4& v, float (&out)[4]) {
  out[0] = v.x;
  out[1] = v.y;
  out[2] = v.z;
  out[3] = v.w;
}

__device__ __forceinline__ float4 vector_of(const float (&v)[4]) { return make_float4(v[0], v[1], v[2], v[3]); }

/// This group's rows of [batch, hidden] for unit j; zeros where there is nothing.
template <class T>
__device__ __forceinline__ float4 rows_of(const TileOfRows& tile, const RecurrentPointers<T>& p, const T* values, int j) {
  float out[rows_per_thread];
#pragma unroll
  for (int r = 0; r < rows_per_thread; ++r) {
    const int row = tile.first + tile.place(r);
    out[r] = values != nullptr && row < p.batch ? to_float(values[static_cast<std::int64_t>(row) * p.hidden + j]) : 0.0f;
  }
  return vector_of(out);
}

/// Row lengths of the block into shared memory; returns the longest. A barrier.
template <class T>
__device__ __forceinline__ int load_lengths(const RecurrentPointers<T>& p, int first, int rows, int* lengths) {
  for (int i = static_cast<int>(threadIdx.x); i < rows; i += static_cast<int>(blockDim.x)) lengths[i] = p.length(first + i);
  __syncthreads();
  int longest = 0;
  for (int i = 0; i < rows; ++i) longest = max(longest, lengths[i]);
  return longest;
}

/// Input and hidden biases side by side, zeros where there are none.
template <class T>
__device__ __forceinline__ void load_biases(const RecurrentPointers<T>& p, int columns, float* biases) {
  for (int i = static_cast<int>(threadIdx.x); i < columns; i += static_cast<int>(blockDim.x)) {
    biases[i] = p.input_bias(i);
    biases[columns + i] = p.hidden_bias(i);
  }
}

__device__ __forceinline__ void copy_words(const float* from, std::int64_t count, float* to) {
  const float4* wide = reinterpret_cast<const float4*>(from);
  if (aligned16(from) && count % 4 == 0) {
    for (std::int64_t i = threadIdx.x; i < count / 4; i += static_cast<int>(blockDim.x)) reinterpret_cast<float4*>(to)[i] = wide[i];
  } else {
    for (std::int64_t i = threadIdx.x; i < count; i += static_cast<int>(blockDim.x)) to[i] = from[i];
  }
}

/// Floats of shared memory without the weights.
__host__ __device__ constexpr std::int64_t forward_shared_floats(RecurrentCell cell, std::int64_t hidden, std::int64_t rows) {
  return (cell == RecurrentCell::lstm ? 3 : 2) * hidden * rows + (2 * recurrent_gates(cell) * hidden + 3) / 4 * 4;
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
  float *cells = memory + 2 * plane, *biases = memory + (is_lstm ? 3 : 2) * plane,
        *resident = memory + forward_shared_floats(Cell, hidden, tile.rows);
  const float* weights = static_cast<const float*>(p.weight);
  if (Resident) {
    copy_words(weights, static_cast<std::int64_t>(hidden) * columns, resident);
    weights = resident;
  }
  load_biases(p, columns, biases);
  for (int j = tile.lane; j < hidden; j += lanes) {
    *tile.vector(memory, hidden, j) = rows_of(tile, p, p.initial, j);
    if (is_lstm) *tile.vector(cells, hidden, j) = rows_of(tile, p, p.initial_cell, j);
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
        four_of(*tile.vector(state, hidden, k), h);
#pragma unroll
        for (int g = 0; g < gates; ++g) {
          const float w = column[k * columns + g * hidden];
#pragma unroll
          for (int r = 0; r < rows_per_thread; ++r) sums[r][g] += h[r] * w;
        }
      }
      float after[rows_per_thread], c[rows_per_thread] = {};
      four_of(*tile.vector(state, hidden, j), after);
      if (is_lstm) four_of(*tile.vector(cells, hidden, j), c);
#pragma unroll
      for (int r = 0; r < rows_per_thread; ++r) {
        const int row = tile.first + tile.place(r);
        if (row >= p.batch) continue;
        const std::int64_t step = p.step(row, t);
        if (t >= lengths[tile.place(r)]) {
          p.states[step * hidden + j] = 0.0f;
          continue;
        }
        float input[gates], product[gates], kept[4];
#pragma unroll
        for (int g = 0; g < gates; ++g) {
          input[g] = from_input[r][g] + biases[g * hidden + j];
          product[g] = sums[r][g] + biases[columns + g * hidden + j];
        }
        cell_step<Cell>(input, product, Cell == RecurrentCell::augru ? p.attention[step] : 1.0f, after[r], c[r], kept);
        p.states[step * hidden + j] = after[r];
        if (p.saved == nullptr) continue;
#pragma unroll
        for (int g = 0; g < 4; ++g) p.saved[(step * 4 + g) * hidden + j] = kept[g];
        if (is_lstm) p.cells[step * hidden + j] = c[r];
      }
      *tile.vector(next, hidden, j) = vector_of(after);
      if (is_lstm) *tile.vector(cells, hidden, j) = vector_of(c);
    }
    __syncthreads();
  }
  for (int j = tile.lane; j < hidden; j += lanes) {
    float h[rows_per_thread], c[rows_per_thread] = {};
    four_of(*tile.vector(memory + (longest & 1) * plane, hidden, j), h);
    if (is_lstm) four_of(*tile.vector(cells, hidden, j), c);
#pragma unroll
    for (int r = 0; r < rows_per_thread; ++r) {
      const int row = tile.first + tile.place(r);
      if (row >= p.batch) continue;
      for (int t = longest; t < p.time; ++t) p.states[p.step(row, t) * hidden + j] = 0.0f;
      p.last[static_cast<std::int64_t>(row) * hidden + j] = h[r];
      if (is_lstm) p.last_cell[static_cast<std::int64_t>(row) * hidden + j] = c[r];
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
    *tile.vector(carry, hidden, j) = rows_of(tile, p, p.dlast, j);
    if (is_lstm) *tile.vector(dcell, hidden, j) = rows_of(tile, p, p.dlast_cell, j);
  }
  const int longest = load_lengths(p, tile.first, tile.rows, lengths);
  for (int t = p.time - 1; t >= 0; --t) {
    float dattention[rows_per_thread] = {};
    for (int j = tile.lane; j < hidden; j += lanes) {
      float dh[rows_per_thread], dc[rows_per_thread] = {}, all[gates][rows_per_thread];
      four_of(*tile.vector(carry, hidden, j), dh);
      if (is_lstm) four_of(*tile.vector(dcell, hidden, j), dc);
#pragma unroll
      for (int r = 0; r < rows_per_thread; ++r) {
        const int row = tile.first + tile.place(r);
        float grad[gates] = {}, candidate = 0, before = 0;
        const std::int64_t step = p.step(row, t);
        const bool active = t < lengths[tile.place(r)];
        if (active) {
          const std::int64_t base = step * hidden + j, initial = static_cast<std::int64_t>(row) * hidden + j;
          float kept[4], cell = 0, cell_before = 0;
          dh[r] += p.dstates[base];
#pragma unroll
          for (int g = 0; g < 4; ++g) kept[g] = p.saved[(step * 4 + g) * hidden + j];
          before = t > 0 ? p.states[base - hidden] : p.initial != nullptr ? p.initial[initial] : 0.0f;
          if (is_lstm) {
            cell = p.cells[base];
            cell_before = t > 0 ? p.cells[base - hidden] : p.initial_cell != nullptr ? p.initial_cell[initial] : 0.0f;
          }
          cell_backward<Cell>(kept, before, cell, cell_before, weighted ? p.attention[step] : 1.0f, dh[r], dc[r], grad, candidate,
                              dattention[r]);
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
        for (int g = 0; g < gates; ++g) all[g][r] = grad[g];
      }
      *tile.vector(carry, hidden, j) = vector_of(dh);
      if (is_lstm) *tile.vector(dcell, hidden, j) = vector_of(dc);
#pragma unroll
      for (int g = 0; g < gates; ++g) *tile.vector(dgates, columns, g * hidden + j) = vector_of(all[g]);
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
      four_of(*tile.vector(carry, hidden, j), sums);
      const float* column = weights + j;
#pragma unroll 8
      for (int k = 0; k < columns; ++k) {
        four_of(*tile.vector(dgates, columns, k), d);
        const float w = column[k * hidden];
#pragma unroll
        for (int r = 0; r < rows_per_thread; ++r) sums[r] += d[r] * w;
      }
      *tile.vector(carry, hidden, j) = vector_of(sums);
    }
    __syncthreads();
  }
  for (int j = tile.lane; j < hidden; j += lanes) {
    float dh[rows_per_thread], dc[rows_per_thread] = {};
    four_of(*tile.vector(carry, hidden, j), dh);
    if (is_lstm) four_of(*tile.vector(dcell, hidden, j), dc);
#pragma unroll
    for (int r = 0; r < rows_per_thread; ++r) {
      const int row = tile.first + tile.place(r);
      if (row >= p.batch) continue;
      const std::int64_t at = static_cast<std::int64_t>(row) * hidden + j;
      if (p.dinitial != nullptr) p.dinitial[at] += dh[r];
      if (is_lstm && p.dinitial_cell != nullptr) p.dinitial_cell[at] += dc[r];
    }
  }
}

}  // namespace expctr::cuda
