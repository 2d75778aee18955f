// Losses. Cross-entropy reads a row of logits twice (maximum, then sum of exponentials), bounded by exp; the others are elementwise over
// a few thousand numbers.
#include "base/kernels/loss.h"

#include <algorithm>
#include <cmath>

#include "cpu/arguments.h"
#include "cpu/dispatch.h"
#include "cpu/float_math.h"
#include "cpu/run.h"

namespace expctr::cpu {
namespace {

/// The largest of x[0] .. x[n - 1], n >= 1.
template <class T>
T maximum(const T* x, std::int64_t n) {
  constexpr int lanes = 16;
  T largest[lanes];
  for (T& lane : largest) lane = x[0];
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (int lane = 0; lane < lanes; ++lane) largest[lane] = x[i + lane] > largest[lane] ? x[i + lane] : largest[lane];
  for (; i < n; ++i) largest[0] = x[i] > largest[0] ? x[i] : largest[0];
  return *std::max_element(largest, largest + lanes);
}

void require_classes(const char* op, const View& logits, const View& targets) {
  require(logits.rank >= 1 && logits.width() >= 1, op, "logits must be [rows, classes], classes at least 1", {{"logits", logits}});
  require_ids(op, "targets", targets, logits.rows());
  require_ids_below(op, "targets", targets, logits.width());
}

void require_per_row(const char* op, const char* name, const View& vector, const View& logits) {
  require(vector.dtype == logits.dtype && vector.size() == logits.rows() && present(vector), op,
          (std::string(name) + " must have logits' dtype and one element a row").c_str(), {{"logits", logits}, {name, vector}});
}

template <class T>
T clamp(T x, T low, T high) {
  return x < low ? low : (x > high ? high : x);
}

}  // namespace

template <>
void run(const CrossEntropyForward& args, Stream) {
  require_floating("cross_entropy", {{"logits", args.logits}});
  require_classes("cross_entropy", args.logits, args.targets);
  require_per_row("cross_entropy", "log_probability", args.log_probability, args.logits);
  require_per_row("cross_entropy", "log_sum_exp", args.log_sum_exp, args.logits);
  const std::int64_t classes = args.logits.width();
  const std::int32_t* targets = args.targets.as<const std::int32_t>();
  with_floating(args.logits.dtype, [&](auto zero) {
    using T = decltype(zero);
    for_rows(args.logits.rows(), classes, heavy_grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        const T* logits = args.logits.as<const T>() + row * classes;
        const T largest = maximum(logits, classes);
        const double sum = lane_sum<T>(classes, [&](std::int64_t i) { return float_math::exp(logits[i] - largest); });
        const double log_sum_exp = static_cast<double>(largest) + std::log(sum);
        args.log_sum_exp.as<T>()[row] = static_cast<T>(log_sum_exp);
        args.log_probability.as<T>()[row] =
            targets[row] < 0 ? T(0) : static_cast<T>(static_cast<double>(logits[targets[row]]) - log_sum_exp);
      }
    });
  });
}

template <>
void run(const CrossEntropyBackward& args, Stream) {
  require_alike("cross_entropy backward", {{"logits", args.logits}, {"dlogits", args.dlogits}});
  require_classes("cross_entropy backward", args.logits, args.targets);
  require_per_row("cross_entropy backward", "log_sum_exp", args.log_sum_exp, args.logits);
  require_per_row("cross_entropy backward", "dlog_probability", args.dlog_probability, args.logits);
  const std::int64_t classes = args.logits.width();
  const std::int32_t* targets = args.targets.as<const std::int32_t>();
  with_floating(args.logits.dtype, [&](auto zero) {
    using T = decltype(zero);
    for_rows(args.logits.rows(), classes, heavy_grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        if (targets[row] < 0) continue;
        const T* logits = args.logits.as<const T>() + row * classes;
        T* dlogits = args.dlogits.as<T>() + row * classes;
        const T log_sum_exp = args.log_sum_exp.as<const T>()[row], d = args.dlog_probability.as<const T>()[row];
        for (std::int64_t i = 0; i < classes; ++i) dlogits[i] -= d * float_math::exp(logits[i] - log_sum_exp);
        dlogits[targets[row]] += d;
      }
    });
  });
}

template <>
void run(const BceForward& args, Stream) {
  require_alike("bce", {{"logits", args.logits}, {"labels", args.labels}, {"loss", args.loss}});
  with_floating(args.logits.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T *logits = args.logits.as<const T>(), *labels = args.labels.as<const T>();
    T* loss = args.loss.as<T>();
    for_pieces(args.logits.size(), heavy_grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) loss[i] = scalar::softplus(logits[i]) - labels[i] * logits[i];
    });
  });
}

template <>
void run(const BceBackward& args, Stream) {
  require_alike("bce backward", {{"logits", args.logits}, {"labels", args.labels}, {"dloss", args.dloss}, {"dlogits", args.dlogits}});
  with_floating(args.logits.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T *logits = args.logits.as<const T>(), *labels = args.labels.as<const T>(), *dloss = args.dloss.as<const T>();
    T* dlogits = args.dlogits.as<T>();
    for_pieces(args.logits.size(), heavy_grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) dlogits[i] += dloss[i] * (float_math::sigmoid(logits[i]) - labels[i]);
    });
  });
}

template <>
void run(const PolicyLossForward& args, Stream) {
  require_alike("policy_loss", {{"log_probability", args.log_probability},
                                {"old_log_probability", args.old_log_probability},
                                {"advantage", args.advantage},
                                {"loss", args.loss},
                                {"clipped", args.clipped}});
  with_floating(args.loss.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T *now = args.log_probability.as<const T>(), *old = args.old_log_probability.as<const T>(),
            *advantage = args.advantage.as<const T>();
    T *loss = args.loss.as<T>(), *clipped = args.clipped.as<T>();
    const T low = static_cast<T>(1 - args.clip), high = static_cast<T>(1 + args.clip);
    for_pieces(args.loss.size(), heavy_grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const T ratio = float_math::exp(now[i] - old[i]), plain = -advantage[i] * ratio, bounded = -advantage[i] * clamp(ratio, low, high);
        loss[i] = bounded > plain ? bounded : plain;
        clipped[i] = bounded > plain ? T(1) : T(0);
      }
    });
  });
}

template <>
void run(const PolicyLossBackward& args, Stream) {
  require_alike("policy_loss backward", {{"log_probability", args.log_probability},
                                         {"old_log_probability", args.old_log_probability},
                                         {"advantage", args.advantage},
                                         {"dloss", args.dloss},
                                         {"dlog_probability", args.dlog_probability}});
  with_floating(args.dloss.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T *now = args.log_probability.as<const T>(), *old = args.old_log_probability.as<const T>(),
            *advantage = args.advantage.as<const T>();
    const T* dloss = args.dloss.as<const T>();
    T* dnow = args.dlog_probability.as<T>();
    const T low = static_cast<T>(1 - args.clip), high = static_cast<T>(1 + args.clip);
    for_pieces(args.dloss.size(), heavy_grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const T ratio = float_math::exp(now[i] - old[i]), plain = -advantage[i] * ratio, bounded = -advantage[i] * clamp(ratio, low, high);
        dnow[i] += bounded > plain ? T(0) : dloss[i] * plain;
      }
    });
  });
}

template <>
void run(const ValueLossForward& args, Stream) {
  require_alike("value_loss", {{"value", args.value}, {"old_value", args.old_value}, {"target", args.target}, {"loss", args.loss}});
  with_floating(args.loss.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T *value = args.value.as<const T>(), *old = args.old_value.as<const T>(), *target = args.target.as<const T>();
    T* loss = args.loss.as<T>();
    const T clip = static_cast<T>(args.clip);
    for_pieces(args.loss.size(), cheap_grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const T plain = value[i] - target[i], bounded = clamp(value[i], old[i] - clip, old[i] + clip) - target[i];
        const T a = plain * plain, b = bounded * bounded;
        loss[i] = T(0.5) * (b > a ? b : a);
      }
    });
  });
}

// Where the bounded term is the larger one, the bound is active and does not move with the value: no gradient.
template <>
void run(const ValueLossBackward& args, Stream) {
  require_alike(
      "value_loss backward",
      {{"value", args.value}, {"old_value", args.old_value}, {"target", args.target}, {"dloss", args.dloss}, {"dvalue", args.dvalue}});
  with_floating(args.dloss.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T *value = args.value.as<const T>(), *old = args.old_value.as<const T>(), *target = args.target.as<const T>();
    const T* dloss = args.dloss.as<const T>();
    T* dvalue = args.dvalue.as<T>();
    const T clip = static_cast<T>(args.clip);
    for_pieces(args.dloss.size(), cheap_grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const T plain = value[i] - target[i], bounded = clamp(value[i], old[i] - clip, old[i] + clip) - target[i];
        dvalue[i] += bounded * bounded > plain * plain ? T(0) : dloss[i] * plain;
      }
    });
  });
}

}  // namespace expctr::cpu
