// What the tests of commands share: the program's answers as JSON, and where the small real model is.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "tests/support/outcome.h"

namespace expctr {

/// The lines of stdout as JSON; throws where one is not.
std::vector<nlohmann::json> json_lines(const Outcome& outcome);
/// Writes objects as JSON lines; returns the path as text.
std::string write_json_lines(const std::filesystem::path& path, const std::vector<nlohmann::json>& objects);

}  // namespace expctr
