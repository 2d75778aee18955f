// The few Unicode operations that tokenisers need, over utf8proc.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace expctr::unicode {

/// Normal form C of well-formed UTF-8.
std::string compose(std::string_view text);

/// Appends the canonical decomposition (form D) of the text to `out`.
std::u32string decompose(std::string_view text);

bool is_white_space(std::uint32_t code_point);      ///< property White_Space
bool is_other(std::uint32_t code_point);            ///< general categories C*: control, format, surrogate, private, unassigned
bool is_punctuation(std::uint32_t code_point);      ///< general categories P*
bool is_nonspacing_mark(std::uint32_t code_point);  ///< general category Mn
std::uint32_t lower(std::uint32_t code_point);

}  // namespace expctr::unicode
