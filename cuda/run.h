// Entry to the CUDA kernels: one specialisation an argument struct, in the file of its family. A missing one is a link error that names the
// struct.
#pragma once

#include <cstddef>

#include "base/kernels/linear.h"
#include "base/view.h"

namespace expctr::cuda {

/// Queues the kernel on the stream; nothing is synchronised or allocated.
template <class Args>
void run(const Args& args, Stream stream);

/// Bytes of args.scratch for the shapes in args. Only for argument structs with a scratch member.
template <class Args>
std::size_t scratch_bytes(const Args& args);

/// Bytes of PackedWeight::data.
std::size_t packed_weight_bytes(std::int64_t outputs, std::int64_t inputs, DType dtype, ComputeMode mode);

}  // namespace expctr::cuda
