// Arguments of recurrent cells over padded batches of sequences.
#pragma once

#include "base/host_device.h"
#include "base/view.h"

namespace expctr {

/// Rows of weights and biases, gate by gate: gru r, z, n; augru u, r, n; lstm i, f, g, o.
enum class RecurrentCell { gru, augru, lstm };

EXPCTR_HOST_DEVICE constexpr int recurrent_gates(RecurrentCell cell) { return cell == RecurrentCell::lstm ? 4 : 3; }

/// p = projected[b, t] + bias_input, q = weight h + bias_hidden, h = initial[b] (or 0) before t = 0:
///   gru    r = s(p_r + q_r), z = s(p_z + q_z), n = tanh(p_n + r q_n), h <- h + (1 - z) (n - h)
///   augru  u = s(p_u + q_u), r = s(p_r + q_r), n = tanh(p_n + r q_n), h <- h + attention[b, t] u (n - h)
///   lstm   i = s(p_i + q_i), f = s(p_f + q_f), g = tanh(p_g + q_g), o = s(p_o + q_o), c <- f c + i g, h <- o tanh(c)
/// projected [batch, time, gates * hidden], weight [gates * hidden, hidden], bias_input, bias_hidden [gates * hidden] or empty,
/// attention [batch, time] (augru), lengths [batch] i32 in [0, time] or empty (all of them full), initial, initial_cell [batch, hidden] or
/// empty (zeros) -> states [batch, time, hidden], zero from a row's length on; last, last_cell [batch, hidden] after the row's last step.
/// Nothing is read past a row's length. For the backward pass: saved [batch, time, 4 hidden] = the first two gates, n, q_n (lstm: i, f, g,
/// o), cells [batch, time, hidden] = c of lstm, written up to the row's length; both may be empty.
/// CPU: a row's results do not depend on the rest of the batch, nor on time steps after it.
struct RecurrentForward {
  RecurrentCell cell;
  View projected, weight, bias_input, bias_hidden, attention, lengths, initial, initial_cell;
  View states, last, last_cell, saved, cells;
  View scratch;
};

/// From dstates, dlast, dlast_cell (the last two may be empty) and what the forward pass read and left: all gradients that are not empty,
/// +=.
struct RecurrentBackward {
  RecurrentCell cell;
  View weight, attention, lengths, initial, initial_cell, states, saved, cells;
  View dstates, dlast, dlast_cell;
  View dprojected, dweight, dbias_input, dbias_hidden, dattention, dinitial, dinitial_cell;
  View scratch;
};

/// x [batch, time, width], lengths [batch] i32 -> y (+)= x where t < lengths[b]; elsewhere y = 0, or y as it was with accumulate. x is read
/// only there.
struct MaskPadding {
  bool accumulate;
  View x, lengths, y;
};

}  // namespace expctr
