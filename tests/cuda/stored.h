// Operands of kernels that take activations in f32 or bf16: the same values in both, and results read back as float.
#pragma once

#include "base/blocks.h"
#include "tests/cuda/device_tensor.h"

namespace expctr::test {

/// The nearest bf16 values.
inline std::vector<float> rounded_bf16(std::vector<float> values) {
  for (float& value : values) value = float_of_bf16(bf16_of_float(value));
  return values;
}

/// Values in device memory as f32 or bf16 (of values that are bf16 numbers already: exact).
inline DeviceTensor stored(const std::vector<float>& values, Shape shape, DType dtype, std::size_t shift = 0) {
  if (dtype == DType::f32) return DeviceTensor(values, std::move(shape), shift);
  std::vector<std::uint16_t> bits;
  for (const float value : values) bits.push_back(bf16_of_float(value));
  return DeviceTensor(dtype, std::move(shape), bits.data(), shift);
}

inline std::vector<float> read_stored(const DeviceTensor& tensor) {
  if (tensor.view().dtype == DType::f32) return tensor.read<float>();
  std::vector<float> values;
  for (const std::uint16_t bits : tensor.read<std::uint16_t>()) values.push_back(float_of_bf16(bits));
  return values;
}

/// Results in bf16 are results of the same kernel in f32, rounded once: half a unit of 8 bits, and what float32 rounding may move.
inline void check_rounded(const std::vector<float>& narrow, const std::vector<float>& wide) {
  REQUIRE(narrow.size() == wide.size());
  float largest = 0;
  for (const float value : wide) largest = std::isfinite(value) ? std::max(largest, std::fabs(value)) : largest;
  for (std::size_t i = 0; i < wide.size(); ++i) {
    if (narrow[i] == wide[i] || (std::isnan(narrow[i]) && std::isnan(wide[i]))) continue;
    if (!(std::fabs(narrow[i] - wide[i]) <= std::fabs(wide[i]) * 0x1p-8f + largest * 0x1p-20f)) {
      FAIL_CHECK("element ", i, ": ", narrow[i], " in bf16, ", wide[i], " in f32");
      return;
    }
  }
}

/// The result of compute(dtype), in both storages, must be the same up to one rounding; returns that of f32.
template <class Compute>
std::vector<std::vector<float>> in_both_storages(Compute compute) {
  const std::vector<std::vector<float>> wide = compute(DType::f32), narrow = compute(DType::bf16);
  REQUIRE(wide.size() == narrow.size());
  for (std::size_t i = 0; i < wide.size(); ++i) check_rounded(narrow[i], wide[i]);
  return wide;
}

}  // namespace expctr::test
