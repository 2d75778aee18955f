// The two click models of stage 2, for rewarding and evaluating texts.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "models/ctr/din.h"
#include "trainers/expctr/session.h"

namespace expctr {

/// g_phi and its text-free twin, in evaluation mode (fixed statistics).
class ClickModels {
 public:
  /// From <out>/stage2. Throws UsageError when stage2 has not run.
  explicit ClickModels(ExpctrSession& session);

  struct Probabilities {
    std::vector<double> p_ic;    ///< with the text
    std::vector<double> p_zero;  ///< the same model with a = 0
    std::vector<double> p_id;    ///< the text-free model
  };
  /// Row `rows[i]` with text `texts[i]`.
  Probabilities of(std::span<const std::int32_t> rows, std::span<const std::string> texts);
  const Din& with_text() const { return with_text_; }
  const Din& text_free() const { return text_free_; }

 private:
  ExpctrSession& session_;
  Din with_text_, text_free_;
};

}  // namespace expctr
