// From the words of a command line to an exit code.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/commands.h"

namespace expctr {

/// How --threads and --isa reach the kernels; both throw for what they cannot do. An empty one makes its option a UsageError.
struct RuntimeSettings {
  std::function<void(int)> set_threads;
  std::function<void(std::string_view)> set_isa;
};

/// Parses `words` (without the program's name), runs the command and returns the exit code (base/error.h). Errors go to stderr as "error:
/// <what, where>" and "HINT: <what to do>"; nothing is thrown.
int run_command_line(const std::vector<std::string>& words, const std::vector<Command>& commands, const RuntimeSettings& runtime);

/// What --version prints: version, compiler, backends, instruction sets of this processor, libraries.
std::string version_text();

}  // namespace expctr
