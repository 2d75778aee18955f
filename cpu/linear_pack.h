// The layout of packed frozen weights (cpu/weight_kernel.h, cpu/bf16_kernel.h, cpu/int8_kernel.h) seen from outside: where panels lie.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/kernels/linear.h"
#include "cpu/gemm_kernel.h"

namespace expctr::cpu {

struct KernelTable;

/// How the panels of a weight are stored. plain: numbers as the file's (f64 becomes f32); blocks: the file's codes; pairs: bf16, two inputs
/// a word; int8: blocks of byte or 4-bit codes for integer products.
enum class PanelStorage : std::uint8_t { plain, blocks, pairs, int8 };

constexpr PanelStorage panel_storage(const PackedWeight& weight) {
  if (weight.mode == ComputeMode::int8) return PanelStorage::int8;
  if (is_quantised(weight.dtype)) return PanelStorage::blocks;
  return weight.mode == ComputeMode::bf16 ? PanelStorage::pairs : PanelStorage::plain;
}

/// Element type of plain panels.
constexpr DType panel_dtype(DType dtype) { return dtype == DType::f64 ? DType::f32 : dtype; }

inline std::int64_t panel_count(const PackedWeight& weight) { return (weight.outputs + panel_width - 1) / panel_width; }

std::size_t panel_bytes(const PackedWeight& weight);

inline const std::byte* panel_data(const PackedWeight& weight, std::int64_t panel) {
  return static_cast<const std::byte*>(weight.data) + static_cast<std::size_t>(panel) * panel_bytes(weight);
}

/// Inputs [k0, k1) of a panel as float [k1 - k0][32]; k0 and k1 are multiples of 32, or k1 is `inputs`.
void unpack(const KernelTable& table, const PackedWeight& weight, const std::byte* panel, std::int64_t k0, std::int64_t k1, float* out);

/// Rows n0 .. n1 - 1 of the weight (multiples of 32, except that n1 may be `outputs`) at inputs k0 .. k0 + 31 -> [n1 - n0][32], zero beyond
/// `inputs`.
void unpack_columns(const KernelTable& table, const PackedWeight& weight, std::int64_t n0, std::int64_t n1, std::int64_t k0, float* out);

/// Throws unless the kernels can multiply with it.
void require_supported(const char* kernel, DType dtype, ComputeMode mode);

}  // namespace expctr::cpu
