// Learning rate as a function of the step, or of how a monitored value develops.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace expctr {

enum class LearningRateKind { constant, cosine, linear, inverse_square_root, step };

/// Factor of the learning rate for step s = 0 .. steps - 1. While s < warm_up: (s + 1) / warm_up. Then, with f = floor and progress
/// x = (s - warm_up) / (steps - warm_up), at most 1:
///   constant: 1;  cosine: f + (1 - f) (1 + cos(pi x)) / 2;  linear: f + (1 - f) (1 - x);
///   inverse_square_root: max(f, sqrt(w / (s + 1))), w = max(1, warm_up);  step: max(f, decay^k), k = whole part of (s - warm_up) / every.
/// A function of s alone, so a resumed run goes on with the same factors; steps beyond the last keep its end value (cosine, linear).
/// Source: Loshchilov and Hutter 2017 (one cycle, no restart); Vaswani et al. 2017, equation 3.
struct LearningRateSchedule {
  LearningRateKind kind = LearningRateKind::constant;
  std::int64_t warm_up = 0;
  std::int64_t steps = 1;  ///< of the whole run; used by cosine and linear
  double floor = 0.0;
  double decay = 0.1;      ///< used by step
  std::int64_t every = 1;  ///< used by step; at least 1

  double factor(std::int64_t step) const;
};

/// "constant", "cosine", "linear", "inverse_square_root" or "step". Throws UsageError.
LearningRateKind parse_learning_rate_kind(std::string_view name);

/// Lowers the learning rate whenever a monitored value has not improved, and says when to stop.   Source: FuxiCTR (specs/ctr-models.md
/// section 1).
struct PlateauOptions {
  double factor = 0.1;        ///< learning rate x factor at every observation without improvement
  double least = 1e-6;        ///< the learning rate stays at or above it
  double improvement = 1e-6;  ///< what counts as one: value >= best + improvement (value <= best - improvement where smaller is better)
  bool larger_is_better = true;
  std::int64_t patience = 2;  ///< finished after so many observations in a row without improvement
};

class PlateauSchedule {
 public:
  /// Where it stands; what a checkpoint keeps.
  struct State {
    double rate = 0.0, best = 0.0;
    std::int64_t observations = 0, without_improvement = 0;
  };

  /// Throws UsageError for a rate <= 0, a factor outside (0, 1], or a patience below 1.
  PlateauSchedule(double rate, const PlateauOptions& options = {});

  /// Takes the value after an epoch; true when it is the best so far by the margin (the first one is). NaN is no improvement.
  bool observe(double value);
  double rate() const { return state_.rate; }
  double best() const { return state_.best; }
  bool finished() const { return state_.without_improvement >= options_.patience; }

  const State& state() const { return state_; }
  void set_state(const State& state) { state_ = state; }

 private:
  PlateauOptions options_;
  State state_;
};

}  // namespace expctr
