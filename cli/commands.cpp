#include "cli/commands.h"

namespace expctr {

std::vector<Command> all_commands(const std::vector<Job>& jobs) {
  return {
      run_command(jobs),
      explain_command(jobs),
      evaluate_command(jobs),
  };
}

}  // namespace expctr
