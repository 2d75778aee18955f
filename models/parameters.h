// What all modules share about their parameters: initial values, hashes, and reading and writing them as bytes.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/tensor.h"
#include "engine/io/checkpoint.h"
#include "models/named_tensor.h"

namespace expctr {

/// Initial values on the host, from Philox under the key (seed, "init/" + name): a function of seed, name and shape alone. Values are drawn
/// in float64 and rounded to dtype.
struct Initialiser {
  std::uint64_t seed = 0;
  DType dtype = DType::f32;
  Device device = {};

  /// N(0, deviation^2), Box-Muller.
  Tensor normal(std::string_view name, const Shape& shape, double deviation) const;
  /// U(-bound, bound).
  Tensor uniform(std::string_view name, const Shape& shape, double bound) const;
  /// weight [outputs, inputs]: N(0, 2 / (inputs + outputs)).   Source: Glorot and Bengio 2010.
  Tensor xavier_normal(std::string_view name, std::int64_t outputs, std::int64_t inputs) const;
  /// weight [outputs, inputs]: U(-b, b), b = sqrt(6 / (inputs + outputs)).
  Tensor xavier_uniform(std::string_view name, std::int64_t outputs, std::int64_t inputs) const;
  /// U(-b, b), b = 1 / sqrt(fan_in): weight and bias of torch.nn.Linear (Kaiming uniform with a = sqrt 5).
  Tensor kaiming_uniform(std::string_view name, const Shape& shape, std::int64_t fan_in) const;
  Tensor constant(const Shape& shape, double value) const;
};

/// SHA-256 over name, dtype, shape and bytes of each tensor in the given order, in lower-case hexadecimal.
std::string hash_of(const std::vector<NamedTensor>& tensors);

/// Copies of the values, same names, without gradients.
std::vector<NamedTensor> snapshot(const std::vector<NamedTensor>& tensors);
/// Writes values of the same names, dtypes and shapes back, in place. Throws Error naming what does not fit.
void restore(const std::vector<NamedTensor>& tensors, const std::vector<NamedTensor>& values);

/// Adds each tensor as "<prefix><name>".
void write_tensors(CheckpointWriter& checkpoint, std::string_view prefix, const std::vector<NamedTensor>& tensors);
/// Reads "<prefix><name>" into each tensor, in place. Throws InputError when one is missing or has another dtype or shape.
void read_tensors(const Checkpoint& checkpoint, std::string_view prefix, const std::vector<NamedTensor>& tensors);

}  // namespace expctr
