#include "engine/ops/linear_lora.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/philox.h"
#include "engine/autograd/tape.h"
#include "engine/core/op_scope.h"
#include "engine/core/run.h"
#include "engine/ops/layout.h"

namespace expctr {
namespace {

constexpr const char* op = "linear_lora";

/// [r, c] as a stack of one.
Tensor stacked(const Tensor& t) { return t.rank() == 2 ? t.reshape({1, t.dim(0), t.dim(1)}) : t; }

void require_adapters(const Tensor& x, const FrozenWeight& weight, const Tensor& a, const Tensor& b) {
  const bool fits = a.dim(0) == b.dim(0) && a.dim(2) == weight.inputs() && b.dim(1) == weight.outputs() && a.dim(1) == b.dim(2);
  if (!fits)
    throw ShapeError(
        fmt::format("{}: a is {}, b {}, the weight [{}, {}]", op, a.shape().text(), b.shape().text(), weight.outputs(), weight.inputs()),
        "a is [adapters, rank, inputs], b [adapters, outputs, rank]");
  if (a.dtype() != DType::f32 || b.dtype() != DType::f32)
    throw ShapeError(fmt::format("{}: a is {}, b {}", op, dtype_name(a.dtype()), dtype_name(b.dtype())), "adapters are f32");
  if (x.rank() != 2 || x.dim(1) != weight.inputs() || (x.dtype() != DType::f32 && x.dtype() != DType::bf16) ||
      !(x.device() == weight.device()) || !(a.device() == x.device()) || !(b.device() == x.device()))
    throw ShapeError(fmt::format("{}: x is {} {} on {}, the weight [{}, {}] on {}, a on {}, b on {}", op, dtype_name(x.dtype()),
                                 x.shape().text(), device_name(x.device()), weight.outputs(), weight.inputs(), device_name(weight.device()),
                                 device_name(a.device()), device_name(b.device())),
                     "x is f32 or bf16 with one column per input of the weight; all on one device");
}

}  // namespace

Tensor linear_lora(const Tensor& x, const FrozenWeight& weight, const Tensor& bias, const Tensor& a, const Tensor& b, double scale, const Tensor& ids,
                   const LoraInputDropout& input_dropout) {
  const OpScope scope(op, x, bias, a, b, ids, input_dropout.sample_ids);
  if (!scope.dense()) {
    LoraInputDropout dense_dropout = input_dropout;
    dense_dropout.sample_ids = dense(input_dropout.sample_ids);
    return linear_lora(dense(x), weight, dense(bias), dense(a), dense(b), scale, dense(ids), dense_dropout);
  }
  for (const Tensor* t : {&a, &b})
    if (t->rank() != 2 && t->rank() != 3) require_rank(op, t == &a ? "a" : "b", *t, 3);
  const Tensor as = stacked(a), bs = stacked(b);
  require_adapters(x, weight, as, bs);
  if (bias.defined()) require_shape(op, "bias", bias, {weight.outputs()}, "one value per output");
  if (ids.defined()) require_shape(op, "ids", ids, {x.dim(0)}, "one adapter per row");
  LoraDropout dropout;
  if (input_dropout.probability != 0.0) {
    if (!(input_dropout.probability > 0.0 && input_dropout.probability < 1.0))
      throw ShapeError(fmt::format("{}: dropout probability {}", op, input_dropout.probability), "it lies in [0, 1)");
    require_shape(op, "sample_ids", input_dropout.sample_ids, {x.dim(0)}, "one id per row");
    const RandomKey random = random_key(input_dropout.key.seed, "dropout");
    dropout = {static_cast<float>(input_dropout.probability),
               random.low,
               random.high,
               input_dropout.key.step,
               input_dropout.key.channel,
               input_dropout.sample_ids};
  }
  Tensor y = Tensor::empty({x.dim(0), weight.outputs()}, x.dtype(), x.device());
  const Tensor low = Tensor::empty({x.dim(0), as.dim(1)}, DType::f32, x.device());
  run(x.device(), LinearLoraForward{weight.packed(), scale, dropout, x, bias, as, bs, ids, y, low});
  return record(
      op, y, {x, a, b},
      [=, sample_ids = dropout.probability > 0 ? input_dropout.sample_ids : Tensor()](const Tensor& dy, const GradientSlots& d) {
        const auto stack = [](const Tensor& gradient) { return gradient.defined() ? stacked(gradient) : gradient; };
        LoraDropout again = dropout;
        if (sample_ids.defined()) again.sample = sample_ids;
        run(x.device(), LinearLoraBackward{weight.packed(), scale, again, x, as, bs, ids, low, dy, d[0], stack(d[1]), stack(d[2])});
      });
}

}  // namespace expctr
