#include "data/tokenizer/vocabulary.h"

#include <utility>

namespace expctr {

Vocabulary::Vocabulary(std::vector<std::string> texts, std::vector<TokenKind> kinds) : texts_(std::move(texts)), kinds_(std::move(kinds)) {
  kinds_.resize(texts_.size(), TokenKind::normal);
  ids_.reserve(texts_.size());
  for (std::size_t i = 0; i < texts_.size(); ++i)
    if (!ids_.emplace(texts_[i], static_cast<std::int32_t>(i)).second) ++repeated_;
}

std::optional<std::int32_t> Vocabulary::find(std::string_view text) const {
  const auto found = ids_.find(text);
  if (found == ids_.end()) return std::nullopt;
  return found->second;
}

}  // namespace expctr
