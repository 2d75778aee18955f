#include "engine/log/logger.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

namespace expctr {

namespace {

struct LoggerState {
  std::mutex mutex;
  std::atomic<LogLevel> level{LogLevel::info};
  Logger::Sink sink = Logger::stderr_sink();
  std::string live;
};

LoggerState& state() {
  // Never destroyed: other static objects may log in their destructors.
  static LoggerState* instance = new LoggerState;
  return *instance;
}

constexpr std::string_view clear_line = "\r\x1b[2K";

std::string decorated(LogLevel level, std::string_view text, bool color) {
  const char* prefix = level == LogLevel::warning ? "warning: " : level == LogLevel::error ? "error: " : "";
  if (*prefix == '\0' || !color) return fmt::format("{}{}\n", prefix, text);
  return fmt::format("\x1b[{}m{}\x1b[0m{}\n", level == LogLevel::error ? 31 : 33, prefix, text);
}

}  // namespace

Logger::Logger() = default;

Logger& Logger::instance() {
  static Logger logger;
  return logger;
}

Logger::Sink Logger::stderr_sink() {
  Sink sink;
  sink.write = [](std::string_view text) {
    std::fwrite(text.data(), 1, text.size(), stderr);
    std::fflush(stderr);
  };
  const char* term = std::getenv("TERM");
  sink.terminal = ::isatty(STDERR_FILENO) == 1 && (term == nullptr || std::string_view(term) != "dumb");
  const char* no_color = std::getenv("NO_COLOR");
  sink.color = sink.terminal && (no_color == nullptr || *no_color == '\0');
  winsize size{};
  if (sink.terminal && ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) sink.width = size.ws_col;
  return sink;
}

void Logger::set_level(LogLevel level) { state().level = level; }
LogLevel Logger::level() const { return state().level; }

Logger::Sink Logger::set_sink(Sink sink) {
  const std::lock_guard lock(state().mutex);
  std::swap(state().sink, sink);
  state().live.clear();
  return sink;
}

bool Logger::terminal() const {
  const std::lock_guard lock(state().mutex);
  return state().sink.terminal;
}

bool Logger::color() const {
  const std::lock_guard lock(state().mutex);
  return state().sink.color;
}

int Logger::width() const {
  const std::lock_guard lock(state().mutex);
  return state().sink.width;
}

void Logger::line(LogLevel level, std::string_view text) {
  if (level < state().level.load()) return;
  const std::lock_guard lock(state().mutex);
  std::string out;
  if (!state().live.empty()) out += clear_line;
  out += decorated(level, text, state().sink.color);
  out += state().live;
  state().sink.write(out);
}

void Logger::live(std::string_view text) {
  const std::lock_guard lock(state().mutex);
  if (!state().sink.terminal || (text.empty() && state().live.empty())) return;
  state().live = text;
  state().sink.write(std::string(clear_line) + state().live);
}

}  // namespace expctr
