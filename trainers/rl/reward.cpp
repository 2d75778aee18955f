#include "trainers/rl/reward.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"

namespace expctr {

double log_sigmoid(double x) { return x < 0.0 ? x - std::log1p(std::exp(x)) : -std::log1p(std::exp(-x)); }

LcForm parse_lc_form(std::string_view name) {
  if (name == "delta") return LcForm::delta;
  if (name == "prob") return LcForm::prob;
  if (name == "logp") return LcForm::logp;
  throw UsageError(fmt::format("reward.lc.form: '{}'", name), "one of delta, prob, logp");
}

double lc_reward(LcForm form, int label, double margin, double base_margin, double clip) {
  const double sign = label != 0 ? 1.0 : -1.0;
  switch (form) {
    case LcForm::delta: return std::clamp(log_sigmoid(sign * margin) - log_sigmoid(sign * base_margin), -clip, clip);
    case LcForm::prob: return std::exp(log_sigmoid(sign * margin));
    case LcForm::logp: return std::max(-clip, log_sigmoid(sign * margin));
  }
  return 0.0;
}

IcForm parse_ic_form(std::string_view name) {
  if (name == "prob") return IcForm::prob;
  if (name == "logp") return IcForm::logp;
  if (name == "delta") return IcForm::delta;
  if (name == "consistency") return IcForm::consistency;
  throw UsageError(fmt::format("reward.ic.form: '{}'", name), "one of prob, logp, delta, consistency");
}

double ic_reward(IcForm form, int label, double p_ic, double p_zero, double p_id, double clip) {
  const auto agreement = [label](double p) { return label != 0 ? p : 1.0 - p; };
  // A probability rounded to 0 has a finite logarithm: far below any clip, and no NaN in a difference of two of them.
  const auto log_agreement = [&](double p) { return std::log(std::max(agreement(p), std::numeric_limits<double>::min())); };
  switch (form) {
    case IcForm::prob: return agreement(p_ic);
    case IcForm::logp: return std::max(-clip, log_agreement(p_ic));
    case IcForm::delta: return std::clamp(log_agreement(p_ic) - log_agreement(p_zero), -clip, clip);
    case IcForm::consistency: return 1.0 - std::abs(p_ic - p_id);
  }
  return 0.0;
}

}  // namespace expctr
