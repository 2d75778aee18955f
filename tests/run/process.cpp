#include "tests/run/process.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <thread>

#include "base/error.h"

namespace expctr {
namespace fs = std::filesystem;

Process::Process(const std::vector<std::string>& words, const std::vector<std::string>& environment) {
  const char* set = std::getenv("EXPCTR_BINARY");
  const fs::path program = set != nullptr && *set != '\0' ? fs::path(set) : source_root() / "expctr_engine";
  if (!fs::exists(program)) throw Error("no program at " + program.string(), "build it first: make build");
  // Everything that allocates comes before the fork.
  std::vector<char*> arguments = {const_cast<char*>(program.c_str())};
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  const std::string out = said_ / "out", err = said_ / "err";
  child_ = ::fork();
  if (child_ < 0) throw Error("cannot start a process");
  if (child_ == 0) {
    for (const std::string& variable : environment) ::putenv(const_cast<char*>(variable.c_str()));
    const int output = ::open(out.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644),
              errors = ::open(err.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
    if (output < 0 || errors < 0 || ::dup2(output, STDOUT_FILENO) < 0 || ::dup2(errors, STDERR_FILENO) < 0) ::_exit(125);
    ::execv(program.c_str(), arguments.data());
    ::_exit(127);
  }
}

Process::~Process() {
  if (running()) {
    ::kill(child_, SIGKILL);
    ::waitpid(child_, nullptr, 0);
  }
}

bool Process::running() {
  if (status_) return false;
  int status = 0;
  if (::waitpid(child_, &status, WNOHANG) == 0) return true;
  status_ = status;
  return false;
}

void Process::signal(int number) {
  if (running()) ::kill(child_, number);
}

Ending Process::wait() {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(2);
  while (running()) {
    if (std::chrono::steady_clock::now() > deadline) ::kill(child_, SIGKILL);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  Ending ending;
  if (WIFEXITED(*status_)) ending.code = WEXITSTATUS(*status_);
  if (WIFSIGNALED(*status_)) ending.signal = WTERMSIG(*status_);
  ending.output = read_text(said_ / "out");
  ending.errors = read_text(said_ / "err");
  return ending;
}

Ending run_to_end(const std::vector<std::string>& words, const std::vector<std::string>& environment) {
  return Process(words, environment).wait();
}

}  // namespace expctr
