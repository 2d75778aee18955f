// Text from a file that nobody trusts, made fit for an error message.
#pragma once

#include <string>
#include <string_view>

namespace expctr {

/// 'text' with everything but printable ASCII and well-formed letters of other scripts escaped (\x1b), cut after 80 bytes.
std::string quoted_text(std::string_view text);

/// True when the bytes are well-formed UTF-8 (no surrogates, no overlong forms).
bool is_utf8(std::string_view text);

}  // namespace expctr
