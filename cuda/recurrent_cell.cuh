// What the recurrent kernels share: operands as pointers, storage as float or bf16, and one step of a cell for one unit of one row.
#pragma once

#include "base/blocks.h"
#include "base/kernels/recurrent.h"
#include "base/scalar_math.h"
#include "cuda/launch.cuh"

namespace expctr::cuda {

constexpr int recurrent_threads = 256;

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(std::uint16_t value) { return float_of_bf16(value); }
__device__ __forceinline__ void put(float* to, float value) { *to = value; }
__device__ __forceinline__ void put(std::uint16_t* to, float value) { *to = bf16_of_float(value); }

/// Operands of both passes; T is float or std::uint16_t (bf16). Null: absent.
template <class T>
struct RecurrentPointers {
  int batch, time, hidden;
  bool quads;  ///< four neighbouring elements of every row may be moved together
  const T *projected, *attention, *initial, *initial_cell;
  const std::int32_t* lengths;
  const float *bias_input, *bias_hidden;
  const void* weight;  ///< as the kernel wants it
  T *states, *last, *last_cell, *saved, *cells;
  const T *dstates, *dlast, *dlast_cell;
  T *dprojected, *dattention, *dinitial, *dinitial_cell;
  T *gates, *candidates,
      *before;  ///< gradients of the hidden side of the gates, of the candidate's input side, and states before the steps

  __device__ __forceinline__ int length(int row) const {
    return row >= batch ? 0 : lengths == nullptr ? time : min(max(lengths[row], 0), time);
  }
  __device__ __forceinline__ std::int64_t step(int row, int t) const { return static_cast<std::int64_t>(row) * time + t; }
  __device__ __forceinline__ float input_bias(int i) const { return bias_input == nullptr ? 0.0f : bias_input[i]; }
  __device__ __forceinline__ float hidden_bias(int i) const { return bias_hidden == nullptr ? 0.0f : bias_hidden[i]; }
};

/// p, q: the gates' sums from the input and from the state, biases included. kept: what RecurrentForward::saved holds.
template <RecurrentCell Cell>
__device__ __forceinline__ void cell_step(const float (&p)[recurrent_gates(Cell)], const float (&q)[recurrent_gates(Cell)], float attention,
                                          float& h, float& c, float (&kept)[4]) {
  if constexpr (Cell == RecurrentCell::lstm) {
    kept[0] = scalar::sigmoid(p[0] + q[0]);
    kept[1] = scalar::sigmoid(p[1] + q[1]);
    kept[2] = tanhf(p[2] + q[2]);
    kept[3] = scalar::sigmoid(p[3] + q[3]);
    c = kept[1] * c + kept[0] * kept[2];
    h = kept[3] * tanhf(c);
  } else {
    constexpr bool weighted = Cell == RecurrentCell::augru;
    kept[0] = scalar::sigmoid(p[0] + q[0]);
    kept[1] = scalar::sigmoid(p[1] + q[1]);
    kept[3] = q[2];
    kept[2] = tanhf(p[2] + kept[weighted ? 1 : 0] * q[2]);
    const float share = weighted ? attention * kept[0] : 1.0f - kept[1];
    h += share * (kept[2] - h);
  }
}

/// dh: in, the gradient of h after the step; out, the part that passes the product by. dc: gradient of the cell, after and before.
template <RecurrentCell Cell>
__device__ __forceinline__ void cell_backward(const float (&kept)[4], float before, float cell, float cell_before, float attention,
                                              float& dh, float& dc, float (&gates)[recurrent_gates(Cell)], float& candidate,
                                              float& dattention) {
  if constexpr (Cell == RecurrentCell::lstm) {
    const float t = tanhf(cell), dcell = dc + dh * kept[3] * (1.0f - t * t);
    gates[0] = dcell * kept[2] * kept[0] * (1.0f - kept[0]);
    gates[1] = dcell * cell_before * kept[1] * (1.0f - kept[1]);
    gates[2] = dcell * kept[0] * (1.0f - kept[2] * kept[2]);
    gates[3] = dh * t * kept[3] * (1.0f - kept[3]);
    candidate = gates[3];
    dc = dcell * kept[1];
    dh = 0;
  } else {
    constexpr bool weighted = Cell == RecurrentCell::augru;
    const float reset = kept[weighted ? 1 : 0], update = kept[weighted ? 0 : 1], n = kept[2],
                share = weighted ? attention * update : 1.0f - update;
    const float dn = dh * share * (1.0f - n * n), dshare = dh * (n - before);
    const float dupdate = (weighted ? attention * dshare : -dshare) * update * (1.0f - update),
                dreset = dn * kept[3] * reset * (1.0f - reset);
    gates[0] = weighted ? dupdate : dreset;
    gates[1] = weighted ? dreset : dupdate;
    gates[2] = dn * reset;
    candidate = dn;
    dattention += dshare * update;
    dh *= 1.0f - share;
  }
}

}  // namespace expctr::cuda
