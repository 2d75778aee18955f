// The steps of cpu/recurrent_cell.h over vectors V of `lanes_of<V>` units: 16 floats of cpu/simd_*.h, or one double. About 40 operations
// and a division a gate: bound by arithmetic.
#pragma once

#include <cmath>

#include "cpu/recurrent_cell.h"
#include "cpu/vector_math.h"

namespace expctr::cpu {

template <class V>
constexpr int lanes_of = 16;

template <class V>
inline V sigmoid(V x) {
  const V zero = V::zero(), one = V::broadcast(1.0f);
  const V e = exp(V::min(x, zero - x));  // of a negative number only
  return V::select_less(x, zero, e, one) / (one + e);
}

/// As float_math::tanh: an odd polynomial near zero, 1 - 2 / (e^2|x| + 1) beyond.
template <class V>
inline V tanh(V x) {
  const V zero = V::zero(), z = x * x, magnitude = V::max(x, zero - x);
  V p = V::broadcast(-5.70498872745e-3f);
  p = V::fma(p, z, V::broadcast(2.06390887954e-2f));
  p = V::fma(p, z, V::broadcast(-5.37397155531e-2f));
  p = V::fma(p, z, V::broadcast(1.33314422036e-1f));
  p = V::fma(p, z, V::broadcast(-3.33332819422e-1f));
  const V near = V::fma(p * z, x, x), one = V::broadcast(1.0f);
  const V far = one - V::broadcast(2.0f) / (exp(magnitude + magnitude) + one);
  return V::select_less(magnitude, V::broadcast(0.625f), near, V::select_less(x, zero, zero - far, far));
}

/// One double with the interface of the vectors.
struct OneDouble {
  double value;
  static OneDouble zero() { return {0.0}; }
  static OneDouble broadcast(double x) { return {x}; }
  static OneDouble load(const double* p) { return {*p}; }
  static OneDouble load(const double* p, int) { return {*p}; }
  void store(double* p) const { *p = value; }
  void store(double* p, int) const { *p = value; }
  double sum() const { return value; }
  static OneDouble fma(OneDouble a, OneDouble b, OneDouble c) { return {std::fma(a.value, b.value, c.value)}; }
  friend OneDouble operator+(OneDouble a, OneDouble b) { return {a.value + b.value}; }
  friend OneDouble operator-(OneDouble a, OneDouble b) { return {a.value - b.value}; }
  friend OneDouble operator*(OneDouble a, OneDouble b) { return {a.value * b.value}; }
};
template <>
inline constexpr int lanes_of<OneDouble> = 1;
inline OneDouble sigmoid(OneDouble x) {
  const double e = std::exp(-std::abs(x.value));
  return {(x.value < 0 ? e : 1.0) / (1.0 + e)};
}
inline OneDouble tanh(OneDouble x) { return {std::tanh(x.value)}; }

/// body(first unit, load, store) for every vector of units, the last one cut to what is left.
template <class V, class T, class Body>
inline void for_units(std::int64_t hidden, const Body& body) {
  std::int64_t j = 0;
  for (; j + lanes_of<V> <= hidden; j += lanes_of<V>) body([j](const T* p) { return V::load(p + j); }, [j](V v, T* p) { v.store(p + j); });
  if (const int left = static_cast<int>(hidden - j); left > 0)
    body([j, left](const T* p) { return V::load(p + j, left); }, [j, left](V v, T* p) { v.store(p + j, left); });
}

template <RecurrentCell Cell, class V, class T>
void gru_forward(const CellForward<T>& s) {
  constexpr bool weighted = Cell == RecurrentCell::augru;
  const std::int64_t n = s.hidden;
  const V attention = V::broadcast(s.attention), one = V::broadcast(T(1));
  for_units<V, T>(n, [&](const auto& load, const auto& store) {
    const V first = sigmoid(load(s.projected) + load(s.product) + load(s.bias));
    const V second = sigmoid(load(s.projected + n) + load(s.product + n) + load(s.bias + n));
    const V reset = weighted ? second : first, update = weighted ? first : second;
    const V q = load(s.product + 2 * n) + load(s.bias + 3 * n);
    const V candidate = tanh(V::fma(reset, q, load(s.projected + 2 * n) + load(s.bias + 2 * n)));
    const V share = weighted ? attention * update : one - update, h = load(s.h);
    store(V::fma(share, candidate - h, h), s.h);
    if (s.saved == nullptr) return;
    store(first, s.saved);
    store(second, s.saved + n);
    store(candidate, s.saved + 2 * n);
    store(q, s.saved + 3 * n);
  });
}

template <RecurrentCell Cell, class V, class T>
T gru_backward(const CellBackward<T>& s) {
  constexpr bool weighted = Cell == RecurrentCell::augru;
  const std::int64_t n = s.hidden;
  const V attention = V::broadcast(s.attention), one = V::broadcast(T(1));
  V dattention = V::zero();
  for_units<V, T>(n, [&](const auto& load, const auto& store) {
    const V reset = load(s.saved + (weighted ? n : 0)), update = load(s.saved + (weighted ? 0 : n)), candidate = load(s.saved + 2 * n),
            q = load(s.saved + 3 * n);
    const V share = weighted ? attention * update : one - update, dh = load(s.dh);
    const V dcandidate = dh * share * (one - candidate * candidate), dshare = dh * (candidate - load(s.before));
    const V dupdate = (weighted ? attention * dshare : V::zero() - dshare) * update * (one - update);
    const V dreset = dcandidate * q * reset * (one - reset);
    if (weighted) dattention = V::fma(dshare, update, dattention);
    store(weighted ? dupdate : dreset, s.gates);
    store(weighted ? dreset : dupdate, s.gates + n);
    store(dcandidate * reset, s.gates + 2 * n);
    store(dcandidate, s.candidate);
    store(dh * (one - share), s.dh);
  });
  return dattention.sum();
}

template <class V, class T>
void lstm_forward(const CellForward<T>& s) {
  const std::int64_t n = s.hidden;
  for_units<V, T>(n, [&](const auto& load, const auto& store) {
    const auto sum = [&](std::int64_t gate) { return load(s.projected + gate * n) + load(s.product + gate * n) + load(s.bias + gate * n); };
    const V i = sigmoid(sum(0)), f = sigmoid(sum(1)), g = tanh(sum(2)), o = sigmoid(sum(3));
    const V cell = V::fma(f, load(s.c), i * g);
    store(cell, s.c);
    store(o * tanh(cell), s.h);
    if (s.saved == nullptr) return;
    store(i, s.saved);
    store(f, s.saved + n);
    store(g, s.saved + 2 * n);
    store(o, s.saved + 3 * n);
    store(cell, s.cells);
  });
}

template <class V, class T>
T lstm_backward(const CellBackward<T>& s) {
  const std::int64_t n = s.hidden;
  const V one = V::broadcast(T(1));
  for_units<V, T>(n, [&](const auto& load, const auto& store) {
    const V i = load(s.saved), f = load(s.saved + n), g = load(s.saved + 2 * n), o = load(s.saved + 3 * n), t = tanh(load(s.cells)),
            dh = load(s.dh);
    const V dcell = V::fma(dh * o, one - t * t, load(s.dc));
    store(dcell * g * i * (one - i), s.gates);
    store(dcell * load(s.cells_before) * f * (one - f), s.gates + n);
    store(dcell * i * (one - g * g), s.gates + 2 * n);
    store(dh * t * o * (one - o), s.gates + 3 * n);
    store(dcell * f, s.dc);
    store(V::zero(), s.dh);
  });
  return T(0);
}

/// By RecurrentCell.
template <class V, class T>
constexpr CellSteps<T> cell_steps(int cell) {
  constexpr CellSteps<T> steps[] = {{gru_forward<RecurrentCell::gru, V, T>, gru_backward<RecurrentCell::gru, V, T>},
                                    {gru_forward<RecurrentCell::augru, V, T>, gru_backward<RecurrentCell::augru, V, T>},
                                    {lstm_forward<V, T>, lstm_backward<V, T>}};
  return steps[cell];
}

}  // namespace expctr::cpu
