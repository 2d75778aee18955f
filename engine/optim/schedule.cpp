#include "engine/optim/schedule.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.h"

namespace expctr {

double LearningRateSchedule::factor(std::int64_t step) const {
  if (step < warm_up) return static_cast<double>(step + 1) / static_cast<double>(warm_up);
  if (kind == LearningRateKind::constant) return 1.0;
  const double length = static_cast<double>(std::max<std::int64_t>(1, steps - warm_up));
  const double progress = std::min(1.0, static_cast<double>(step - warm_up) / length);
  return floor + (1.0 - floor) * 0.5 * (1.0 + std::cos(std::numbers::pi * progress));
}

LearningRateKind parse_learning_rate_kind(std::string_view name) {
  if (name == "constant") return LearningRateKind::constant;
  if (name == "cosine") return LearningRateKind::cosine;
  throw UsageError(fmt::format("unknown learning-rate schedule '{}'", name), "constant or cosine");
}

}  // namespace expctr
