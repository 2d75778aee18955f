// Tokens spelled <0xAB>: what is no token otherwise becomes its bytes.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "data/tokenizer/vocabulary.h"

namespace expctr {

/// 0..255 for a token spelled <0xAB>, else -1.
int spelled_byte(std::string_view text);

class ByteTokens {
 public:
  ByteTokens() { ids_.fill(-1); }
  /// Takes the tokens of kind `byte`; the first of several for one byte.
  explicit ByteTokens(const Vocabulary& vocabulary);
  /// Appends the ids of all bytes; false, and nothing, when one of them has no token.
  bool append(std::string_view text, std::vector<std::int32_t>& ids) const;

 private:
  std::array<std::int32_t, 256> ids_;
};

}  // namespace expctr
