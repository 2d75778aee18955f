// What a run tells a person, on stderr: lines by level, and one live line for progress. stdout belongs to results.
#pragma once

#include <fmt/format.h>

#include <functional>
#include <string>
#include <string_view>

namespace expctr {

enum class LogLevel { debug, info, warning, error };

/// Process-wide and thread-safe: lines of several threads do not mix, and a line never lands inside the progress bar.
class Logger {
 public:
  static Logger& instance();

  /// Lines below `level` are dropped. --quiet is LogLevel::warning and switches progress off.
  void set_level(LogLevel level);
  LogLevel level() const;
  bool quiet() const { return level() > LogLevel::info; }

  /// Where text goes (default: stderr), whether it is a terminal that can overwrite a line, and whether colours may be used there.
  struct Sink {
    std::function<void(std::string_view)> write;
    bool terminal = false;
    bool color = false;
    int width = 80;
  };
  /// Returns the sink before.
  Sink set_sink(Sink sink);
  /// stderr as it is: a terminal or not; colours only on a terminal and without NO_COLOR (no-color.org: set and not empty).
  static Sink stderr_sink();
  bool terminal() const;
  bool color() const;
  int width() const;

  void line(LogLevel level, std::string_view text);
  /// Replaces the live line at the bottom (terminals only); "" removes it.
  void live(std::string_view text);

 private:
  Logger();
};

template <class... Args>
void log_debug(fmt::format_string<Args...> format, Args&&... args) {
  Logger::instance().line(LogLevel::debug, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  Logger::instance().line(LogLevel::info, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... args) {
  Logger::instance().line(LogLevel::warning, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_error(fmt::format_string<Args...> format, Args&&... args) {
  Logger::instance().line(LogLevel::error, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace expctr
