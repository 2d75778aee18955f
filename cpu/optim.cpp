// Optimiser updates: one pass over parameter, gradient and both moments of all tensors (28 bytes an element in f32), bounded by memory.
#include "base/kernels/optim.h"

#include <cmath>

#include "cpu/arguments.h"
#include "cpu/dispatch.h"
#include "cpu/run.h"

namespace expctr::cpu {

template <>
void run(const AdamW& args, Stream) {
  std::int64_t total = 0;
  for (int t = 0; t < args.count; ++t) {
    const AdamTensor& tensor = args.tensors[t];
    require_alike("adamw", {{"parameter", tensor.parameter},
                            {"gradient", tensor.gradient},
                            {"first_moment", tensor.first_moment},
                            {"second_moment", tensor.second_moment}});
    total += tensor.parameter.size();
  }
  if (args.step < 1) throw ShapeError("adamw: step is " + std::to_string(args.step) + ", but the first step is 1");
  const double correction1 = 1 - std::pow(args.beta1, static_cast<double>(args.step));
  const double correction2 = 1 - std::pow(args.beta2, static_cast<double>(args.step));
  // One launch over the elements of all tensors, so that many small ones share a piece.
  for_pieces(total, cheap_grain, [&](std::int64_t begin, std::int64_t end) {
    std::int64_t first = 0;
    for (int t = 0; t < args.count; ++t) {
      const AdamTensor& tensor = args.tensors[t];
      const std::int64_t size = tensor.parameter.size(), from = begin > first ? begin - first : 0,
                         to = end - first < size ? end - first : size;
      first += size;
      if (from >= to) continue;
      with_floating(tensor.parameter.dtype, [&](auto zero) {
        using T = decltype(zero);
        T *parameter = tensor.parameter.as<T>(), *m = tensor.first_moment.as<T>(), *v = tensor.second_moment.as<T>();
        const T* gradient = tensor.gradient.as<const T>();
        const T keep = static_cast<T>(1 - args.learning_rate * args.weight_decay), scale = static_cast<T>(args.gradient_scale);
        const T beta1 = static_cast<T>(args.beta1), beta2 = static_cast<T>(args.beta2);
        const T rest1 = static_cast<T>(1 - args.beta1), rest2 = static_cast<T>(1 - args.beta2), epsilon = static_cast<T>(args.epsilon);
        const T rate = static_cast<T>(args.learning_rate / correction1), root = static_cast<T>(std::sqrt(correction2));
        for (std::int64_t i = from; i < to; ++i) {
          const T g = scale * gradient[i];
          m[i] = beta1 * m[i] + rest1 * g;
          v[i] = beta2 * v[i] + rest2 * (g * g);
          parameter[i] = keep * parameter[i] - rate * m[i] / (std::sqrt(v[i]) / root + epsilon);
        }
      });
    }
  });
}

}  // namespace expctr::cpu
