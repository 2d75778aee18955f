// Learning rate as a function of the step.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace expctr {

enum class LearningRateKind { constant, cosine };

/// Factor of the learning rate for step s = 0 .. steps - 1. While s < warm_up: (s + 1) / warm_up. Then constant: 1;
/// cosine: floor + (1 - floor) (1 + cos(pi (s - warm_up) / (steps - warm_up))) / 2, never below `floor`; steps beyond the last keep its end
/// value. Source: Loshchilov and Hutter 2017 (one cycle, no restart).
struct LearningRateSchedule {
  LearningRateKind kind = LearningRateKind::constant;
  std::int64_t warm_up = 0;
  std::int64_t steps = 1;  ///< of the whole run; used by cosine
  double floor = 0.0;

  double factor(std::int64_t step) const;
};

/// "constant" or "cosine". Throws UsageError.
LearningRateKind parse_learning_rate_kind(std::string_view name);

}  // namespace expctr
