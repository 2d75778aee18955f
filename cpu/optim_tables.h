// What the optimiser kernels share: the coefficients of Adam's step, the scale of gradients, and loops over the pieces of many tensors.
#pragma once

#include <cmath>

#include "base/kernels/optim_tables.h"
#include "cpu/arguments.h"
#include "cpu/dispatch.h"

namespace expctr::cpu {

constexpr std::int64_t optim_piece = 4096;  ///< elements; parameter, gradient and moments of a piece fit the first two cache levels

inline std::int64_t piece_count(std::int64_t elements) { return (elements + optim_piece - 1) / optim_piece; }

/// body(tensor, begin, end) for every piece of optim_piece elements of every tensor, in any order; also the number of the piece among all.
template <class Size, class Body>
void for_tensor_pieces(int count, Size size, Body body) {
  std::int64_t pieces = 0;
  for (int t = 0; t < count; ++t) pieces += piece_count(size(t));
  for_pieces(pieces, 4, [&](std::int64_t begin, std::int64_t end) {
    std::int64_t first = 0;
    for (int t = 0; t < count && first < end; ++t) {
      const std::int64_t n = size(t), last = first + piece_count(n);
      for (std::int64_t piece = begin > first ? begin : first; piece < (end < last ? end : last); ++piece) {
        const std::int64_t start = (piece - first) * optim_piece;
        body(t, start, n < start + optim_piece ? n : start + optim_piece, piece);
      }
      first = last;
    }
  });
}

inline double gradient_factor(const char* op, const GradientScale& scale) {
  if (scale.squared_norm.empty()) return scale.factor;
  require(scale.squared_norm.dtype == DType::f64 && scale.squared_norm.size() == 1, op, "squared_norm must be f64 [1]",
          {{"squared_norm", scale.squared_norm}});
  const double clip = scale.most / (std::sqrt(*scale.squared_norm.as<const double>()) + 1e-6);
  return clip < 1.0 ? clip * scale.factor : scale.factor;
}

/// One step of Adam on an element; the coefficients are rounded once.
template <class T>
struct AdamCoefficients {
  T scale, beta1, rest1, beta2, rest2, keep, rate, root, epsilon;

  template <class Args>
  AdamCoefficients(const Args& args, double factor, double weight_decay)
      : scale(static_cast<T>(factor)),
        beta1(static_cast<T>(args.beta1)),
        rest1(static_cast<T>(1 - args.beta1)),
        beta2(static_cast<T>(args.beta2)),
        rest2(static_cast<T>(1 - args.beta2)),
        keep(static_cast<T>(1 - args.learning_rate * weight_decay)),
        rate(static_cast<T>(args.learning_rate / (1 - std::pow(args.beta1, static_cast<double>(args.step))))),
        root(static_cast<T>(std::sqrt(1 - std::pow(args.beta2, static_cast<double>(args.step))))),
        epsilon(static_cast<T>(args.epsilon)) {}

  /// n elements; gradient may be null: zeros.
  void apply(std::int64_t n, const T* gradient, T l2, T* p, T* m, T* v) const {
    const auto update = [&](std::int64_t i, T g) {
      g = scale * (g + l2 * p[i]);
      m[i] = beta1 * m[i] + rest1 * g;
      v[i] = beta2 * v[i] + rest2 * (g * g);
      p[i] = keep * p[i] - rate * m[i] / (std::sqrt(v[i]) / root + epsilon);
    };
    if (gradient == nullptr) {
#pragma GCC ivdep
      for (std::int64_t i = 0; i < n; ++i) update(i, T(0));
    } else {
#pragma GCC ivdep
      for (std::int64_t i = 0; i < n; ++i) update(i, gradient[i]);
    }
  }
};

}  // namespace expctr::cpu
