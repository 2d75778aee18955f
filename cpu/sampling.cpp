// Sampling from logits: one row is one piece of work. 12 bytes of scratch a class; bound by the exponentials, with top_p by partial
// sorting.
#include "cpu/sampling.h"

#include <algorithm>
#include <cmath>

#include "base/kernels/sampling.h"
#include "cpu/kernel_table.h"
#include "cpu/run.h"
#include "cpu/shape_check.h"
#include "cpu/softmax_total.h"
#include "cpu/thread_pool.h"

namespace expctr::cpu {
namespace {

/// Sum with a running compensation (Neumaier): a cut at exactly top_p must not hang on rounding.
class ExactSum {
 public:
  void add(double x) {
    const double next = sum_ + x;
    rest_ += std::abs(sum_) >= std::abs(x) ? (sum_ - next) + x : (x - next) + sum_;
    sum_ = next;
  }
  double value() const { return sum_ + rest_; }

 private:
  double sum_ = 0, rest_ = 0;
};

/// Divided as the fused cross-entropy does: by a product with the rounded inverse in float.
float scaled(float logit, double temperature) { return logit * static_cast<float>(1.0 / temperature); }
double scaled(double logit, double temperature) { return logit / temperature; }

template <class T>
std::int64_t first_maximum(const T* x, std::int64_t n) {
  return std::max_element(x, x + n) - x;
}

}  // namespace

template <class T>
void sampling_probabilities(const T* logits, std::int64_t classes, const SamplingRule& rule, double* probability, std::int32_t* order) {
  std::fill_n(probability, classes, 0.0);
  const std::int64_t best = first_maximum(logits, classes);
  if (rule.temperature == 0) {
    probability[best] = 1;
    return;
  }
  std::int64_t kept = 0;
  for (std::int64_t i = 0; i < classes; ++i)
    if (logits[i] > -INFINITY) order[kept++] = static_cast<std::int32_t>(i);
  const auto better = [&](std::int32_t a, std::int32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; };
  if (rule.top_k > 0 && rule.top_k < kept) {
    std::nth_element(order, order + rule.top_k, order + kept, better);
    kept = rule.top_k;
  }
  const T top = scaled(logits[best], rule.temperature);
  ExactSum total;
  for (std::int64_t i = 0; i < kept; ++i) {
    probability[order[i]] = std::exp(static_cast<double>(scaled(logits[order[i]], rule.temperature)) - static_cast<double>(top));
    total.add(probability[order[i]]);
  }
  const std::int64_t all = kept;
  if (rule.top_p < 1) {
    ExactSum sum;
    std::int64_t n = 0, sorted = 0;
    while (n < all) {
      if (n == sorted) {  // most distributions are cut after a few: sort in growing pieces
        sorted = std::min(all, std::max<std::int64_t>(64, 8 * sorted));
        std::partial_sort(order + n, order + sorted, order + all, better);
      }
      sum.add(probability[order[n++]] / total.value());
      if (sum.value() >= rule.top_p) break;
    }
    kept = n;
  }
  for (std::int64_t i = kept; i < all; ++i) probability[order[i]] = 0;
  total = {};
  for (std::int64_t i = 0; i < kept; ++i) {
    double& p = probability[order[i]];
    if (p < rule.min_p) p = 0;  // the best one has 1 here
    total.add(p);
  }
  if (!(total.value() > 0)) {
    std::fill_n(probability, classes, 0.0);
    probability[0] = 1;
    return;
  }
  for (std::int64_t i = 0; i < kept; ++i) probability[order[i]] /= total.value();
}

template void sampling_probabilities(const float*, std::int64_t, const SamplingRule&, double*, std::int32_t*);
template void sampling_probabilities(const double*, std::int64_t, const SamplingRule&, double*, std::int32_t*);

template <>
std::size_t scratch_bytes(const SampleToken& args) {
  return args.logits.size() * (sizeof(double) + sizeof(std::int32_t));
}

template <>
void run(const SampleToken& args, Stream) {
  const std::int64_t rows = args.logits.rows(), classes = args.logits.width();
  const auto check = [&](bool holds, const char* rule) {
    require_arguments(holds, "SampleToken", rule,
                      {{"logits", args.logits},
                       {"u", args.u},
                       {"token", args.token},
                       {"log_probability", args.log_probability},
                       {"scratch", args.scratch}});
  };
  check(args.logits.dtype == DType::f32 && args.logits.rank == 2 && classes > 0, "logits are f32 [rows, classes]");
  check(args.u.dtype == DType::f32 && args.u.size() == rows && args.token.dtype == DType::i32 && args.token.size() == rows &&
            args.log_probability.dtype == DType::f32 && args.log_probability.size() == rows,
        "u is f32, token i32, log_probability f32, all [rows]");
  check(dtype_bytes(args.scratch.dtype, args.scratch.size()) >= scratch_bytes(args), "scratch has scratch_bytes()");
  if (!(args.temperature >= 0) || !(args.top_p > 0) || args.top_k < 0 || !(args.min_p >= 0 && args.min_p <= 1))
    throw ShapeError("SampleToken: temperature, top_k, top_p or min_p out of range",
                     "temperature >= 0, top_k >= 0, 0 < top_p <= 1, 0 <= min_p <= 1");
  const KernelTable& table = kernels();
  const SamplingRule rule{args.temperature, args.top_k, args.top_p, args.min_p};
  const double temperature = args.temperature == 0 ? 1.0 : args.temperature;
  double* all_probabilities = args.scratch.as<double>();
  std::int32_t* all_orders = reinterpret_cast<std::int32_t*>(all_probabilities + rows * classes);
  parallel_for(rows, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const float* logits = args.logits.as<float>() + row * classes;
      std::int64_t token = 0;
      if (args.temperature == 0) {
        token = first_maximum(logits, classes);
      } else {
        double* probability = all_probabilities + row * classes;
        sampling_probabilities(logits, classes, rule, probability, all_orders + row * classes);
        const double u = args.u.as<float>()[row];
        double sum = 0;
        for (std::int64_t i = 0; i < classes; ++i) {
          if (probability[i] == 0) continue;
          token = i;  // should rounding leave the sum below u, the last one stands
          sum += probability[i];
          if (sum > u) break;
        }
      }
      SoftmaxTotal total;
      for (std::int64_t n = 0; n < classes; n += vocabulary_tile) {
        SoftmaxPart part;
        table.softmax_part(logits + n, std::min(vocabulary_tile, classes - n), static_cast<float>(1.0 / temperature), &part);
        total.add(part);
      }
      args.token.as<std::int32_t>()[row] = static_cast<std::int32_t>(token);
      args.log_probability.as<float>()[row] = static_cast<float>(total.log_probability(scaled(logits[token], temperature)));
    }
  });
}

}  // namespace expctr::cpu
