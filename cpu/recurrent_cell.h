// One time step of one row of a recurrent cell, forward and backward; the products with the recurrent weights stand outside.
// Loops over units without branches or calls: vectorised, and the same bits whatever the row's neighbours are.
#pragma once

#include <cstdint>

#include "base/kernels/recurrent.h"
#include "cpu/dispatch.h"
#include "cpu/float_math.h"

namespace expctr::cpu {

/// projected [3 hidden], product = U h [3 hidden]; bias [4 hidden]: both sums of the gates, then input and hidden bias of the candidate.
/// h is updated; saved [4 hidden] (may be null) = first gate, second gate, n, q_n.
template <RecurrentCell Cell, class T>
inline void gru_step(std::int64_t hidden, const T* __restrict projected, const T* __restrict product, const T* __restrict bias, T attention,
                     T* __restrict h, T* __restrict saved) {
  constexpr bool weighted = Cell == RecurrentCell::augru;
  for (std::int64_t j = 0; j < hidden; ++j) {
    const T first = float_math::sigmoid(projected[j] + product[j] + bias[j]);
    const T second = float_math::sigmoid(projected[hidden + j] + product[hidden + j] + bias[hidden + j]);
    const T reset = weighted ? second : first, update = weighted ? first : second;
    const T q = product[2 * hidden + j] + bias[3 * hidden + j];
    const T n = float_math::tanh(projected[2 * hidden + j] + bias[2 * hidden + j] + reset * q);
    const T share = weighted ? attention * update : T(1) - update;
    h[j] = h[j] + share * (n - h[j]);
    if (saved != nullptr) {
      saved[j] = first;
      saved[hidden + j] = second;
      saved[2 * hidden + j] = n;
      saved[3 * hidden + j] = q;
    }
  }
}

/// dh [hidden]: in, the gradient of h after the step; out, the part that reaches h before it past the product. gates [3 hidden] = gradient
/// of U h + bias_hidden, candidate [hidden] = that of the candidate's input side. Returns the gradient of attention (augru).
template <RecurrentCell Cell, class T>
inline double gru_step_backward(std::int64_t hidden, const T* __restrict saved, const T* __restrict before, T attention, T* __restrict dh,
                                T* __restrict gates, T* __restrict candidate) {
  constexpr bool weighted = Cell == RecurrentCell::augru;
  double dattention = 0;
  if constexpr (weighted) {
    dattention = lane_sum<T>(hidden, [&](std::int64_t j) { return dh[j] * (saved[2 * hidden + j] - before[j]) * saved[j]; });
  }
  for (std::int64_t j = 0; j < hidden; ++j) {
    const T reset = saved[(weighted ? hidden : 0) + j], update = saved[(weighted ? 0 : hidden) + j], n = saved[2 * hidden + j],
            q = saved[3 * hidden + j];
    const T share = weighted ? attention * update : T(1) - update;
    const T dn = dh[j] * share * (T(1) - n * n), dshare = dh[j] * (n - before[j]);
    const T dupdate = (weighted ? attention * dshare : -dshare) * update * (T(1) - update);
    const T dreset = dn * q * reset * (T(1) - reset);
    gates[j] = weighted ? dupdate : dreset;
    gates[hidden + j] = weighted ? dreset : dupdate;
    gates[2 * hidden + j] = dn * reset;
    candidate[j] = dn;
    dh[j] = dh[j] * (T(1) - share);
  }
  return dattention;
}

/// projected, product, bias [4 hidden]; h and c are updated; saved [4 hidden] = i, f, g, o and cells [hidden] = c (null: not kept).
template <class T>
inline void lstm_step(std::int64_t hidden, const T* __restrict projected, const T* __restrict product, const T* __restrict bias,
                      T* __restrict h, T* __restrict c, T* __restrict saved, T* __restrict cells) {
  for (std::int64_t j = 0; j < hidden; ++j) {
    const T i = float_math::sigmoid(projected[j] + product[j] + bias[j]);
    const T f = float_math::sigmoid(projected[hidden + j] + product[hidden + j] + bias[hidden + j]);
    const T g = float_math::tanh(projected[2 * hidden + j] + product[2 * hidden + j] + bias[2 * hidden + j]);
    const T o = float_math::sigmoid(projected[3 * hidden + j] + product[3 * hidden + j] + bias[3 * hidden + j]);
    const T cell = f * c[j] + i * g;
    c[j] = cell;
    h[j] = o * float_math::tanh(cell);
    if (saved != nullptr) {
      saved[j] = i;
      saved[hidden + j] = f;
      saved[2 * hidden + j] = g;
      saved[3 * hidden + j] = o;
      cells[j] = cell;
    }
  }
}

/// dh, dc: in, gradients of h and c after the step; out, dc before it, and dh = 0 (all of it passes the product).
template <class T>
inline void lstm_step_backward(std::int64_t hidden, const T* __restrict saved, const T* __restrict cells, const T* __restrict cells_before,
                               T* __restrict dh, T* __restrict dc, T* __restrict gates) {
  for (std::int64_t j = 0; j < hidden; ++j) {
    const T i = saved[j], f = saved[hidden + j], g = saved[2 * hidden + j], o = saved[3 * hidden + j], t = float_math::tanh(cells[j]);
    const T dcell = dc[j] + dh[j] * o * (T(1) - t * t);
    gates[j] = dcell * g * i * (T(1) - i);
    gates[hidden + j] = dcell * cells_before[j] * f * (T(1) - f);
    gates[2 * hidden + j] = dcell * i * (T(1) - g * g);
    gates[3 * hidden + j] = dh[j] * t * o * (T(1) - o);
    dc[j] = dcell * f;
    dh[j] = T(0);
  }
}

}  // namespace expctr::cpu
