#include "engine/ops/norm.h"

#include "engine/autograd/tape.h"
#include "engine/core/op_scope.h"
#include "engine/core/run.h"
#include "engine/ops/layout.h"

namespace expctr {

Tensor rms_norm(const Tensor& x, const Tensor& gain, double epsilon) {
  const OpScope scope("rms_norm", x, gain);
  if (!scope.dense()) return rms_norm(dense(x), dense(gain), epsilon);
  require_rank("rms_norm", "x", x, 2);
  require_parameter("rms_norm", "gain", x, gain);
  require_shape("rms_norm", "gain", gain, {x.width()}, "gain has one value per column of x");
  Tensor y = x.empty_like(), inverse_rms = Tensor::empty({x.dim(0)}, parameter_dtype(x.dtype()), x.device());
  run(x.device(), RmsNormForward{epsilon, x, gain, y, inverse_rms});
  return record("rms_norm", y, {x, gain}, [=](const Tensor& dy, const GradientSlots& d) {
    run(x.device(), RmsNormBackward{x, gain, inverse_rms, dy, d[0], d[1], {}});
  });
}

Tensor layer_norm(const Tensor& x, const Tensor& gain, const Tensor& bias, double epsilon) {
  const OpScope scope("layer_norm", x, gain, bias);
  if (!scope.dense()) return layer_norm(dense(x), dense(gain), dense(bias), epsilon);
  require_rank("layer_norm", "x", x, 2);
  require_parameter("layer_norm", "gain", x, gain);
  require_parameter("layer_norm", "bias", x, bias);
  require_shape("layer_norm", "gain", gain, {x.width()}, "gain has one value per column of x");
  require_shape("layer_norm", "bias", bias, {x.width()}, "bias has one value per column of x");
  Tensor y = x.empty_like(), mean = Tensor::empty({x.dim(0)}, parameter_dtype(x.dtype()), x.device()), inverse_deviation = mean.empty_like();
  run(x.device(), LayerNormForward{epsilon, x, gain, bias, y, mean, inverse_deviation});
  return record("layer_norm", y, {x, gain, bias}, [=](const Tensor& dy, const GradientSlots& d) {
    run(x.device(), LayerNormBackward{x, gain, mean, inverse_deviation, dy, d[0], d[1], d[2], {}});
  });
}

Tensor dice(const Tensor& x, const Tensor& alpha, const Tensor& running_mean, const Tensor& running_variance, bool training, double epsilon, double momentum) {
  const OpScope scope("dice", x, alpha, running_mean, running_variance);
  if (!scope.dense()) {
    WrittenInPlace written;
    Tensor y = dice(dense(x), dense(alpha), written(running_mean), written(running_variance), training, epsilon, momentum);
    written.copy_back();
    return y;
  }
  require_rank("dice", "x", x, 2);
  require_parameter("dice", "alpha", x, alpha);
  require_parameter("dice", "running_mean", x, running_mean);
  require_parameter("dice", "running_variance", x, running_variance);
  require_shape("dice", "alpha", alpha, {x.width()}, "alpha has one value per column of x");
  require_shape("dice", "running_mean", running_mean, {x.width()});
  require_shape("dice", "running_variance", running_variance, {x.width()});
  Tensor y = x.empty_like(), mean = Tensor::empty({x.width()}, parameter_dtype(x.dtype()), x.device()), inverse_deviation = mean.empty_like();
  run(x.device(), DiceForward{epsilon, momentum, training, x, alpha, running_mean, running_variance, y, mean, inverse_deviation, {}});
  return record("dice", y, {x, alpha}, [=](const Tensor& dy, const GradientSlots& d) {
    run(x.device(), DiceBackward{training, x, alpha, mean, inverse_deviation, dy, d[0], d[1], {}});
  });
}

}  // namespace expctr
