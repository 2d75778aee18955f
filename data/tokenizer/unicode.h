// The few Unicode operations that tokenisers need, over utf8proc.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace expctr::unicode {

/// Normal form of well-formed UTF-8: C, D, or with compatibility KC, KD.
std::string normal_form(std::string_view text, bool composed, bool compatibility);
/// Normal form C of well-formed UTF-8.
inline std::string compose(std::string_view text) { return normal_form(text, true, false); }

/// Appends the canonical decomposition (form D) of the text to `out`.
std::u32string decompose(std::string_view text);

bool is_white_space(std::uint32_t code_point);      ///< property White_Space
bool is_other(std::uint32_t code_point);            ///< general categories C*: control, format, surrogate, private, unassigned
bool is_punctuation(std::uint32_t code_point);      ///< general categories P*
bool is_mark(std::uint32_t code_point);             ///< general categories M*
bool is_nonspacing_mark(std::uint32_t code_point);  ///< general category Mn
std::uint32_t lower(std::uint32_t code_point);

/// Extended grapheme clusters of well-formed UTF-8, in order.   Source: Unicode Standard Annex 29.
std::vector<std::string_view> graphemes(std::string_view text);

}  // namespace expctr::unicode
