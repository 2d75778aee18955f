#include "data/tokenizer/metaspace.h"

#include <algorithm>

#include "data/tokenizer/unicode.h"
#include "engine/io/utf8.h"

namespace expctr {
namespace {

constexpr std::string_view blank = "\u2581";

std::vector<std::string_view> words(std::string_view text) {
  std::vector<std::string_view> result;
  std::size_t start = 0;
  for (std::size_t i = 0; i <= text.size();) {
    const std::size_t length = i < text.size() ? std::max<std::size_t>(1, utf8_length(text.substr(i))) : 1;
    const bool cut = i == text.size() || (utf8_length(text.substr(i)) > 0 && unicode::is_white_space(utf8_code_point(text.substr(i))));
    if (cut) {
      if (i > start) result.push_back(text.substr(start, i - start));
      start = i + length;
    }
    i += length;
  }
  return result;
}

}  // namespace

std::vector<std::string> Metaspace::spell(std::string_view text, bool at_start) const {
  std::vector<std::string> pieces;
  const std::vector<std::string_view> parts = split_blanks ? words(text) : std::vector<std::string_view>{text};
  for (const std::string_view part : parts) {
    std::string spelled;
    for (const char c : part) {
      if (c == ' ')
        spelled += blank;
      else
        spelled += c;
    }
    const bool wanted = prefix == BlankPrefix::always || (prefix == BlankPrefix::first && at_start && part.data() == text.data());
    if (wanted && !spelled.empty() && (prefix_again || !spelled.starts_with(blank))) spelled.insert(0, blank);
    for (std::size_t start = 0; start < spelled.size();) {
      const std::size_t next = split ? spelled.find(blank, start + 1) : spelled.npos;
      pieces.push_back(spelled.substr(start, next == spelled.npos ? next : next - start));
      start = std::min(next, spelled.size());
    }
  }
  return pieces;
}

std::string unspell_blanks(std::string_view spelling) {
  std::string bytes;
  for (std::size_t i = 0; i < spelling.size();) {
    if (spelling.substr(i).starts_with(blank)) {
      bytes += ' ';
      i += blank.size();
    } else {
      bytes += spelling[i++];
    }
  }
  return bytes;
}

}  // namespace expctr
