// Rewards of explanations from click predictions (specs expctr.md, section 6). Pure functions, in float64.
#pragma once

#include <string_view>

namespace expctr {

/// ln sigmoid(x), accurate for large |x|.
double log_sigmoid(double x);

/// Yes/No scores of the scorer: margin = l_yes - l_no, so p_LC = sigmoid(margin).
enum class LcForm { delta, prob, logp };
LcForm parse_lc_form(std::string_view name);
/// delta: clip(ln p(y|x,z) - ln p(y|x), -clip, clip); prob: y p + (1 - y)(1 - p); logp: max(-clip, ln p(y|x,z)).
/// `margin` with the explanation, `base_margin` without.
double lc_reward(LcForm form, int label, double margin, double base_margin, double clip);

enum class IcForm { prob, logp, delta, consistency };
IcForm parse_ic_form(std::string_view name);
/// p_ic of the click model with the explanation, p_zero of the same model with a = 0, p_id of the text-free model.
/// prob: y p_ic + (1 - y)(1 - p_ic); logp and delta as for LC; consistency: 1 - |p_ic - p_id|.
double ic_reward(IcForm form, int label, double p_ic, double p_zero, double p_id, double clip);

}  // namespace expctr
