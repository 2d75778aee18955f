// Initial values of parameters.
#pragma once

#include <cstdint>
#include <string_view>

#include "engine/core/tensor.h"

namespace expctr {

/// Terms behind one input and one output of a weight [outputs, inputs, ...]: extents after the second belong to both. A vector counts as
/// [n, 1].
struct Fans {
  std::int64_t inputs, outputs;
};
Fans fans_of(const Shape& shape);

/// Initial values, drawn on the host in float64 from Philox under the key (seed, "init/" + name) and rounded to dtype: a function of seed,
/// name and shape alone, the same on every device and rank. dtype f32 or f64; Error otherwise.
struct Initialiser {
  std::uint64_t seed = 0;
  DType dtype = DType::f32;
  Device device = {};

  /// N(0, deviation^2), Box-Muller.
  Tensor normal(std::string_view name, const Shape& shape, double deviation) const;
  /// N(0, deviation^2) cut to [low, high] deviations, by drawing again what falls outside. Throws UsageError where less than 1 % falls
  /// inside.
  Tensor truncated_normal(std::string_view name, const Shape& shape, double deviation, double low = -2.0, double high = 2.0) const;
  /// U(-bound, bound).
  Tensor uniform(std::string_view name, const Shape& shape, double bound) const;
  /// U(low, high).
  Tensor uniform(std::string_view name, const Shape& shape, double low, double high) const;

  /// N(0, gain^2 2 / (inputs + outputs)).   Source: Glorot and Bengio 2010, section 4.2.1.
  Tensor xavier_normal(std::string_view name, const Shape& shape, double gain = 1.0) const;
  Tensor xavier_normal(std::string_view name, std::int64_t outputs, std::int64_t inputs) const {
    return xavier_normal(name, {outputs, inputs});
  }
  /// U(-b, b), b = gain sqrt(6 / (inputs + outputs)).   Source: Glorot and Bengio 2010, eq. 16.
  Tensor xavier_uniform(std::string_view name, const Shape& shape, double gain = 1.0) const;
  Tensor xavier_uniform(std::string_view name, std::int64_t outputs, std::int64_t inputs) const {
    return xavier_uniform(name, {outputs, inputs});
  }
  /// N(0, 2 / ((1 + slope^2) inputs)) for a layer before a rectifier with this slope below 0.   Source: He et al. 2015, eq. 15.
  Tensor he_normal(std::string_view name, const Shape& shape, double slope = 0.0) const;
  /// U(-b, b), b = sqrt(6 / ((1 + slope^2) inputs)).
  Tensor he_uniform(std::string_view name, const Shape& shape, double slope = 0.0) const;
  /// U(-b, b), b = 1 / sqrt(fan_in): weight and bias of torch.nn.Linear (he_uniform with slope sqrt 5).
  Tensor kaiming_uniform(std::string_view name, const Shape& shape, std::int64_t fan_in) const;

  /// gain times a matrix [shape[0], the rest] with orthonormal rows, or columns where there are more rows than columns, uniform among all
  /// such (Haar): the Q of a Gaussian matrix whose R has a positive diagonal, by Gram-Schmidt twice, in float64.   Source: Saxe,
  /// McClelland, Ganguli 2014; Mezzadri 2007 for the sign.
  Tensor orthogonal(std::string_view name, const Shape& shape, double gain = 1.0) const;

  Tensor constant(const Shape& shape, double value) const;
  Tensor zeros(const Shape& shape) const { return constant(shape, 0.0); }
};

}  // namespace expctr
