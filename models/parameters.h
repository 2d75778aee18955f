// What all modules share about their parameters: hashes, and reading and writing them as bytes. (Initial values: engine/nn/init.h.)
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/tensor.h"
#include "engine/io/checkpoint.h"
#include "engine/nn/init.h"
#include "models/named_tensor.h"

namespace expctr {

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
