#include "data/tokenizer/unicode.h"

#include <utf8proc.h>

#include <cstdlib>
#include <memory>

#include "base/error.h"
#include "engine/io/utf8.h"

namespace expctr::unicode {
namespace {

struct Free {
  void operator()(utf8proc_uint8_t* text) const { std::free(text); }
};

std::string map(std::string_view text, int options) {
  utf8proc_uint8_t* raw = nullptr;
  const utf8proc_ssize_t length = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                               static_cast<utf8proc_ssize_t>(text.size()), &raw, static_cast<utf8proc_option_t>(options));
  const std::unique_ptr<utf8proc_uint8_t, Free> owner(raw);
  if (length < 0) throw Error(std::string("normalising text failed: ") + utf8proc_errmsg(length), "give UTF-8 text");
  return std::string(reinterpret_cast<const char*>(raw), static_cast<std::size_t>(length));
}

utf8proc_category_t category(std::uint32_t code_point) { return utf8proc_category(static_cast<utf8proc_int32_t>(code_point)); }

}  // namespace

std::string normal_form(std::string_view text, bool composed, bool compatibility) {
  return map(text, UTF8PROC_STABLE | (composed ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) | (compatibility ? UTF8PROC_COMPAT : 0));
}

std::u32string decompose(std::string_view text) {
  const std::string mapped = map(text, UTF8PROC_STABLE | UTF8PROC_DECOMPOSE);
  std::u32string result;
  for (std::size_t i = 0; i < mapped.size(); i += utf8_length(std::string_view(mapped).substr(i)))
    result += static_cast<char32_t>(utf8_code_point(std::string_view(mapped).substr(i)));
  return result;
}

bool is_white_space(std::uint32_t c) {
  return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
         c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_other(std::uint32_t code_point) {
  switch (category(code_point)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
      return true;
    default:
      return false;
  }
}

bool is_punctuation(std::uint32_t code_point) {
  const utf8proc_category_t kind = category(code_point);
  return kind >= UTF8PROC_CATEGORY_PC && kind <= UTF8PROC_CATEGORY_PO;
}

bool is_mark(std::uint32_t code_point) {
  const utf8proc_category_t kind = category(code_point);
  return kind >= UTF8PROC_CATEGORY_MN && kind <= UTF8PROC_CATEGORY_ME;
}

bool is_nonspacing_mark(std::uint32_t code_point) { return category(code_point) == UTF8PROC_CATEGORY_MN; }

std::uint32_t lower(std::uint32_t code_point) {
  return static_cast<std::uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(code_point)));
}

std::vector<std::string_view> graphemes(std::string_view text) {
  std::vector<std::string_view> result;
  utf8proc_int32_t state = 0, before = 0;
  std::size_t start = 0;
  for (std::size_t i = 0; i < text.size(); i += utf8_length(text.substr(i))) {
    const auto now = static_cast<utf8proc_int32_t>(utf8_code_point(text.substr(i)));
    if (i > 0 && utf8proc_grapheme_break_stateful(before, now, &state)) {
      result.push_back(text.substr(start, i - start));
      start = i;
    }
    before = now;
  }
  if (start < text.size()) result.push_back(text.substr(start));
  return result;
}

}  // namespace expctr::unicode
