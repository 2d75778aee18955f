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

/// Parameters of a function in the precision it is evaluated in.
template <class T> struct Parameters {
  T a = T(0), b = T(0);
  Parameters() = default;
  explicit Parameters(const UnaryParameters& given) : a(static_cast<T>(given.a)), b(static_cast<T>(given.b)) {}
};

template <class T> EXPCTR_HOST_DEVICE T evaluate(Unary function, T x, const Parameters<T>& parameters = {}) {
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
    case Unary::sqrt: return std::sqrt(x);
    case Unary::rsqrt: return T(1) / std::sqrt(x);
    case Unary::absolute: return std::abs(x);
    case Unary::negate: return -x;
    case Unary::reciprocal: return T(1) / x;
    case Unary::log1p: return std::log1p(x);
    case Unary::softsign: return x / (T(1) + std::abs(x));
    case Unary::clamp: return x < parameters.a ? parameters.a : x > parameters.b ? parameters.b : x;
    case Unary::leaky_relu: return x > T(0) ? x : parameters.a * x;
    case Unary::elu: return x > T(0) ? x : parameters.a * std::expm1(x);
  }
  return x;
}

/// d evaluate / dx. At a corner: 0 for relu and absolute, the slope below 0 for leaky_relu and elu, 1 at the bounds of clamp.
template <class T> EXPCTR_HOST_DEVICE T derivative(Unary function, T x, const Parameters<T>& parameters = {}) {
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
    case Unary::sqrt: return T(0.5) / std::sqrt(x);
    case Unary::rsqrt: return T(-0.5) / (x * std::sqrt(x));
    case Unary::absolute: return x > T(0) ? T(1) : x < T(0) ? T(-1) : T(0);
    case Unary::negate: return T(-1);
    case Unary::reciprocal: return T(-1) / (x * x);
    case Unary::log1p: return T(1) / (T(1) + x);
    case Unary::softsign: {
      const T d = T(1) + std::abs(x);
      return T(1) / (d * d);
    }
    case Unary::clamp: return x < parameters.a || x > parameters.b ? T(0) : T(1);
    case Unary::leaky_relu: return x > T(0) ? T(1) : parameters.a;
    case Unary::elu: return x > T(0) ? T(1) : parameters.a * std::exp(x);
  }
  return T(1);
}

template <class T> EXPCTR_HOST_DEVICE T evaluate(Binary function, T a, T b) {
  switch (function) {
    case Binary::add: return a + b;
    case Binary::subtract: return a - b;
    case Binary::multiply: return a * b;
    case Binary::divide: return a / b;
    case Binary::maximum: return a != a || a > b ? a : b;
    case Binary::minimum: return a != a || a < b ? a : b;
    case Binary::power: return std::pow(a, b);
    case Binary::less: return a < b ? T(1) : T(0);
    case Binary::less_equal: return a <= b ? T(1) : T(0);
    case Binary::greater: return a > b ? T(1) : T(0);
    case Binary::greater_equal: return a >= b ? T(1) : T(0);
    case Binary::equal: return a == b ? T(1) : T(0);
    case Binary::not_equal: return a != b ? T(1) : T(0);
  }
  return a;
}

constexpr bool has_gradient(Binary function) { return function < Binary::less; }
/// Whether the gradient of one operand reads the operand itself, or the other one.
constexpr bool gradient_reads_own(Binary function, bool of_a) {
  return (function == Binary::divide && !of_a) || function == Binary::maximum || function == Binary::minimum || function == Binary::power;
}
constexpr bool gradient_reads_other(Binary function) { return function != Binary::add && function != Binary::subtract; }

/// dy times d (a op b) / da, or / db when not of_a; own is that operand, other the other one.
template <class T> EXPCTR_HOST_DEVICE T partial(Binary function, bool of_a, T dy, T own, T other) {
  switch (function) {
    case Binary::add: return dy;
    case Binary::subtract: return of_a ? dy : -dy;
    case Binary::multiply: return dy * other;
    case Binary::divide: return of_a ? dy / other : -dy * other / (own * own);
    case Binary::maximum: return own > other ? dy : own == other ? T(0.5) * dy : T(0);
    case Binary::minimum: return own < other ? dy : own == other ? T(0.5) * dy : T(0);
    case Binary::power:
      if (of_a) return other == T(0) ? T(0) : dy * other * std::pow(own, other - T(1));
      return other == T(0) && own >= T(0) ? T(0) : dy * std::pow(other, own) * std::log(other);
    default: return T(0);
  }
}

template <Unary function> struct UnaryTag {
  static constexpr Unary value = function;
};
template <Binary function> struct BinaryTag {
  static constexpr Binary value = function;
};

/// body(UnaryTag<function>{}): one decision for many elements.
template <class Body> EXPCTR_HOST_DEVICE void with_unary(Unary function, const Body& body) {
  switch (function) {
    case Unary::relu: return body(UnaryTag<Unary::relu>{});
    case Unary::sigmoid: return body(UnaryTag<Unary::sigmoid>{});
    case Unary::tanh: return body(UnaryTag<Unary::tanh>{});
    case Unary::silu: return body(UnaryTag<Unary::silu>{});
    case Unary::gelu: return body(UnaryTag<Unary::gelu>{});
    case Unary::gelu_tanh: return body(UnaryTag<Unary::gelu_tanh>{});
    case Unary::exp: return body(UnaryTag<Unary::exp>{});
    case Unary::log: return body(UnaryTag<Unary::log>{});
    case Unary::square: return body(UnaryTag<Unary::square>{});
    case Unary::softplus: return body(UnaryTag<Unary::softplus>{});
    case Unary::sqrt: return body(UnaryTag<Unary::sqrt>{});
    case Unary::rsqrt: return body(UnaryTag<Unary::rsqrt>{});
    case Unary::absolute: return body(UnaryTag<Unary::absolute>{});
    case Unary::negate: return body(UnaryTag<Unary::negate>{});
    case Unary::reciprocal: return body(UnaryTag<Unary::reciprocal>{});
    case Unary::log1p: return body(UnaryTag<Unary::log1p>{});
    case Unary::softsign: return body(UnaryTag<Unary::softsign>{});
    case Unary::clamp: return body(UnaryTag<Unary::clamp>{});
    case Unary::leaky_relu: return body(UnaryTag<Unary::leaky_relu>{});
    case Unary::elu: return body(UnaryTag<Unary::elu>{});
  }
}

/// body(BinaryTag<function>{}).
template <class Body> EXPCTR_HOST_DEVICE void with_binary(Binary function, const Body& body) {
  switch (function) {
    case Binary::add: return body(BinaryTag<Binary::add>{});
    case Binary::subtract: return body(BinaryTag<Binary::subtract>{});
    case Binary::multiply: return body(BinaryTag<Binary::multiply>{});
    case Binary::divide: return body(BinaryTag<Binary::divide>{});
    case Binary::maximum: return body(BinaryTag<Binary::maximum>{});
    case Binary::minimum: return body(BinaryTag<Binary::minimum>{});
    case Binary::power: return body(BinaryTag<Binary::power>{});
    case Binary::less: return body(BinaryTag<Binary::less>{});
    case Binary::less_equal: return body(BinaryTag<Binary::less_equal>{});
    case Binary::greater: return body(BinaryTag<Binary::greater>{});
    case Binary::greater_equal: return body(BinaryTag<Binary::greater_equal>{});
    case Binary::equal: return body(BinaryTag<Binary::equal>{});
    case Binary::not_equal: return body(BinaryTag<Binary::not_equal>{});
  }
}

}  // namespace expctr::scalar
