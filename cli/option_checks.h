// Checks of option values, for `app.add_option(...)->check(...)`. CLI11's own conversions let "-1" and numbers too large through for
// unsigned types.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>

namespace expctr {

/// A whole number in decimal from `least` to `most`.
CLI::Validator whole_number(std::uint64_t least, std::uint64_t most);

/// A finite number from `least` to `most`.
CLI::Validator number(double least, double most);

}  // namespace expctr
