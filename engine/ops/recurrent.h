// Recurrent layers over padded batches of sequences.
#pragma once

#include "base/kernels/recurrent.h"
#include "engine/core/tensor.h"

namespace expctr {

/// Parameters of a layer; the order of gates is RecurrentCell's. Undefined biases are zero.
struct RecurrentWeights {
  Tensor input;        ///< [gates * hidden, width]
  Tensor hidden;       ///< [gates * hidden, hidden]
  Tensor bias_input;   ///< [gates * hidden]
  Tensor bias_hidden;  ///< [gates * hidden]
};

/// What a layer gives; all carry gradients.
struct RecurrentStates {
  Tensor all;        ///< [batch, time, hidden], zero from a row's length on
  Tensor last;       ///< [batch, hidden], the state after a row's last step; the initial one for an empty row
  Tensor last_cell;  ///< [batch, hidden], lstm only
};

/// x [batch, time, width]; lengths [batch] i32, undefined: all rows are full. Steps from a row's length on are neither read nor written
/// (their states are zero). Undefined initial states are zero. Gradients reach x, weights, biases and initial states. r = sigmoid(W_r x +
/// b_r + U_r h + c_r), z the same, n = tanh(W_n x + b_n + r (U_n h + c_n)), h <- (1 - z) n + z h. Source: Cho et al. 2014 in the form of
/// cuDNN and PyTorch (reset after the product).
RecurrentStates gru(const Tensor& x, const RecurrentWeights& weights, const Tensor& lengths = {}, const Tensor& initial = {});

/// GRU whose update gate is weighted by attention [batch, time]: h <- h + a u (n - h), gates u, r, n.   Source: Zhou et al. 2019 (DIEN),
/// eq. 5 to 7.
RecurrentStates augru(const Tensor& x, const RecurrentWeights& weights, const Tensor& attention, const Tensor& lengths = {},
                      const Tensor& initial = {});

/// GRU over inputs scaled by attention [batch, time]: x'[b, t] = a[b, t] x[b, t].   Source: Zhou et al. 2019, section 4.3.
RecurrentStates aigru(const Tensor& x, const RecurrentWeights& weights, const Tensor& attention, const Tensor& lengths = {},
                      const Tensor& initial = {});

/// i, f, o = sigmoid, g = tanh of W x + b + U h + c; cell <- f cell + i g, h <- o tanh(cell).   Source: Hochreiter and Schmidhuber 1997;
/// Gers et al. 2000.
RecurrentStates lstm(const Tensor& x, const RecurrentWeights& weights, const Tensor& lengths = {}, const Tensor& initial = {},
                     const Tensor& initial_cell = {});

/// y[b, t] = x[b, t] for t < lengths[b], else 0; x [batch, time, width], lengths [batch] i32. dx likewise.
Tensor mask_padding(const Tensor& x, const Tensor& lengths);

}  // namespace expctr
