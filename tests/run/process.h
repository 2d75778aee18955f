// The built program as a process that can be watched and killed while it runs.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "tests/support/paths.h"

namespace expctr {

/// How a process ended and what it said.
struct Ending {
  int code = -1;   ///< exit code; -1 when a signal ended it
  int signal = 0;  ///< that signal
  std::string output, errors;
};

/// $EXPCTR_BINARY, else ./expctr_engine of the source tree, started with these words and additional environment variables ("NAME=value").
/// Killed at the end of its life.
class Process {
 public:
  explicit Process(const std::vector<std::string>& words, const std::vector<std::string>& environment = {});
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  bool running();
  void signal(int number);
  /// Waits for the end, at most two minutes; then the process is killed and the ending shows that.
  Ending wait();

 private:
  TemporaryFolder said_;
  pid_t child_ = -1;
  std::optional<int> status_;
};

/// Starts the program and waits for its end.
Ending run_to_end(const std::vector<std::string>& words, const std::vector<std::string>& environment = {});

}  // namespace expctr
