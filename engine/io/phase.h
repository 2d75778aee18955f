// What the process is doing right now, readable from outside: a test that kills the process learns in which phase it died.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace expctr {

/// From now on phases are written to `path` (a tiny file, overwritten in place; survives kill -9). One file per process; a later call moves
/// it.
void open_phase_file(const std::filesystem::path& path);
void close_phase_file();

/// Sets the current phase: "rollout", "update", "explanation", "checkpoint", ... (at most 31 bytes). Costs one pwrite; without a file it is
/// free.
void phase(std::string_view name);
/// The current phase of this process; "" before the first.
std::string current_phase();

/// The phase in a file written by another process, "" when there is none.
std::string read_phase(const std::filesystem::path& path);

/// A phase inside another: comes back to the one before at the end of its life.
class PhaseScope {
 public:
  explicit PhaseScope(std::string_view name) : before_(current_phase()) { phase(name); }
  ~PhaseScope() { phase(before_); }
  PhaseScope(const PhaseScope&) = delete;
  PhaseScope& operator=(const PhaseScope&) = delete;

 private:
  std::string before_;
};

}  // namespace expctr
