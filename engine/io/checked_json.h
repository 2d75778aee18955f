// JSON out of files that nobody trusts.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace expctr {

/// The parsed document. Throws InputError naming `file` when the text is no JSON, holds a key twice in one object (which JSON readers
/// resolve in different ways), or nests deeper than `deepest` levels.
nlohmann::json parse_checked_json(std::string_view text, const std::string& file, int deepest);

}  // namespace expctr
