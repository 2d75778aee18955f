// Optimiser updates: one pass over parameter, gradient and both moments of all tensors (28 bytes an element in f32), bounded by memory.
#include "base/kernels/optim.h"

#include <cmath>

#include "cpu/arguments.h"
#include "cpu/dispatch.h"
#include "cpu/run.h"

namespace expctr::cpu {

namespace {

bool is_control(const View& control) { return control.dtype == DType::f64 && control.rank == 1 && control.size() == 3; }

}  // namespace

template <>
std::size_t scratch_bytes(const AdamW&) {
  return 0;
}

template <>
void run(const AdamW& given, Stream) {
  AdamW args = given;
  if (!args.control.empty()) {
    require(is_control(args.control), "adamw", "control must be f64 [3]", {{"control", args.control}});
    const double* control = args.control.as<const double>();
    args.learning_rate = control[0];
    args.step = static_cast<std::int64_t>(control[1]);
    args.gradient_scale = control[2];
  }
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

template <>
void run(const AdvanceStep& args, Stream) {
  require(is_control(args.control) && args.total.dtype == DType::f64 && args.total.size() == 1, "advance_step",
          "total must be f64 [1] and control f64 [3]", {{"total", args.total}, {"control", args.control}});
  double* control = args.control.as<double>();
  control[1] += 1.0;
  const double scale = args.most / (std::sqrt(*args.total.as<const double>()) + 1e-6);
  control[2] = args.most <= 0.0 || scale > 1.0 ? 1.0 : scale;
}

}  // namespace expctr::cpu
