// Normalisations.
#pragma once

#include "base/kernels/norm.h"
#include "engine/core/tensor.h"

namespace expctr {

/// y[r, i] = gain[i] x[r, i] / rms(x[r]),  rms(v) = sqrt(mean_i v[i]^2 + epsilon);  x [rows, width], gain [width].
/// dx = (gain dy - x mean(gain dy x) / rms^2) / rms;  dgain = sum over rows of dy x / rms.   Source: Zhang and Sennrich 2019, eq. 4.
Tensor rms_norm(const Tensor& x, const Tensor& gain, double epsilon);

/// y = gain (x - mean) / sqrt(var + epsilon) + bias, biased variance per row; x [rows, width], gain, bias [width].   Source: Ba, Kiros, Hinton 2016.
Tensor layer_norm(const Tensor& x, const Tensor& gain, const Tensor& bias, double epsilon);

/// y = p x + alpha (1 - p) x, p = sigmoid(batch_norm(x)) without affine; x [rows, width], alpha [width].
/// training: statistics of the rows (biased variance normalises), and the running statistics [width] move by momentum (unbiased variance); otherwise the running ones are used.
/// Source: Zhou et al. 2018, eq. 3, as in FuxiCTR (epsilon 1e-9, momentum 0.01).
Tensor dice(const Tensor& x, const Tensor& alpha, const Tensor& running_mean, const Tensor& running_variance, bool training, double epsilon = 1e-9, double momentum = 0.01);

}  // namespace expctr
