// Sampling from logits: one row is one piece of work. 12 bytes of scratch a class; bound by the exponentials, with top_p by partial
// sorting.
#include "cpu/sampling.h"

#include <algorithm>
#include <cmath>

#include "base/blocks.h"
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

/// out[i] = exp(scaled logit i - top).
void exponentials(const float* logits, std::int64_t classes, double temperature, float top, double* out) {
  const KernelTable& table = kernels();
  float tile[vocabulary_tile];
  for (std::int64_t n = 0; n < classes; n += vocabulary_tile) {
    const std::int64_t count = std::min(vocabulary_tile, classes - n);
    table.softmax_row(logits + n, count, static_cast<float>(1.0 / temperature), top, tile);
    std::copy_n(tile, count, out + n);
  }
}
void exponentials(const double* logits, std::int64_t classes, double temperature, double top, double* out) {
  for (std::int64_t i = 0; i < classes; ++i) out[i] = std::exp(scaled(logits[i], temperature) - top);
}

/// A candidate: its id in the low half. Float candidates carry their logit in the high half, so that smaller numbers are better ones.
std::uint64_t candidate(float logit, std::int64_t id) {
  const std::uint32_t bits = bits_of_float(logit + 0.0f);  // no negative zero
  const std::uint32_t rising = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return std::uint64_t{~rising} << 32 | static_cast<std::uint32_t>(id);
}
std::uint64_t candidate(double, std::int64_t id) { return static_cast<std::uint64_t>(id); }

std::int64_t id_of(std::uint64_t candidate) { return static_cast<std::int64_t>(candidate & 0xFFFFFFFFu); }

bool better(const float*, std::uint64_t a, std::uint64_t b) { return a < b; }
bool better(const double* logits, std::uint64_t a, std::uint64_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; }

/// Moves the shortest prefix, best first, whose share of `total` reaches top_p to the front of order; returns its length.
template <class Better>
std::int64_t cut_at_mass(std::uint64_t* order, std::int64_t n, const double* probability, double total, double top_p,
                         const Better& is_better) {
  constexpr std::int64_t few = 64;
  ExactSum before;  // share of order[0 .. low)
  std::int64_t low = 0, high = n;
  while (high - low > few) {
    // A quarter first: most of the mass sits in few candidates.
    const std::int64_t middle = low + (high - low) / 4;
    std::nth_element(order + low, order + middle, order + high, is_better);
    ExactSum sum = before;
    for (std::int64_t i = low; i < middle; ++i) sum.add(probability[id_of(order[i])] / total);
    if (sum.value() >= top_p) {
      high = middle;
    } else {
      before = sum;
      low = middle;
    }
  }
  std::sort(order + low, order + high, is_better);
  while (low < high) {
    before.add(probability[id_of(order[low++])] / total);
    if (before.value() >= top_p) break;
  }
  return low;
}

}  // namespace

template <class T>
void sampling_probabilities(const T* logits, std::int64_t classes, const SamplingRule& rule, double* probability, std::uint64_t* order) {
  const std::int64_t best = first_maximum(logits, classes);
  if (rule.temperature == 0) {
    std::fill_n(probability, classes, 0.0);
    probability[best] = 1;
    return;
  }
  exponentials(logits, classes, rule.temperature, scaled(logits[best], rule.temperature), probability);
  if (rule.top_k > 0 || rule.top_p < 1) {
    const auto is_better = [logits](std::uint64_t a, std::uint64_t b) { return better(logits, a, b); };
    std::int64_t candidates = 0;
    for (std::int64_t i = 0; i < classes; ++i)
      if (logits[i] > -INFINITY) order[candidates++] = candidate(logits[i], i);
    std::int64_t kept = candidates;
    if (rule.top_k > 0 && rule.top_k < kept) {
      std::nth_element(order, order + rule.top_k, order + kept, is_better);
      kept = rule.top_k;
    }
    if (rule.top_p < 1) {
      ExactSum total;
      for (std::int64_t i = 0; i < kept; ++i) total.add(probability[id_of(order[i])]);
      kept = cut_at_mass(order, kept, probability, total.value(), rule.top_p, is_better);
    }
    for (std::int64_t i = kept; i < candidates; ++i) probability[id_of(order[i])] = 0;
  }
  ExactSum total;
  for (std::int64_t i = 0; i < classes; ++i) {
    if (!(probability[i] >= rule.min_p)) probability[i] = 0;  // the best one has 1 here; NaN is dropped
    total.add(probability[i]);
  }
  if (!(total.value() > 0)) {
    std::fill_n(probability, classes, 0.0);
    probability[0] = 1;
    return;
  }
  for (std::int64_t i = 0; i < classes; ++i) probability[i] /= total.value();
}

template void sampling_probabilities(const float*, std::int64_t, const SamplingRule&, double*, std::uint64_t*);
template void sampling_probabilities(const double*, std::int64_t, const SamplingRule&, double*, std::uint64_t*);

template <>
std::size_t scratch_bytes(const SampleToken& args) {
  return args.logits.size() * (sizeof(double) + sizeof(std::uint64_t));
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
  check(view_bytes(args.scratch) >= scratch_bytes(args), "scratch has scratch_bytes()");
  if (!(args.temperature >= 0) || !(args.top_p > 0) || args.top_k < 0 || !(args.min_p >= 0 && args.min_p <= 1))
    throw ShapeError("SampleToken: temperature, top_k, top_p or min_p out of range",
                     "temperature >= 0, top_k >= 0, 0 < top_p <= 1, 0 <= min_p <= 1");
  const KernelTable& table = kernels();
  const SamplingRule rule{args.temperature, args.top_k, args.top_p, args.min_p};
  const double temperature = args.temperature == 0 ? 1.0 : args.temperature;
  double* all_probabilities = args.scratch.as<double>();
  std::uint64_t* all_orders = reinterpret_cast<std::uint64_t*>(all_probabilities + rows * classes);
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
