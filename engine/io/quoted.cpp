#include "engine/io/quoted.h"

#include <fmt/format.h>

#include "engine/io/utf8.h"

namespace expctr {

std::string quoted_text(std::string_view text) {
  constexpr std::size_t limit = 80;
  std::string result = "'";
  std::size_t i = 0;
  while (i < text.size() && i < limit) {
    const std::size_t length = utf8_length(text.substr(i));
    const std::uint32_t code_point = length == 0 ? 0 : utf8_code_point(text.substr(i));
    if (code_point < 0x20 || (code_point >= 0x7F && code_point < 0xA0)) {
      result += fmt::format("\\x{:02x}", static_cast<unsigned char>(text[i]));
      ++i;
    } else {
      result += text.substr(i, length);
      i += length;
    }
  }
  return result + (i < text.size() ? "...'" : "'");
}

}  // namespace expctr
