// exp, tanh and erf in float without branches or calls, so that loops over them are vectorised; at most 2 ulp. Every operation is a
// correctly rounded one, so a vector lane and a scalar tail give the same bits. In double they are the C library's. Source: range reduction
// and polynomials of exp and tanh after Cephes (Moshier), expf and tanhf; erf: polynomials fitted for this file.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "base/scalar_math.h"

namespace expctr::cpu::float_math {

/// e^x; 0 below -104, infinity above 88.73, NaN for NaN.
inline float exp(float x) {
  x = x < -104.0f ? -104.0f : x;
  x = x > 89.0f ? 89.0f : x;
  constexpr float round_to_integer = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  const float shifted = std::fma(x, 1.44269504088896341f, round_to_integer);
  const float n = shifted - round_to_integer;
  float r = std::fma(n, -0.693359375f, x);
  r = std::fma(n, 2.12194440e-4f, r);
  float p = 1.9875691500e-4f;
  p = std::fma(p, r, 1.3981999507e-3f);
  p = std::fma(p, r, 8.3334519073e-3f);
  p = std::fma(p, r, 4.1665795894e-2f);
  p = std::fma(p, r, 1.6666665459e-1f);
  p = std::fma(p, r, 5.0000001201e-1f);
  const float y = std::fma(p * r, r, r) + 1.0f;
  // 2^n in two factors: n reaches -150, where one would be no normal number.
  const auto exponent = static_cast<std::int32_t>(std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(round_to_integer));
  const std::int32_t half = exponent >> 1;
  const auto first = std::bit_cast<float>((static_cast<std::uint32_t>(half) + 127u) << 23);
  const auto second = std::bit_cast<float>((static_cast<std::uint32_t>(exponent) - static_cast<std::uint32_t>(half) + 127u) << 23);
  return y * first * second;
}
inline double exp(double x) { return std::exp(x); }

inline float tanh(float x) {
  const float z = x * x;
  float p = -5.70498872745e-3f;
  p = std::fma(p, z, 2.06390887954e-2f);
  p = std::fma(p, z, -5.37397155531e-2f);
  p = std::fma(p, z, 1.33314422036e-1f);
  p = std::fma(p, z, -3.33332819422e-1f);
  const float near_zero = std::fma(p * z, x, x);
  const float magnitude = x < 0.0f ? -x : x;
  const float far = 1.0f - 2.0f / (exp(2.0f * magnitude) + 1.0f);
  return magnitude < 0.625f ? near_zero : (x < 0.0f ? -far : far);
}
inline double tanh(double x) { return std::tanh(x); }

/// x P(x^2) below 1; 1 - exp(Q(x)) with Q = log erfc above, where both fits have errors below 4e-9 of the result.
inline float erf(float x) {
  const float z = x * x;
  float p = 7.889114931458607e-5f;
  p = std::fma(p, z, -8.02083988673985e-4f);
  p = std::fma(p, z, 5.189535208046436e-3f);
  p = std::fma(p, z, -2.6854444295167923e-2f);
  p = std::fma(p, z, 1.1283600330352783e-1f);
  p = std::fma(p, z, -3.761262595653534e-1f);
  p = std::fma(p, z, 1.1283791065216064f);
  float magnitude = x < 0.0f ? -x : x;
  const bool near_zero = magnitude < 1.0f;
  magnitude = magnitude > 4.0f ? 4.0f : magnitude;  // erf(4) rounds to 1
  float q = 2.8755233870469965e-5f;
  q = std::fma(q, magnitude, -1.3265285815577954e-4f);
  q = std::fma(q, magnitude, -1.4698972227051854e-3f);
  q = std::fma(q, magnitude, 1.813194714486599e-2f);
  q = std::fma(q, magnitude, -9.766878932714462e-2f);
  q = std::fma(q, magnitude, -6.428161859512329e-1f);
  q = std::fma(q, magnitude, -1.1249122619628906f);
  q = std::fma(q, magnitude, -7.664518197998405e-4f);
  const float far = 1.0f - exp(q);
  return near_zero ? p * x : (x < 0.0f ? -far : far);
}
inline double erf(double x) { return std::erf(x); }

inline float sigmoid(float x) {
  const float e = exp(x < 0.0f ? x : -x);
  return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}
inline double sigmoid(double x) { return scalar::sigmoid(x); }

template <class T>
inline T silu(T x) {
  return x * sigmoid(x);
}
template <class T>
inline T silu_derivative(T x) {
  const T s = sigmoid(x);
  return s * (T(1) + x * (T(1) - s));
}

/// scalar::evaluate with the float functions above.
template <Unary function>
inline float evaluate(float x, const scalar::Parameters<float>& parameters) {
  if constexpr (function == Unary::sigmoid) return sigmoid(x);
  if constexpr (function == Unary::tanh) return tanh(x);
  if constexpr (function == Unary::silu) return silu(x);
  if constexpr (function == Unary::exp) return exp(x);
  if constexpr (function == Unary::gelu) return 0.5f * x * (1.0f + erf(x * 0.70710678118654752440f));
  if constexpr (function == Unary::gelu_tanh)
    return 0.5f * x * (1.0f + tanh(static_cast<float>(scalar::gelu_tanh_scale) * (x + 0.044715f * x * x * x)));
  return scalar::evaluate(function, x, parameters);
}
template <Unary function>
inline double evaluate(double x, const scalar::Parameters<double>& parameters) {
  return scalar::evaluate(function, x, parameters);
}

/// scalar::derivative with the float functions above.
template <Unary function>
inline float derivative(float x, const scalar::Parameters<float>& parameters) {
  if constexpr (function == Unary::sigmoid) {
    const float s = sigmoid(x);
    return s * (1.0f - s);
  }
  if constexpr (function == Unary::tanh) {
    const float t = tanh(x);
    return 1.0f - t * t;
  }
  if constexpr (function == Unary::silu) return silu_derivative(x);
  if constexpr (function == Unary::exp) return exp(x);
  if constexpr (function == Unary::softplus) return sigmoid(x);
  if constexpr (function == Unary::gelu)
    return 0.5f * (1.0f + erf(x * 0.70710678118654752440f)) + x * (0.39894228040143267794f * exp(-0.5f * x * x));
  if constexpr (function == Unary::gelu_tanh) {
    const float scale = static_cast<float>(scalar::gelu_tanh_scale), t = tanh(scale * (x + 0.044715f * x * x * x));
    return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * scale * (1.0f + 3 * 0.044715f * x * x);
  }
  if constexpr (function == Unary::elu) return x > 0.0f ? 1.0f : parameters.a * exp(x);
  return scalar::derivative(function, x, parameters);
}
template <Unary function>
inline double derivative(double x, const scalar::Parameters<double>& parameters) {
  return scalar::derivative(function, x, parameters);
}

}  // namespace expctr::cpu::float_math
