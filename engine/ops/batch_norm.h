// Batch normalisation.
#pragma once

#include "base/kernels/batch_norm.h"
#include "engine/core/tensor.h"

namespace expctr {

struct BatchNormOptions {
  bool training = false;
  double epsilon = 1e-5;
  double momentum = 0.1;
};

/// y = gain (x - mean) / sqrt(var + epsilon) + bias, per column; x [rows, width]; gain, bias [width], either may be undefined (no affine
/// part). training: mean and biased variance of the rows normalise, and the gradient passes through them; running_mean and running_variance
/// [width] move by momentum, running <- (1 - momentum) running + momentum batch, the variance with the unbiased one. Otherwise the running
/// ones are used. Vectors have x's dtype, f32 where x is bf16.   Source: Ioffe and Szegedy 2015; defaults as in FuxiCTR's layers.
Tensor batch_norm(const Tensor& x, const Tensor& gain, const Tensor& bias, const Tensor& running_mean, const Tensor& running_variance,
                  const BatchNormOptions& options);

}  // namespace expctr
