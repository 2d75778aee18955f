// p_LC: how likely a language model answers Yes to a scorer prompt.
#pragma once

#include <span>
#include <vector>

#include "inference/language_model.h"
#include "models/lora.h"

namespace expctr {

class AnswerScorer {
 public:
  /// `adapter` (or null for the base model) acts above the store's split.
  AnswerScorer(PrefixStore& store, const LoraAdapter* adapter, LanguageModel::Answers answers);

  /// l_yes - l_no at the answer position of each prompt; p(Yes) = sigmoid of it. `remember`: keep the prompts' lower blocks.
  std::vector<double> margins(std::span<const Tokens> prompts, bool remember = false);

 private:
  PrefixStore& store_;
  const LoraAdapter* adapter_;
  Linear head_;
};

}  // namespace expctr
