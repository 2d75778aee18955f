#include "engine/optim/schedule.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.h"

namespace expctr {

double LearningRateSchedule::factor(std::int64_t step) const {
  if (step < warm_up) return static_cast<double>(step + 1) / static_cast<double>(warm_up);
  const double length = static_cast<double>(std::max<std::int64_t>(1, steps - warm_up));
  const double progress = std::min(1.0, static_cast<double>(step - warm_up) / length);
  switch (kind) {
    case LearningRateKind::constant:
      return 1.0;
    case LearningRateKind::cosine:
      return floor + (1.0 - floor) * 0.5 * (1.0 + std::cos(std::numbers::pi * progress));
    case LearningRateKind::linear:
      return floor + (1.0 - floor) * (1.0 - progress);
    case LearningRateKind::inverse_square_root:
      return std::max(floor, std::sqrt(static_cast<double>(std::max<std::int64_t>(1, warm_up)) / static_cast<double>(step + 1)));
    case LearningRateKind::step:
      return std::max(floor, std::pow(decay, static_cast<double>((step - warm_up) / std::max<std::int64_t>(1, every))));
  }
  return 1.0;
}

LearningRateKind parse_learning_rate_kind(std::string_view name) {
  if (name == "constant") return LearningRateKind::constant;
  if (name == "cosine") return LearningRateKind::cosine;
  if (name == "linear") return LearningRateKind::linear;
  if (name == "inverse_square_root") return LearningRateKind::inverse_square_root;
  if (name == "step") return LearningRateKind::step;
  throw UsageError(fmt::format("unknown learning-rate schedule '{}'", name), "constant, cosine, linear, inverse_square_root or step");
}

PlateauSchedule::PlateauSchedule(double rate, const PlateauOptions& options) : options_(options) {
  if (!(rate > 0)) throw UsageError(fmt::format("a learning rate of {}", rate), "it must be > 0");
  if (!(options.factor > 0 && options.factor <= 1))
    throw UsageError(fmt::format("a plateau factor of {}", options.factor), "it must lie in (0, 1]");
  if (options.patience < 1) throw UsageError(fmt::format("a plateau patience of {}", options.patience), "it must be at least 1");
  state_.rate = rate;
}

bool PlateauSchedule::observe(double value) {
  const double gain = options_.larger_is_better ? value - state_.best : state_.best - value;
  const bool better = state_.observations == 0 ? !std::isnan(value) : gain >= options_.improvement;
  if (better) {
    state_.best = value;
    state_.without_improvement = 0;
    ++state_.observations;
  } else {
    ++state_.without_improvement;
    state_.rate = std::min(state_.rate, std::max(state_.rate * options_.factor, options_.least));
    if (state_.observations > 0) ++state_.observations;
  }
  return better;
}

}  // namespace expctr
