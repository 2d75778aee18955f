// The tokens of a tokeniser: their texts, kinds and ids.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace expctr {

/// Numbers as in tokenizer.ggml.token_type.
enum class TokenKind : std::uint8_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

class Vocabulary {
 public:
  Vocabulary() = default;
  /// kinds has one entry a text, or none: then all are normal. Of several tokens with the same text the first is found.
  explicit Vocabulary(std::vector<std::string> texts, std::vector<TokenKind> kinds = {});
  Vocabulary(Vocabulary&&) = default;
  Vocabulary& operator=(Vocabulary&&) = default;

  std::int32_t size() const { return static_cast<std::int32_t>(texts_.size()); }
  bool holds(std::int32_t id) const { return id >= 0 && id < size(); }
  const std::string& text(std::int32_t id) const { return texts_[static_cast<std::size_t>(id)]; }
  TokenKind kind(std::int32_t id) const { return kinds_[static_cast<std::size_t>(id)]; }
  void set_kind(std::int32_t id, TokenKind kind) { kinds_[static_cast<std::size_t>(id)] = kind; }
  std::optional<std::int32_t> find(std::string_view text) const;
  int repeated() const { return repeated_; }  ///< tokens whose text an earlier token has

 private:
  std::vector<std::string> texts_;
  std::vector<TokenKind> kinds_;
  std::unordered_map<std::string_view, std::int32_t> ids_;  ///< views into texts_; hence move-only
  int repeated_ = 0;
};

}  // namespace expctr
