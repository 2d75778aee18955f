#include "tests/support/outcome.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "base/error.h"
#include "tests/support/paths.h"

namespace expctr {
namespace fs = std::filesystem;

Outcome in_child(const fs::path& folder, const std::function<int()>& body) {
  const TemporaryFolder said;
  std::fflush(stdout);
  std::fflush(stderr);
  const pid_t child = ::fork();
  if (child == 0) {
    for (const auto& [name, descriptor] : {std::pair("out", STDOUT_FILENO), std::pair("err", STDERR_FILENO)}) {
      const int file = ::open((said / name).c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
      if (file < 0 || ::dup2(file, descriptor) < 0) ::_exit(125);
    }
    if (::chdir(folder.c_str()) != 0) ::_exit(126);
    int code = 124;
    try {
      code = body();
    } catch (...) {
      code = 123;
    }
    std::fflush(stdout);
    std::fflush(stderr);
    ::_exit(code);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  Outcome outcome;
  if (WIFEXITED(status)) outcome.code = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) outcome.signal = WTERMSIG(status);
  outcome.output = read_text(said / "out");
  outcome.errors = read_text(said / "err");
  return outcome;
}

Outcome run_program(const fs::path& folder, const std::vector<std::string>& words, const std::vector<std::string>& environment) {
  const char* set = std::getenv("EXPCTR_BINARY");
  const fs::path program = set != nullptr && *set != '\0' ? fs::path(set) : source_root() / "expctr_engine";
  if (!fs::exists(program)) throw Error("no program at " + program.string(), "build it first: make build");
  return in_child(folder, [&] {
    for (const std::string& variable : environment) ::putenv(const_cast<char*>(variable.c_str()));
    std::vector<char*> arguments = {const_cast<char*>(program.c_str())};
    for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    ::execv(program.c_str(), arguments.data());
    return 127;
  });
}

}  // namespace expctr
