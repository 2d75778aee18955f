// Elementwise maths, written once for both backends. float arguments are evaluated in float, double in double.
#pragma once

#include <cmath>

#include "base/host_device.h"
#include "base/kernels/elementwise.h"

namespace expctr::scalar {

template <class T> EXPCTR_HOST_DEVICE T sigmoid(T x) {
  // exp of a negative number only: no overflow on either side.
  const T e = std::exp(x < T(0) ? x : -x);
  return x < T(0) ? e / (T(1) + e) : T(1) / (T(1) + e);
}

template <class T> EXPCTR_HOST_DEVICE T softplus(T x) { return (x > T(0) ? x : T(0)) + std::log1p(std::exp(x > T(0) ? -x : x)); }

template <class T> EXPCTR_HOST_DEVICE T silu(T x) { return x * sigmoid(x); }
template <class T> EXPCTR_HOST_DEVICE T silu_derivative(T x) {
  const T s = sigmoid(x);
  return s * (T(1) + x * (T(1) - s));
}

template <class T> EXPCTR_HOST_DEVICE T gelu(T x) { return T(0.5) * x * (T(1) + std::erf(x * T(0.70710678118654752440))); }
template <class T> EXPCTR_HOST_DEVICE T gelu_derivative(T x) {
  const T density = T(0.39894228040143267794) * std::exp(T(-0.5) * x * x);
  return T(0.5) * (T(1) + std::erf(x * T(0.70710678118654752440))) + x * density;
}

constexpr double gelu_tanh_scale = 0.79788456080286535588;  // sqrt(2 / pi)
template <class T> EXPCTR_HOST_DEVICE T gelu_tanh(T x) {
  return T(0.5) * x * (T(1) + std::tanh(T(gelu_tanh_scale) * (x + T(0.044715) * x * x * x)));
}
template <class T> EXPCTR_HOST_DEVICE T gelu_tanh_derivative(T x) {
  const T t = std::tanh(T(gelu_tanh_scale) * (x + T(0.044715) * x * x * x));
  return T(0.5) * (T(1) + t) + T(0.5) * x * (T(1) - t * t) * T(gelu_tanh_scale) * (T(1) + T(3 * 0.044715) * x * x);
}

template <class T> EXPCTR_HOST_DEVICE T evaluate(Unary function, T x) {
  switch (function) {
    case Unary::relu: return x > T(0) ? x : T(0);
    case Unary::sigmoid: return sigmoid(x);
    case Unary::tanh: return std::tanh(x);
    case Unary::silu: return silu(x);
    case Unary::gelu: return gelu(x);
    case Unary::gelu_tanh: return gelu_tanh(x);
    case Unary::exp: return std::exp(x);
    case Unary::log: return std::log(x);
    case Unary::square: return x * x;
    case Unary::softplus: return softplus(x);
  }
  return x;
}

/// d evaluate / dx.
template <class T> EXPCTR_HOST_DEVICE T derivative(Unary function, T x) {
  switch (function) {
    case Unary::relu: return x > T(0) ? T(1) : T(0);
    case Unary::sigmoid: {
      const T s = sigmoid(x);
      return s * (T(1) - s);
    }
    case Unary::tanh: {
      const T t = std::tanh(x);
      return T(1) - t * t;
    }
    case Unary::silu: return silu_derivative(x);
    case Unary::gelu: return gelu_derivative(x);
    case Unary::gelu_tanh: return gelu_tanh_derivative(x);
    case Unary::exp: return std::exp(x);
    case Unary::log: return T(1) / x;
    case Unary::square: return T(2) * x;
    case Unary::softplus: return sigmoid(x);
  }
  return T(1);
}

template <class T> EXPCTR_HOST_DEVICE T evaluate(Binary function, T a, T b) {
  switch (function) {
    case Binary::add: return a + b;
    case Binary::subtract: return a - b;
    case Binary::multiply: return a * b;
  }
  return a;
}

}  // namespace expctr::scalar
