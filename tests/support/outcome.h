// Runs something as a process of its own and keeps what it said.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace expctr {

struct Outcome {
  int code = -1;       ///< exit code; -1 when a signal ended it
  int signal = 0;      ///< the signal that ended it
  std::string output;  ///< stdout
  std::string errors;  ///< stderr
};

/// `body` in a forked child, in `folder` as working directory; its result is the exit code.
Outcome in_child(const std::filesystem::path& folder, const std::function<int()>& body);

/// The built program ($EXPCTR_BINARY, else ./expctr_engine of the source tree) with these words and additional environment variables
/// ("NAME=value").
Outcome run_program(const std::filesystem::path& folder, const std::vector<std::string>& words,
                    const std::vector<std::string>& environment = {});

}  // namespace expctr
