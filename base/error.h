// Errors of the whole project. A message says what went wrong, where, and ends with what to do ("HINT: ...").
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace expctr {

/// Process exit codes, the same for every command (docs/cli.md).
enum class ExitCode : int { done = 0, failed = 1, usage = 2, bad_input = 3, no_resources = 4, peer_failed = 5, interrupted = 130 };

/// Base of all exceptions. `what()` is the message, then a line "HINT: ..." when there is a hint.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message, const std::string& hint = "", ExitCode code = ExitCode::failed)
      : std::runtime_error(hint.empty() ? message : message + "\nHINT: " + hint), code_(code) {}
  ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

/// An operation was given tensors whose shapes, dtypes or devices do not fit. The message names the op and the shapes.
class ShapeError : public Error {
 public:
  explicit ShapeError(const std::string& message, const std::string& hint = "") : Error(message, hint, ExitCode::failed) {}
};

/// Wrong command line or configuration.
class UsageError : public Error {
 public:
  explicit UsageError(const std::string& message, const std::string& hint = "") : Error(message, hint, ExitCode::usage) {}
};

/// A file that cannot be read as what it claims to be. The message names file, place and fault.
class InputError : public Error {
 public:
  explicit InputError(const std::string& message, const std::string& hint = "") : Error(message, hint, ExitCode::bad_input) {}
};

/// Out of memory or disk.
class ResourceError : public Error {
 public:
  explicit ResourceError(const std::string& message, const std::string& hint = "") : Error(message, hint, ExitCode::no_resources) {}
};

}  // namespace expctr
