#include "cli/commands.h"

namespace expctr {

std::vector<Command> all_commands(const std::vector<Job>& jobs) {
  return {
      run_command(jobs),
      explain_command(jobs),
      evaluate_command(jobs),
      generate_command(),
      score_command(),
      tokenize_command(),
      embed_command(),
      data_command(),
      inspect_command(),
      bench_command(),
      doctor_command(),
  };
}

}  // namespace expctr
