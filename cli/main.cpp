#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "cli/command_line.h"
#include "engine/io/fault.h"
#include "trainers/jobs.h"

int main(int argc, char** argv) {
  using namespace expctr;
  std::optional<ScopedFault> fault;
  if (const char* plan = std::getenv("EXPCTR_FAULT")) {
    try {
      fault.emplace(parse_fault(plan));
    } catch (const Error& error) {
      std::fprintf(stderr, "error: %s\n", error.what());
      return static_cast<int>(error.code());
    }
  }
  return run_command_line(std::vector<std::string>(argv + (argc > 0 ? 1 : 0), argv + argc), all_commands(all_jobs()));
}
