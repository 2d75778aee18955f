// From the words of a command line to an exit code.
#pragma once

#include <string>
#include <vector>

#include "cli/commands.h"

namespace expctr {

/// Parses `words` (without the program's name), runs the command and returns the exit code (base/error.h). Errors go to stderr as "error:
/// <what, where>" and "HINT: <what to do>"; nothing is thrown.
int run_command_line(const std::vector<std::string>& words, const std::vector<Command>& commands);

/// What --version prints: version, compiler, backends, instruction sets of this processor, libraries.
std::string version_text();

}  // namespace expctr
