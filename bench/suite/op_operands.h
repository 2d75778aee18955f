// Operands for the op table: named random tensors in the storage that a place asks for.
#pragma once

#include <cmath>

#include "bench/suite/measure.h"
#include "bench/suite/op_table.h"
#include "engine/ops/elementwise.h"

namespace expctr {

/// An extent at the place's scale, at least 1; a multiple of 32 where it was one.
inline std::int64_t scaled(const OpPlace& place, std::int64_t extent) {
  const auto wanted = static_cast<std::int64_t>(std::llround(static_cast<double>(extent) * place.scale));
  return extent % 32 == 0 ? std::max<std::int64_t>(32, wanted / 32 * 32) : std::max<std::int64_t>(1, wanted);
}

/// Bytes of one element of an activation.
inline double activation_bytes(const OpPlace& place) { return place.dtype == DType::bf16 ? 2.0 : 4.0; }

inline Tensor stored(const Tensor& values, DType dtype, Device device) {
  return (dtype == DType::f32 ? values : convert(values, dtype)).to(device);
}

/// Uniform in [low, high), stored as the place stores activations. Values are rounded to bf16 first, so that every place sees the same.
inline Tensor activation(const OpPlace& place, std::string_view name, const Shape& shape, double low = -0.5, double high = 0.5) {
  const Tensor values = affine(random_tensor(name, shape, cpu_device), high - low, 0.5 * (low + high));
  return stored(convert(convert(values, DType::bf16), DType::f32), place.dtype, place.device);
}
/// The same in f32 (f64 beside f64): parameters, statistics, probabilities.
inline Tensor parameter(const OpPlace& place, std::string_view name, const Shape& shape, double low = -0.5, double high = 0.5) {
  return stored(affine(random_tensor(name, shape, cpu_device), high - low, 0.5 * (low + high)),
                place.dtype == DType::f64 ? DType::f64 : DType::f32, place.device);
}
inline Tensor trained(Tensor tensor) { return tensor.require_gradient(); }

inline Tensor ids(const OpPlace& place, const std::vector<std::int32_t>& values) {
  return Tensor::of(values, {static_cast<std::int64_t>(values.size())}, place.device);
}
/// begin, begin + step, ... (count values)
inline Tensor counting(const OpPlace& place, std::int64_t count, std::int64_t step = 1) {
  std::vector<std::int32_t> values;
  for (std::int64_t i = 0; i < count; ++i) values.push_back(static_cast<std::int32_t>(i * step));
  return ids(place, values);
}

}  // namespace expctr
