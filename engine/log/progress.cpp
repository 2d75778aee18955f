#include "engine/log/progress.h"

#include "engine/log/logger.h"

namespace expctr {

namespace {

constexpr int bar_cells = 20;

double steady_seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

/// Seconds a step, or steps a second when they are fast.
std::string format_speed(double seconds_per_step, const std::string& unit) {
  if (seconds_per_step >= 0.1) return fmt::format("{:.1f} s/{}", seconds_per_step, unit);
  return fmt::format("{:.0f} {}s/s", 1.0 / std::max(seconds_per_step, 1e-9), unit);
}

/// At most `width` characters (code points; those of a bar and of Latin text are one column each).
std::string cut_to_width(const std::string& text, int width) {
  int columns = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if ((static_cast<unsigned char>(text[i]) & 0xC0) == 0x80) continue;
    if (columns++ == width) return text.substr(0, i);
  }
  return text;
}

}  // namespace

std::string format_duration(double seconds) {
  if (!(seconds >= 0) || seconds > 1e9) return "-:--";
  const std::int64_t whole = static_cast<std::int64_t>(std::llround(seconds));
  if (whole < 3600) return fmt::format("{}:{:02}", whole / 60, whole % 60);
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

Progress::Progress(std::string label, std::string unit, std::int64_t total, std::int64_t start, Clock clock)
    : label_(std::move(label)),
      unit_(std::move(unit)),
      total_(total),
      start_(start),
      done_(start),
      clock_(clock ? std::move(clock) : Clock(steady_seconds)) {
  begin_ = clock_();
}

Progress::~Progress() {
  Logger& logger = Logger::instance();
  if (logger.quiet()) return;
  // A destructor must not throw; a line of progress that is lost is no harm.
  try {
    if (logger.terminal()) {
      logger.live("");
      logger.line(LogLevel::info, text(true));
    } else if (last_printed_ != done_) {
      logger.line(LogLevel::info, text(false));
    }
  } catch (const std::exception&) {
    return;
  }
}

void Progress::update(std::int64_t done, std::string_view fields) {
  Logger& logger = Logger::instance();
  done_ = done;
  fields_ = fields;
  if (logger.quiet()) return;
  if (logger.terminal()) {
    logger.live(cut_to_width(text(true), logger.width() - 1));
    return;
  }
  const double now = clock_();
  const double waited = now - last_time_;
  const bool first = last_printed_ < 0, last = done_ >= total_ && last_printed_ != done_;
  const bool due = (done_ - last_printed_) * 10 >= total_ && waited >= 10.0;
  if (!first && !last && !due && waited < 60.0) return;
  last_printed_ = done_;
  last_time_ = now;
  logger.line(LogLevel::info, text(false));
}

std::string Progress::text(bool bar) const {
  std::string line = fmt::format("{}  {} {}/{}", label_, unit_, done_, total_);
  if (bar) {
    const int filled = total_ > 0 ? static_cast<int>(std::clamp<std::int64_t>(done_ * bar_cells / total_, 0, bar_cells)) : bar_cells;
    line += "  ";
    for (int i = 0; i < bar_cells; ++i) line += i < filled ? "\u2588" : "\u2591";
  }
  if (!fields_.empty()) line += "  " + fields_;
  const std::int64_t here = done_ - start_;
  const double elapsed = clock_() - begin_;
  if (here > 0) {
    const double each = elapsed / static_cast<double>(here);
    line += fmt::format("  {}", format_speed(each, unit_));
    line += done_ < total_ ? fmt::format("  eta {}", format_duration(each * static_cast<double>(total_ - done_)))
                           : fmt::format("  took {}", format_duration(elapsed));
  }
  return line;
}

}  // namespace expctr
