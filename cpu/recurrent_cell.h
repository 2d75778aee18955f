// One time step of one row of a recurrent cell; the products with the recurrent weights stand outside.
#pragma once

#include <cstdint>

#include "base/kernels/recurrent.h"

namespace expctr::cpu {

/// projected, product [gates * hidden] (product = U h); bias [4 hidden]: the sums of both biases, for gru and augru of the first two gates,
/// then the candidate's input and hidden bias. h, c [hidden] are updated. saved [4 hidden], cells [hidden]: see RecurrentForward; may be
/// null.
template <class T>
struct CellForward {
  std::int64_t hidden;
  const T *projected, *product, *bias;
  T attention;
  T *h, *c, *saved, *cells;
};

/// before: h before the step. dh [hidden]: in, the gradient of h after the step; out, the part of the gradient before it that passes the
/// product by. dc: the cell's gradient, after and before. gates [gates * hidden] = gradient of U h + bias_hidden; candidate [hidden]: that
/// of the candidate's input side (not for lstm, where both are one).
template <class T>
struct CellBackward {
  std::int64_t hidden;
  const T *saved, *before, *cells, *cells_before;
  T attention;
  T *dh, *dc, *gates, *candidate;
};

template <class T>
struct CellSteps {
  void (*forward)(const CellForward<T>&);
  T (*backward)(const CellBackward<T>&);  ///< returns the gradient of attention (augru)
};

/// One instruction set's steps, by RecurrentCell; float results are the same bits in both.
extern const CellSteps<float> cell_steps_v3[3];
extern const CellSteps<float> cell_steps_avx512[3];

}  // namespace expctr::cpu
