// Cutting text at the tokens that stand for themselves.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer/vocabulary.h"

namespace expctr {

/// A stretch of text: a special token (id >= 0) or text to be encoded (id -1).
struct Fragment {
  std::string_view text;
  std::int32_t id = -1;
};

/// A token that swallows the white space before (left) or behind it (right), as `lstrip` and `rstrip` in tokenizer.json.
struct StripRule {
  std::int32_t id = 0;
  bool left = false, right = false;
};

/// Finds special tokens in text, leftmost first, the longest of those that start at one place.
class SpecialTokens {
 public:
  SpecialTokens() = default;
  explicit SpecialTokens(const Vocabulary& vocabulary, const std::vector<StripRule>& strip_rules = {});

  /// User-defined tokens are always found; control tokens and the unknown token only when `parse_special`. No fragment is empty.
  std::vector<Fragment> split(std::string_view text, bool parse_special) const;

 private:
  struct Token {
    std::string text;
    std::int32_t id = 0;
    bool always = false, strip_left = false, strip_right = false;
  };
  const Token* at(std::string_view text, bool parse_special) const;

  std::array<std::vector<Token>, 256> by_first_byte_;  ///< longest first
};

}  // namespace expctr
