#include "data/tokenizer/word_piece.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "data/tokenizer/unicode.h"
#include "engine/io/utf8.h"

namespace expctr {
namespace {

bool is_cjk(std::uint32_t c) {
  const auto within = [c](std::uint32_t first, std::uint32_t last) { return c >= first && c <= last; };
  return within(0x4E00, 0x9FFF) || within(0x3400, 0x4DBF) || within(0x20000, 0x2A6DF) || within(0x2A700, 0x2B73F) ||
         within(0x2B740, 0x2B81F) || within(0x2B820, 0x2CEAF) || within(0xF900, 0xFAFF) || within(0x2F800, 0x2FA1F);
}

/// BERT counts all printable ASCII that is no letter, digit or blank as punctuation.
bool is_bert_punctuation(std::uint32_t c) {
  if (c < 0x80) return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') || (c >= '{' && c <= '~');
  return unicode::is_punctuation(c);
}

/// Bytes that are no UTF-8 become U+FFFD, which cleaning removes.
std::string well_formed(std::string_view text) {
  std::string result;
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = utf8_length(text.substr(i));
    if (length == 0)
      append_utf8(result, 0xFFFD);
    else
      result += text.substr(i, length);
    i += std::max<std::size_t>(1, length);
  }
  return result;
}

}  // namespace

WordPiece::WordPiece(TokenizerParts parts, std::string start, std::string inside, Options options, const std::string& file)
    : Tokenizer(std::move(parts)), options_(options), start_(std::move(start)), inside_(std::move(inside)) {
  if (!unknown()) throw InputError(file + ": a WordPiece vocabulary without unknown token", "fetch the model again");
  for (std::int32_t id = 0; id < tokens().size(); ++id) longest_piece_ = std::max(longest_piece_, tokens().text(id).size());
}

std::vector<std::string> WordPiece::words(std::string_view text) const {
  std::string cleaned;
  const std::string repaired = !is_utf8(text) ? well_formed(text) : std::string();
  const std::string_view source = repaired.empty() ? text : std::string_view(repaired);
  for (std::size_t i = 0; i < source.size(); i += utf8_length(source.substr(i))) {
    const std::uint32_t c = utf8_code_point(source.substr(i));
    const bool blank = unicode::is_white_space(c);
    if (options_.clean_text && !blank && (c == 0 || c == 0xFFFD || unicode::is_other(c))) continue;
    const bool alone = options_.cjk_alone && is_cjk(c);
    if (alone || (options_.clean_text && blank)) cleaned += ' ';
    if (!(options_.clean_text && blank)) append_utf8(cleaned, c);
    if (alone) cleaned += ' ';
  }

  std::vector<std::string> result(1);
  const auto add = [&](std::uint32_t c) {
    if (options_.lower_case) c = unicode::lower(c);
    if (unicode::is_white_space(c)) {
      if (!result.back().empty()) result.emplace_back();
    } else if (is_bert_punctuation(c)) {
      if (!result.back().empty()) result.emplace_back();
      append_utf8(result.back(), c);
      result.emplace_back();
    } else {
      append_utf8(result.back(), c);
    }
  };
  if (options_.strip_accents) {
    for (const char32_t c : unicode::decompose(cleaned))
      if (!unicode::is_nonspacing_mark(c)) add(c);
  } else {
    const std::string_view view = cleaned;
    for (std::size_t i = 0; i < view.size(); i += utf8_length(view.substr(i))) add(utf8_code_point(view.substr(i)));
  }
  if (result.back().empty()) result.pop_back();
  return result;
}

void WordPiece::encode_word(const std::string& word, std::vector<std::int32_t>& ids) const {
  const std::size_t before = ids.size();
  const auto characters = static_cast<std::size_t>(std::count_if(word.begin(), word.end(), [](char c) { return (c & 0xC0) != 0x80; }));
  if (characters > options_.longest_word) return ids.push_back(*unknown());
  std::string candidate;
  for (std::size_t at = 0; at < word.size();) {
    candidate = (at == 0 ? start_ : inside_);
    const std::size_t mark = candidate.size();
    candidate += word.substr(at, longest_piece_);
    std::optional<std::int32_t> id;
    while (candidate.size() > mark && !(id = tokens().find(candidate))) {
      do candidate.pop_back();
      while (candidate.size() > mark && at + candidate.size() - mark < word.size() && (word[at + candidate.size() - mark] & 0xC0) == 0x80);
    }
    if (!id) {
      ids.resize(before);
      return ids.push_back(*unknown());
    }
    ids.push_back(*id);
    at += candidate.size() - mark;
  }
}

void WordPiece::encode_fragment(std::string_view text, bool /*at_start*/, std::vector<std::int32_t>& ids) const {
  for (const std::string& word : words(text)) encode_word(word, ids);
}

std::string WordPiece::plain_bytes(std::int32_t id) const {
  const std::string& text = tokens().text(id);
  if (inside_.empty()) return text.starts_with(start_) ? " " + text.substr(start_.size()) : text;
  return text.starts_with(inside_) ? text.substr(inside_.size()) : " " + text;
}

}  // namespace expctr
