// Losses. Logits and values are activations, b bytes an element, the rest is f32. Cross-entropy: one pass over a row's logits with a
// running maximum and sum (b bytes an element, one exponential each), its gradient 3 b bytes an element; the others are elementwise. All
// bound by memory. A target that is no class gives NaN: a kernel cannot throw.
#include "base/kernels/loss.h"
#include "base/scalar_math.h"
#include "cuda/map.cuh"
#include "cuda/online_softmax.cuh"
#include "cuda/rows.cuh"

namespace expctr::cuda {

namespace {

template <int Lanes, class S>
__global__ void __launch_bounds__(block_threads)
    cross_entropy_kernel(std::int64_t rows, std::int64_t classes, const S* logits, const std::int32_t* targets, float* log_probability,
                         float* log_sum_exp) {
  __shared__ float shared[8];
  const std::int64_t row = Lanes == 32 ? static_cast<std::int64_t>(blockIdx.x) * (block_threads / 32) + threadIdx.x / 32 : blockIdx.x;
  const int lane = static_cast<int>(threadIdx.x) % Lanes;
  if (row >= rows) return;
  const std::int32_t target = targets[row];
  OnlineSum sum;
  logits += row * classes;
  visit_packets<Lanes>(
      lane, classes, [&](const auto& values) { sum.add_packet(values); }, logits);
  const float most = group_reduce<Lanes, true>(sum.maximum, shared);
  const float total = group_reduce<Lanes>(sum.sum_at(most), shared);
  if (lane == 0) {
    const float log_sum = most + logf(total);
    log_sum_exp[row] = log_sum;
    log_probability[row] = target < 0 ? 0.0f : target < classes ? widen(logits[target]) - log_sum : NAN;
  }
}

template <int Lanes, class S>
__global__ void __launch_bounds__(block_threads)
    cross_entropy_backward_kernel(std::int64_t rows, std::int64_t classes, const S* logits, const std::int32_t* targets,
                                  const float* log_sum_exp, const float* dlog_probability, S* dlogits) {
  const std::int64_t row = Lanes == 32 ? static_cast<std::int64_t>(blockIdx.x) * (block_threads / 32) + threadIdx.x / 32 : blockIdx.x;
  const int lane = static_cast<int>(threadIdx.x) % Lanes;
  if (row >= rows) return;
  const std::int32_t target = targets[row];
  if (target < 0) return;
  const float log_sum = log_sum_exp[row], gradient = dlog_probability[row];
  map_row<Lanes>(
      lane, classes, dlogits + row * classes,
      [&](std::int64_t c, float old, float logit) { return old + gradient * ((c == target ? 1.0f : 0.0f) - expf(logit - log_sum)); },
      dlogits + row * classes, logits + row * classes);
}

struct Bce {
  __device__ void operator()(const float (&in)[2], float (&out)[1]) const { out[0] = scalar::softplus(in[0]) - in[1] * in[0]; }
};
struct BceGradient {
  __device__ void operator()(const float (&in)[4], float (&out)[1]) const { out[0] = in[3] + in[2] * (scalar::sigmoid(in[0]) - in[1]); }
};

struct PolicyTerms {
  float rho, unclipped, clipped;
  __device__ __forceinline__ PolicyTerms(float clip, float log_probability, float old, float advantage) {
    rho = expf(log_probability - old);
    unclipped = -advantage * rho;
    clipped = -advantage * fminf(fmaxf(rho, 1.0f - clip), 1.0f + clip);
  }
};
struct PolicyLoss {
  float clip;
  __device__ void operator()(const float (&in)[3], float (&out)[2]) const {
    const PolicyTerms terms(clip, in[0], in[1], in[2]);
    out[0] = fmaxf(terms.unclipped, terms.clipped);
    out[1] = terms.clipped > terms.unclipped ? 1.0f : 0.0f;
  }
};
struct PolicyGradient {
  float clip;
  __device__ void operator()(const float (&in)[5], float (&out)[1]) const {
    const PolicyTerms terms(clip, in[0], in[1], in[2]);
    out[0] = in[4] + (terms.unclipped >= terms.clipped ? in[3] * terms.unclipped : 0.0f);
  }
};

struct ValueTerms {
  float difference, clamped;
  __device__ __forceinline__ ValueTerms(float clip, float value, float old, float target) {
    difference = value - target;
    clamped = fminf(fmaxf(value, old - clip), old + clip) - target;
  }
};
struct ValueLoss {
  float clip;
  __device__ void operator()(const float (&in)[3], float (&out)[1]) const {
    const ValueTerms terms(clip, in[0], in[1], in[2]);
    out[0] = 0.5f * fmaxf(terms.difference * terms.difference, terms.clamped * terms.clamped);
  }
};
/// Where the clamped term is the larger one the value is outside the clip range, so its gradient is 0.
struct ValueGradient {
  float clip;
  __device__ void operator()(const float (&in)[5], float (&out)[1]) const {
    const ValueTerms terms(clip, in[0], in[1], in[2]);
    out[0] = in[4] + (terms.difference * terms.difference >= terms.clamped * terms.clamped ? in[3] * terms.difference : 0.0f);
  }
};

}  // namespace

template <>
void run(const CrossEntropyForward& args, Stream stream) {
  require_f32("cross_entropy", {&args.log_probability, &args.log_sum_exp});
  require("cross_entropy", DType::i32, {&args.targets});
  const std::int64_t rows = args.logits.rows(), classes = args.logits.width();
  dispatch_activation(require_activations("cross_entropy", {&args.logits}), [&](auto storage) {
    using S = decltype(storage);
    dispatch_rows(rows, classes, [&](auto lanes, unsigned blocks) {
      cross_entropy_kernel<decltype(lanes)::value>
          <<<blocks, block_threads, 0, native(stream)>>>(rows, classes, args.logits.as<const S>(), args.targets.as<std::int32_t>(),
                                                         args.log_probability.as<float>(), args.log_sum_exp.as<float>());
    });
  });
  check_launch("cross_entropy");
}

template <>
void run(const CrossEntropyBackward& args, Stream stream) {
  require_f32("cross_entropy_backward", {&args.log_sum_exp, &args.dlog_probability});
  require("cross_entropy_backward", DType::i32, {&args.targets});
  const std::int64_t rows = args.logits.rows(), classes = args.logits.width();
  dispatch_activation(require_activations("cross_entropy_backward", {&args.logits, &args.dlogits}), [&](auto storage) {
    using S = decltype(storage);
    dispatch_rows(rows, classes, [&](auto lanes, unsigned blocks) {
      cross_entropy_backward_kernel<decltype(lanes)::value><<<blocks, block_threads, 0, native(stream)>>>(
          rows, classes, args.logits.as<const S>(), args.targets.as<std::int32_t>(), args.log_sum_exp.as<float>(),
          args.dlog_probability.as<float>(), args.dlogits.as<S>());
    });
  });
  check_launch("cross_entropy_backward");
}

// Of the operands below only logits, values and their gradients are activations.

template <>
void run(const BceForward& args, Stream stream) {
  require_f32("bce", {&args.labels, &args.loss});
  map<FloatOperands<0b10, 1>>("bce", require_activations("bce", {&args.logits}), Bce{}, args.loss.size(), {args.logits, args.labels},
                              {args.loss}, stream);
}

template <>
void run(const BceBackward& args, Stream stream) {
  require_f32("bce_backward", {&args.labels, &args.dloss});
  map<FloatOperands<0b0110>>("bce_backward", require_activations("bce_backward", {&args.logits, &args.dlogits}), BceGradient{},
                             args.dlogits.size(), {args.logits, args.labels, args.dloss, args.dlogits}, {args.dlogits}, stream);
}

template <>
void run(const PolicyLossForward& args, Stream stream) {
  require_f32("policy_loss", {&args.log_probability, &args.old_log_probability, &args.advantage, &args.loss, &args.clipped});
  map<3, 2>("policy_loss", PolicyLoss{static_cast<float>(args.clip)}, args.loss.size(),
            {{args.log_probability.as<float>(), args.old_log_probability.as<float>(), args.advantage.as<float>()}},
            {{args.loss.as<float>(), args.clipped.as<float>()}}, stream);
}

template <>
void run(const PolicyLossBackward& args, Stream stream) {
  require_f32("policy_loss_backward",
              {&args.log_probability, &args.old_log_probability, &args.advantage, &args.dloss, &args.dlog_probability});
  map<5, 1>("policy_loss_backward", PolicyGradient{static_cast<float>(args.clip)}, args.dlog_probability.size(),
            {{args.log_probability.as<float>(), args.old_log_probability.as<float>(), args.advantage.as<float>(), args.dloss.as<float>(),
              args.dlog_probability.as<float>()}},
            {{args.dlog_probability.as<float>()}}, stream);
}

template <>
void run(const ValueLossForward& args, Stream stream) {
  require_f32("value_loss", {&args.old_value, &args.target, &args.loss});
  map<FloatOperands<0b110, 1>>("value_loss", require_activations("value_loss", {&args.value}), ValueLoss{static_cast<float>(args.clip)},
                               args.loss.size(), {args.value, args.old_value, args.target}, {args.loss}, stream);
}

template <>
void run(const ValueLossBackward& args, Stream stream) {
  require_f32("value_loss_backward", {&args.old_value, &args.target, &args.dloss});
  map<FloatOperands<0b01110>>("value_loss_backward", require_activations("value_loss_backward", {&args.value, &args.dvalue}),
                              ValueGradient{static_cast<float>(args.clip)}, args.dvalue.size(),
                              {args.value, args.old_value, args.target, args.dloss, args.dvalue}, {args.dvalue}, stream);
}

}  // namespace expctr::cuda
