// Fault injection: lets a test make the n-th write, fsync or rename of the process fail, tear or kill.
#pragma once

#include <optional>
#include <string_view>

namespace expctr {

enum class FileOperation { write, fsync, rename };

/// What happens to the n-th (from 1) operation of one kind, counted from the moment the plan is installed.
///   error:  the operation returns this errno; a write first puts down the first half of its bytes, as a full disk does
///   kill:   the process dies at once with SIGKILL (a write tears in the same way first)
/// `sticky`: all later operations of that kind fail too, as on a disk that stays full.
struct FaultPlan {
  std::optional<FileOperation> operation;  ///< none: any of the three
  int nth = 1;
  int error = 0;
  bool kill = false;
  bool sticky = false;
};

/// Installs a plan for the life of the object; the plan before it comes back afterwards.
class ScopedFault {
 public:
  explicit ScopedFault(const FaultPlan& plan);
  ~ScopedFault();
  ScopedFault(const ScopedFault&) = delete;
  ScopedFault& operator=(const ScopedFault&) = delete;
  int operations() const;  ///< how many operations of the planned kind were seen so far
  bool fired() const;

 private:
  struct State;
  friend struct FaultGate;
  State* state_;
};

/// Reads "write:3:enospc", "fsync:1:eio", "rename:2:kill", "any:7:kill" ($EXPCTR_FAULT, for tests that start the binary). Throws
/// UsageError.
FaultPlan parse_fault(std::string_view text);

/// Asked by engine/io before each operation. `error` 0: go on.
struct FaultVerdict {
  int error = 0;
  bool kill = false;
};
struct FaultGate {
  static FaultVerdict ask(FileOperation operation);
};

}  // namespace expctr
