// Text from a file that nobody trusts, made fit for an error message.
#pragma once

#include <string>
#include <string_view>

namespace expctr {

/// 'text' in quotes, control characters and bytes that are no UTF-8 escaped (\x1b), cut after 80 bytes.
std::string quoted_text(std::string_view text);

}  // namespace expctr
