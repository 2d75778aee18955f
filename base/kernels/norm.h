// Arguments of normalisations over rows.
#pragma once

#include "base/view.h"

namespace expctr {

/// x [rows, width], gain [width] -> y, inverse_rms [rows].
struct RmsNormForward {
  double epsilon;
  View x, gain, y, inverse_rms;
};
/// dx += ..., dgain += ... (either may be empty).
struct RmsNormBackward {
  View x, gain, inverse_rms, dy, dx, dgain;
  View scratch;
};
/// x [rows, width], gain, bias [width] -> y, mean [rows], inverse_deviation [rows]; biased variance.
struct LayerNormForward {
  double epsilon;
  View x, gain, bias, y, mean, inverse_deviation;
};
struct LayerNormBackward {
  View x, gain, mean, inverse_deviation, dy, dx, dgain, dbias;
  View scratch;
};
/// Dice: y = p x + alpha (1 - p) x, p = sigmoid((x - mean) / sqrt(var + epsilon)), per column.
/// training: mean and biased variance of the rows are used, written to mean and inverse_deviation [width], and
/// running_mean, running_variance move by `momentum` (the running variance takes the unbiased one). Otherwise the running statistics are used and copied there.
/// Source: Zhou et al. 2018 (DIN), eq. 3, in FuxiCTR's form.
struct DiceForward {
  double epsilon, momentum;
  bool training;
  View x, alpha, running_mean, running_variance, y, mean, inverse_deviation;
  View scratch;
};
/// In training the gradient passes through the batch statistics.
struct DiceBackward {
  bool training;
  View x, alpha, mean, inverse_deviation, dy, dx, dalpha;
  View scratch;
};

}  // namespace expctr
