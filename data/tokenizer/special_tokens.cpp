#include "data/tokenizer/special_tokens.h"

#include <algorithm>

namespace expctr {
namespace {

bool is_blank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

}  // namespace

SpecialTokens::SpecialTokens(const Vocabulary& vocabulary, const std::vector<StripRule>& strip_rules) {
  for (std::int32_t id = 0; id < vocabulary.size(); ++id) {
    const TokenKind kind = vocabulary.kind(id);
    const bool special = kind == TokenKind::control || kind == TokenKind::unknown || kind == TokenKind::user_defined;
    const std::string& text = vocabulary.text(id);
    if (!special || text.empty() || vocabulary.find(text) != id) continue;
    Token token{text, id, kind == TokenKind::user_defined};
    for (const StripRule& rule : strip_rules) {
      if (rule.id != id) continue;
      token.strip_left = rule.left;
      token.strip_right = rule.right;
    }
    by_first_byte_[static_cast<unsigned char>(text[0])].push_back(std::move(token));
  }
  for (std::vector<Token>& tokens : by_first_byte_)
    std::stable_sort(tokens.begin(), tokens.end(), [](const Token& a, const Token& b) { return a.text.size() > b.text.size(); });
}

const SpecialTokens::Token* SpecialTokens::at(std::string_view text, bool parse_special) const {
  for (const Token& token : by_first_byte_[static_cast<unsigned char>(text[0])])
    if ((parse_special || token.always) && text.starts_with(token.text)) return &token;
  return nullptr;
}

std::vector<Fragment> SpecialTokens::split(std::string_view text, bool parse_special) const {
  std::vector<Fragment> fragments;
  std::size_t start = 0, i = 0;
  while (i < text.size()) {
    const Token* token = at(text.substr(i), parse_special);
    if (token == nullptr) {
      ++i;
      continue;
    }
    std::size_t first = i, last = i + token->text.size();
    while (token->strip_left && first > start && is_blank(text[first - 1])) --first;
    while (token->strip_right && last < text.size() && is_blank(text[last])) ++last;
    if (first > start) fragments.push_back({text.substr(start, first - start)});
    fragments.push_back({text.substr(first, last - first), token->id});
    start = i = last;
  }
  if (start < text.size()) fragments.push_back({text.substr(start)});
  return fragments;
}

}  // namespace expctr
