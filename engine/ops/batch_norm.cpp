#include "engine/ops/batch_norm.h"

#include <fmt/format.h>

#include "base/error.h"
#include "engine/autograd/tape.h"
#include "engine/core/op_scope.h"
#include "engine/core/run.h"
#include "engine/ops/layout.h"

namespace expctr {

Tensor batch_norm(const Tensor& x, const Tensor& gain, const Tensor& bias, const Tensor& running_mean, const Tensor& running_variance,
                  const BatchNormOptions& options) {
  const OpScope scope("batch_norm", x, gain, bias, running_mean, running_variance);
  if (!scope.dense()) {
    WrittenInPlace written;
    Tensor y = batch_norm(dense(x), dense(gain), dense(bias), written(running_mean), written(running_variance), options);
    written.copy_back();
    return y;
  }
  require_rank("batch_norm", "x", x, 2);
  const DType vector_dtype = x.dtype() == DType::bf16 ? DType::f32 : x.dtype();
  const auto require_vector = [&](const char* name, const Tensor& vector) {
    require_shape("batch_norm", name, vector, {x.dim(1)}, "one value per column of x");
    if (vector.dtype() != vector_dtype || !(vector.device() == x.device())) {
      throw ShapeError(fmt::format("batch_norm: {} is {} on {}, x is {} on {}", name, dtype_name(vector.dtype()),
                                   device_name(vector.device()), dtype_name(x.dtype()), device_name(x.device())),
                       "vectors have the dtype and device of x, f32 where x is bf16");
    }
  };
  if (gain.defined()) require_vector("gain", gain);
  if (bias.defined()) require_vector("bias", bias);
  require_vector("running_mean", running_mean);
  require_vector("running_variance", running_variance);
  Tensor y = x.empty_like(), mean = Tensor::empty({x.dim(1)}, vector_dtype, x.device()), inverse_deviation = mean.empty_like();
  run(x.device(), BatchNormForward{options.epsilon,
                                   options.momentum,
                                   options.training,
                                   x,
                                   gain,
                                   bias,
                                   running_mean,
                                   running_variance,
                                   y,
                                   mean,
                                   inverse_deviation,
                                   {}});
  const bool training = options.training;
  return record("batch_norm", y, {x, gain, bias}, [=](const Tensor& dy, const GradientSlots& d) {
    run(x.device(), BatchNormBackward{training, x, gain, mean, inverse_deviation, dy, d[0], d[1], d[2], {}});
  });
}

}  // namespace expctr
