#include "engine/ops/linear.h"

#include <fmt/format.h>

#include "base/error.h"
#include "engine/autograd/tape.h"
#include "engine/core/op_scope.h"
#include "engine/core/run.h"
#include "engine/ops/layout.h"
#include "engine/ops/loss.h"
#include "engine/ops/matmul.h"

namespace expctr {

FrozenWeight::FrozenWeight(const Tensor& any_source, ComputeMode mode) {
  const OpScope scope("frozen weight", any_source);
  const Tensor source = dense(any_source.detached());
  require_rank("frozen weight", "source", source, 2);
  packed_.outputs = source.dim(0);
  packed_.inputs = source.dim(1);
  packed_.dtype = source.dtype();
  packed_.mode = mode;
  if (!source.device().is_cuda()) {
    packed_.bytes = cpu::packed_weight_bytes(packed_.outputs, packed_.inputs, packed_.dtype, mode);
  } else if constexpr (has_cuda) {
    packed_.bytes = cuda::packed_weight_bytes(packed_.outputs, packed_.inputs, packed_.dtype, mode);
  }
  memory_ = Tensor::zeros({static_cast<std::int64_t>(packed_.bytes)}, DType::u8, source.device());
  packed_.data = memory_.data();
  run(source.device(), PackWeight{source, packed_});
}

namespace {

void require_inputs(const char* op, const Tensor& x, const FrozenWeight& weight) {
  require_rank(op, "x", x, 2);
  if (x.dim(1) != weight.inputs() || (x.dtype() != DType::f32 && x.dtype() != DType::bf16) || !(x.device() == weight.device())) {
    throw ShapeError(fmt::format("{}: x is {} {} on {}, the weight [{}, {}] on {}", op, dtype_name(x.dtype()), x.shape().text(), device_name(x.device()),
                                 weight.outputs(), weight.inputs(), device_name(weight.device())),
                     "x is f32 or bf16 with one column per input of the weight, on the weight's device");
  }
}

}  // namespace

Tensor linear_frozen(const Tensor& x, const FrozenWeight& weight, const Tensor& bias) {
  const OpScope scope("linear_frozen", x, bias);
  if (!scope.dense()) return linear_frozen(dense(x), weight, dense(bias));
  require_inputs("linear_frozen", x, weight);
  if (bias.defined()) require_shape("linear_frozen", "bias", bias, {weight.outputs()}, "one value per output");
  Tensor y = Tensor::empty({x.dim(0), weight.outputs()}, x.dtype(), x.device());
  run(x.device(), LinearFrozen{weight.packed(), x, bias, y});
  return record("linear_frozen", y, {x}, [=](const Tensor& dy, const GradientSlots& d) {
    run(x.device(), LinearFrozenBackward{weight.packed(), dy, d[0], {}});
  });
}

namespace {

/// Both forms: `trained` is the weight that receives a gradient, or undefined.
TokenScores cross_entropy(const Tensor& x, const FrozenWeight& weight, const Tensor& trained, const Tensor& targets, double temperature, bool entropy) {
  require_inputs("linear_cross_entropy", x, weight);
  require_shape("linear_cross_entropy", "targets", targets, {x.dim(0)}, "one target per row");
  if (!(temperature > 0.0)) throw ShapeError(fmt::format("linear_cross_entropy: temperature {}", temperature), "it is positive");
  TokenScores scores{Tensor::empty({x.dim(0)}, DType::f32, x.device()), {}};
  if (entropy) scores.entropy = Tensor::empty({x.dim(0)}, DType::f32, x.device());
  Tensor log_sum_exp = scores.log_probability.empty_like();
  run(x.device(), LinearCrossEntropyForward{weight.packed(), temperature, x, targets, scores.log_probability, log_sum_exp, scores.entropy, {}});
  scores.log_probability = record("linear_cross_entropy", scores.log_probability, {x, trained}, [=](const Tensor& dy, const GradientSlots& d) {
    run(x.device(), LinearCrossEntropyBackward{weight.packed(), temperature, x, targets, log_sum_exp, dy, d[0], {}, d[1]});
  });
  return scores;
}

}  // namespace

TokenScores linear_cross_entropy(const Tensor& x, const FrozenWeight& weight, const Tensor& targets, double temperature, bool entropy) {
  const OpScope scope("linear_cross_entropy", x, targets);
  if (!scope.dense()) return linear_cross_entropy(dense(x), weight, dense(targets), temperature, entropy);
  return cross_entropy(x, weight, {}, targets, temperature, entropy);
}

TokenScores linear_cross_entropy(const Tensor& x, const Tensor& weight, const Tensor& targets, double temperature, bool entropy) {
  const OpScope scope("linear_cross_entropy", x, weight, targets);
  if (!scope.dense()) return linear_cross_entropy(dense(x), dense(weight), dense(targets), temperature, entropy);
  require_rank("linear_cross_entropy", "weight", weight, 2);
  if (x.dtype() == DType::f64) {
    if (entropy) throw Error("linear_cross_entropy: no entropy in f64", "use f32");
    if (!(temperature > 0.0)) throw ShapeError(fmt::format("linear_cross_entropy: temperature {}", temperature), "it is positive");
    return {log_probability(matmul(x, weight, false, true, 1.0 / temperature), targets), {}};
  }
  const ComputeMode mode = x.dtype() == DType::bf16 && x.device().is_cuda() ? ComputeMode::bf16 : ComputeMode::f32;
  return cross_entropy(x, FrozenWeight(weight.detached(), mode), weight, targets, temperature, entropy);
}

}  // namespace expctr
