#include "data/tokenizer/byte_tokens.h"

#include <algorithm>
#include <charconv>

namespace expctr {

int spelled_byte(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text.back() != '>') return -1;
  int byte = 0;
  const auto [end, error] = std::from_chars(text.data() + 3, text.data() + 5, byte, 16);
  return error == std::errc() && end == text.data() + 5 && byte >= 0 ? byte : -1;
}

ByteTokens::ByteTokens(const Vocabulary& vocabulary) : ByteTokens() {
  for (std::int32_t id = 0; id < vocabulary.size(); ++id) {
    if (vocabulary.kind(id) != TokenKind::byte) continue;
    const int byte = spelled_byte(vocabulary.text(id));
    if (byte >= 0 && ids_[static_cast<std::size_t>(byte)] < 0) ids_[static_cast<std::size_t>(byte)] = id;
  }
}

bool ByteTokens::append(std::string_view text, std::vector<std::int32_t>& ids) const {
  const auto id_of = [&](char c) { return ids_[static_cast<unsigned char>(c)]; };
  if (!std::all_of(text.begin(), text.end(), [&](char c) { return id_of(c) >= 0; })) return false;
  for (const char c : text) ids.push_back(id_of(c));
  return true;
}

}  // namespace expctr
