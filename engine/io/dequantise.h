// Rows of stored elements to float32.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"

namespace expctr {

/// out[i] = value of element i of `source`, i < n; exact for f32, f16, bf16 and the block formats (base/blocks.h), rounded for f64.
/// `source` may be unaligned. Throws ShapeError when n is no multiple of the block, or for integers.
void dequantise_row(DType dtype, const std::byte* source, float* out, std::int64_t n);

}  // namespace expctr
