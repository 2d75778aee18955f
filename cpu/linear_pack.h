// The layout of packed frozen weights (cpu/weight_kernel.h) seen from outside: where panels and blocks lie.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/kernels/linear.h"
#include "cpu/gemm_kernel.h"

namespace expctr::cpu {

/// Element type of the panels: the file's, but f64 becomes f32.
constexpr DType panel_dtype(DType dtype) { return dtype == DType::f64 ? DType::f32 : dtype; }

inline std::int64_t panel_count(const PackedWeight& weight) { return (weight.outputs + panel_width - 1) / panel_width; }

inline std::size_t panel_bytes(const PackedWeight& weight) { return dtype_bytes(panel_dtype(weight.dtype), weight.inputs * panel_width); }

inline const std::byte* panel_data(const PackedWeight& weight, std::int64_t panel) {
  return static_cast<const std::byte*>(weight.data) + static_cast<std::size_t>(panel) * panel_bytes(weight);
}

/// Rows n0 .. n1 - 1 of the weight (multiples of 32, except that n1 may be `outputs`) at inputs k0 .. k0 + 31 -> [n1 - n0][32], zero beyond
/// `inputs`.
void unpack_columns(const PackedWeight& weight, std::int64_t n0, std::int64_t n1, std::int64_t k0, float* out);

/// Throws unless the kernels can multiply with it.
void require_supported(const char* kernel, DType dtype, ComputeMode mode);

}  // namespace expctr::cpu
