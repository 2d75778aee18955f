// The coefficient of the KL penalty.
#pragma once

#include <algorithm>
#include <cstdint>

namespace expctr {

/// beta *= 1 + clamp(KL / target - 1, -0.2, 0.2) n / horizon after each step of n samples; fixed when not adaptive.   Source: Ziegler et al. 2019, section 2.2.
class KlController {
 public:
  KlController(double coefficient, bool adaptive, double target, double horizon)
      : coefficient_(coefficient), adaptive_(adaptive), target_(target), horizon_(horizon) {}
  double coefficient() const { return coefficient_; }
  void set_coefficient(double coefficient) { coefficient_ = coefficient; }
  void update(double kl, std::int64_t samples) {
    if (!adaptive_) return;
    coefficient_ *= 1.0 + std::clamp(kl / target_ - 1.0, -0.2, 0.2) * static_cast<double>(samples) / horizon_;
  }

 private:
  double coefficient_;
  bool adaptive_;
  double target_, horizon_;
};

}  // namespace expctr
