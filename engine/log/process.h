// The process itself: its memory, and being interrupted.
#pragma once

#include <cstdint>
#include <string>

#include "base/error.h"

namespace expctr {

/// Largest resident set so far, in bytes (VmHWM); 0 where the system does not say.
std::int64_t peak_memory_bytes();

/// SIGINT and SIGTERM from now on set a flag; a second one ends the process at once with exit code 130.
void install_interrupt_handler();
/// True once a signal came: finish the step, write a checkpoint, throw InterruptedError.
bool interrupt_requested();
/// For tests: as if no signal had come.
void clear_interrupt();

/// Ended on request after a checkpoint was written (exit code 130). `hint` says how to go on.
class InterruptedError : public Error {
 public:
  explicit InterruptedError(const std::string& message, const std::string& hint = "") : Error(message, hint, ExitCode::interrupted) {}
};

}  // namespace expctr
