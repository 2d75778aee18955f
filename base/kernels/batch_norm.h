// Arguments of batch normalisation.
#pragma once

#include "base/view.h"

namespace expctr {

/// y = gain (x - mean) inverse_deviation + bias per column of x [rows, width]; gain and bias [width] may be empty (1 and 0).
/// training: mean and biased variance of the rows, written to mean and inverse_deviation [width]; running_mean and running_variance move by
/// `momentum` towards the batch's mean and unbiased variance (one row has no unbiased variance: the running one stays). Otherwise, and for
/// an empty batch, the running statistics are used and copied there. All vectors are f32 where x is bf16.
struct BatchNormForward {
  double epsilon, momentum;
  bool training;
  View x, gain, bias, running_mean, running_variance, y, mean, inverse_deviation;
  View scratch;
};
/// With n = (x - mean) inverse_deviation: dgain += sum of dy n, dbias += sum of dy, and
/// dx += gain inverse_deviation (dy - mean(dy) - n mean(dy n)) in training, gain inverse_deviation dy otherwise. Empty slots are skipped.
struct BatchNormBackward {
  bool training;
  View x, gain, mean, inverse_deviation, dy, dx, dgain, dbias;
  View scratch;
};

}  // namespace expctr
