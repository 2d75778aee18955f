// Gradient descent with momentum, and clipping of values: one pass over all tensors, 12 to 20 bytes an element in f32, bounded by memory.
#include "cpu/optim_tables.h"
#include "cpu/run.h"

namespace expctr::cpu {

template <>
void run(const SgdUpdate& args, Stream) {
  for (int t = 0; t < args.count; ++t) {
    const SgdTensor& tensor = args.tensors[t];
    require_alike("sgd", {{"parameter", tensor.parameter}, {"gradient", tensor.gradient}});
    if (args.momentum != 0) require_alike("sgd", {{"parameter", tensor.parameter}, {"velocity", tensor.velocity}});
  }
  const double factor = gradient_factor("sgd", args.scale);
  for_tensor_pieces(
      args.count, [&](int t) { return args.tensors[t].parameter.size(); },
      [&](int t, std::int64_t begin, std::int64_t end, std::int64_t) {
        const SgdTensor& tensor = args.tensors[t];
        with_floating(tensor.parameter.dtype, [&](auto zero) {
          using T = decltype(zero);
          T* p = tensor.parameter.as<T>();
          const T* gradient = tensor.gradient.as<const T>();
          const T scale = static_cast<T>(factor), decay = static_cast<T>(args.weight_decay), rate = static_cast<T>(args.learning_rate),
                  momentum = static_cast<T>(args.momentum);
          if (args.momentum == 0) {
#pragma GCC ivdep
            for (std::int64_t i = begin; i < end; ++i) p[i] -= rate * (scale * gradient[i] + decay * p[i]);
            return;
          }
          T* u = tensor.velocity.as<T>();
          const T ahead = args.nesterov ? momentum : T(1), along = args.nesterov ? T(1) : T(0);
#pragma GCC ivdep
          for (std::int64_t i = begin; i < end; ++i) {
            const T g = scale * gradient[i] + decay * p[i];
            u[i] = momentum * u[i] + g;
            p[i] -= rate * (along * g + ahead * u[i]);
          }
        });
      });
}

template <>
void run(const ClipValues& args, Stream) {
  for (int t = 0; t < args.count; ++t) require_floating("clip_values", {{"tensor", args.tensors[t]}});
  if (!(args.limit >= 0)) throw ShapeError("clip_values: the limit is " + std::to_string(args.limit), "a limit is a number >= 0");
  for_tensor_pieces(
      args.count, [&](int t) { return args.tensors[t].size(); },
      [&](int t, std::int64_t begin, std::int64_t end, std::int64_t) {
        with_floating(args.tensors[t].dtype, [&](auto zero) {
          using T = decltype(zero);
          T* x = args.tensors[t].as<T>();
          const T limit = static_cast<T>(args.limit);
          for (std::int64_t i = begin; i < end; ++i) x[i] = x[i] > limit ? limit : x[i] < -limit ? -limit : x[i];
        });
      });
}

}  // namespace expctr::cpu
