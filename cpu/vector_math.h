// Transcendental functions on vectors of 16 float lanes (cpu/simd_*.h): plain sequences of operations, so the same bits in every
// instruction set.
#pragma once

namespace expctr::cpu {

/// e^x, error below 2 units in the last place; subnormal results rounded, 0 below -104, infinity above 88.72, NaN stays NaN.
/// x = n ln 2 + r, |r| <= ln 2 / 2; e^r by a polynomial of degree 7 (coefficients: Moshier, Cephes expf), times 2^n.
template <class V>
inline V exp(V x) {
  // The second operand is returned when one is NaN.
  x = V::min(V::broadcast(89.0f), V::max(V::broadcast(-104.0f), x));
  const V n = V::round(x * V::broadcast(1.44269504f));
  V r = V::fma(n, V::broadcast(-0.693359375f), x);
  r = V::fma(n, V::broadcast(2.12194440e-4f), r);
  V p = V::broadcast(1.9875691500e-4f);
  p = V::fma(p, r, V::broadcast(1.3981999507e-3f));
  p = V::fma(p, r, V::broadcast(8.3334519073e-3f));
  p = V::fma(p, r, V::broadcast(4.1665795894e-2f));
  p = V::fma(p, r, V::broadcast(1.6666665459e-1f));
  p = V::fma(p, r, V::broadcast(5.0000001201e-1f));
  p = V::fma(p * r, r, r) + V::broadcast(1.0f);
  return V::times_power_of_two(p, n);
}

}  // namespace expctr::cpu
