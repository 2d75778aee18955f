// UTF-8: finding, reading and writing characters in bytes that may be anything.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace expctr {

/// Bytes of the well-formed character at the start of `text` (which is not empty); 0 when there is none. No surrogates, no overlong forms.
std::size_t utf8_length(std::string_view text);

/// Code point of the character at the start of `text`, for which utf8_length is not 0.
std::uint32_t utf8_code_point(std::string_view text);

void append_utf8(std::string& text, std::uint32_t code_point);

bool is_utf8(std::string_view text);

}  // namespace expctr
