#include "engine/log/process.h"

#include <unistd.h>

#include <csignal>

namespace expctr {

namespace {

volatile std::sig_atomic_t interrupted = 0;

void on_signal(int) {
  if (interrupted != 0) ::_exit(static_cast<int>(ExitCode::interrupted));
  interrupted = 1;
}

}  // namespace

std::int64_t peak_memory_bytes() {
  std::ifstream status("/proc/self/status");
  std::string word;
  while (status >> word) {
    std::int64_t kibibytes = 0;
    if (word == "VmHWM:" && status >> kibibytes) return kibibytes * 1024;
  }
  return 0;
}

void install_interrupt_handler() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
}

bool interrupt_requested() { return interrupted != 0; }
void clear_interrupt() { interrupted = 0; }

}  // namespace expctr
