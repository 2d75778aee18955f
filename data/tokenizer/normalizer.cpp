#include "data/tokenizer/normalizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "base/error.h"
#include "data/tokenizer/regex.h"
#include "data/tokenizer/unicode.h"
#include "engine/io/utf8.h"

namespace expctr {
namespace {

/// f on every stretch of well-formed UTF-8; other bytes as they are.
template <class F>
std::string on_well_formed(std::string_view text, F f) {
  if (is_utf8(text)) return f(text);
  std::string result;
  std::size_t start = 0;
  for (std::size_t i = 0; i <= text.size();) {
    const std::size_t length = i < text.size() ? utf8_length(text.substr(i)) : 0;
    if (length > 0) {
      i += length;
      continue;
    }
    if (i > start) result += f(text.substr(start, i - start));
    if (i < text.size()) result += text[i];
    start = ++i;
  }
  return result;
}

/// The characters for which `keeps` says so, each as `change` makes it.
template <class Change>
Normalizer::Step by_character(Change change) {
  return [change](std::string_view text) {
    return on_well_formed(text, [&](std::string_view part) {
      std::string result;
      for (std::size_t i = 0; i < part.size(); i += utf8_length(part.substr(i))) change(utf8_code_point(part.substr(i)), result);
      return result;
    });
  };
}

}  // namespace

std::string Normalizer::apply(std::string_view text) const {
  std::string result(text);
  for (const Step& step : steps_) result = step(result);
  return result;
}

Normalizer::Step unicode_form_step(UnicodeForm form) {
  return [form](std::string_view text) {
    return on_well_formed(text, [form](std::string_view part) {
      return unicode::normal_form(part, form == UnicodeForm::nfc || form == UnicodeForm::nfkc,
                                  form == UnicodeForm::nfkc || form == UnicodeForm::nfkd);
    });
  };
}

Normalizer::Step lowercase_step() {
  return by_character([](std::uint32_t c, std::string& out) {
    append_utf8(out, unicode::lower(c));
    if (c == 0x130) append_utf8(out, 0x307);  // the only letter whose lower case is two characters
  });
}

Normalizer::Step strip_accents_step() {
  return by_character([](std::uint32_t c, std::string& out) {
    if (!unicode::is_mark(c)) append_utf8(out, c);
  });
}

Normalizer::Step strip_step(bool left, bool right) {
  return [left, right](std::string_view text) {
    std::size_t begin = 0, end = 0, i = 0;
    bool inside = false;
    while (i < text.size()) {
      const std::size_t length = utf8_length(text.substr(i));
      if (length == 0 || !unicode::is_white_space(utf8_code_point(text.substr(i)))) {
        if (!inside) begin = i;
        inside = true;
        end = i + std::max<std::size_t>(1, length);
      }
      i += std::max<std::size_t>(1, length);
    }
    if (!inside) return left || right ? std::string() : std::string(text);
    if (!left) begin = 0;
    if (!right) end = text.size();
    return std::string(text.substr(begin, end - begin));
  };
}

Normalizer::Step prepend_step(std::string prefix) {
  return [prefix = std::move(prefix)](std::string_view text) { return text.empty() ? std::string() : prefix + std::string(text); };
}

Normalizer::Step replace_step(std::string from, std::string to) {
  return [from = std::move(from), to = std::move(to)](std::string_view text) {
    std::string result;
    std::size_t done = 0;
    for (std::size_t at; (at = text.find(from, done)) != text.npos; done = at + from.size()) {
      result += text.substr(done, at - done);
      result += to;
    }
    return result += text.substr(done);
  };
}

Normalizer::Step replace_pattern_step(const std::string& expression, std::string to, const std::string& file) {
  const auto regex = std::make_shared<Regex>(expression, false, file);
  return [regex, to = std::move(to)](std::string_view text) {
    return on_well_formed(text, [&](std::string_view part) {
      std::string result;
      std::size_t done = 0;
      Regex::Match match;
      while (regex->find(part, done, match)) {
        result += part.substr(done, match.begin() - done);
        result += to;
        done = match.end();
      }
      return result += part.substr(done);
    });
  };
}

Normalizer::Step nmt_step() {
  return by_character([](std::uint32_t c, std::string& out) {
    if ((c >= 1 && c <= 8) || c == 0xB || (c >= 0xE && c <= 0x1F) || c == 0x7F || c == 0x8F || c == 0x9F) return;
    const bool blank = c == 9 || c == 0xA || c == 0xC || c == 0xD || c == 0x1680 || (c >= 0x200B && c <= 0x200F) || c == 0x2028 ||
                       c == 0x2029 || c == 0x2581 || c == 0xFEFF || c == 0xFFFD;
    append_utf8(out, blank ? ' ' : c);
  });
}

namespace {

// A unit of the double array: label in the low byte, the child's place behind an offset, a flag for "a key ends below".
std::uint32_t label_of(std::uint32_t unit) { return unit & (0x80000000u | 0xFFu); }
std::uint32_t offset_of(std::uint32_t unit) { return (unit >> 10) << ((unit & (1u << 9)) >> 6); }
bool has_leaf(std::uint32_t unit) { return ((unit >> 8) & 1) != 0; }
std::uint32_t value_of(std::uint32_t unit) { return unit & 0x7FFFFFFFu; }

}  // namespace

CharacterMap::CharacterMap(std::span<const std::byte> bytes, const std::string& file) {
  const auto refuse = [&](const char* fault) {
    throw InputError(fmt::format("{}: the precompiled character map {}", file, fault), "the file is damaged; fetch the model again");
  };
  std::uint32_t trie_bytes = 0;
  if (bytes.size() < sizeof trie_bytes) refuse("is too short");
  std::memcpy(&trie_bytes, bytes.data(), sizeof trie_bytes);
  if (trie_bytes % 4 != 0 || trie_bytes < 1024 || trie_bytes > bytes.size() - sizeof trie_bytes) refuse("has a trie of an impossible size");
  units_.resize(trie_bytes / 4);
  std::memcpy(units_.data(), bytes.data() + sizeof trie_bytes, trie_bytes);
  const std::span<const std::byte> rest = bytes.subspan(sizeof trie_bytes + trie_bytes);
  texts_.assign(reinterpret_cast<const char*>(rest.data()), rest.size());
  if (texts_.empty() || texts_.back() != '\0') refuse("does not end with a whole replacement");
}

CharacterMap::Replacement CharacterMap::at_start(std::string_view text, bool shortest) const {
  Replacement found;
  std::size_t place = offset_of(units_[0]);
  for (std::size_t i = 0; i < text.size() && text[i] != '\0'; ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    place ^= byte;
    if (place >= units_.size() || label_of(units_[place]) != byte) break;
    const std::uint32_t unit = units_[place];
    place ^= offset_of(unit);
    if (!has_leaf(unit)) continue;
    if (place >= units_.size() || value_of(units_[place]) >= texts_.size()) break;
    found = {i + 1, std::string_view(texts_.c_str() + value_of(units_[place]))};
    if (shortest) break;
  }
  return found;
}

std::string CharacterMap::replace_longest(std::string_view text) const {
  std::string result;
  for (std::size_t i = 0; i < text.size();) {
    const Replacement replacement = at_start(text.substr(i), false);
    const std::size_t length = replacement.length > 0 ? replacement.length : std::max<std::size_t>(1, utf8_length(text.substr(i)));
    result += replacement.length > 0 ? replacement.text : text.substr(i, length);
    i += length;
  }
  return result;
}

std::string CharacterMap::replace_graphemes(std::string_view text) const {
  return on_well_formed(text, [&](std::string_view part) {
    std::string result;
    for (const std::string_view grapheme : unicode::graphemes(part)) {
      if (grapheme.size() < 6) {
        if (const Replacement whole = at_start(grapheme, true); whole.length > 0) {
          result += whole.text;
          continue;
        }
      }
      for (std::size_t i = 0; i < grapheme.size();) {
        const std::string_view character = grapheme.substr(i, utf8_length(grapheme.substr(i)));
        const Replacement replacement = at_start(character, true);
        result += replacement.length > 0 ? replacement.text : character;
        i += character.size();
      }
    }
    return result;
  });
}

}  // namespace expctr
