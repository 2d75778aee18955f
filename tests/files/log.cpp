#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <csignal>

#include "base/error.h"
#include "engine/io/fault.h"
#include "engine/log/logger.h"
#include "engine/log/metrics_log.h"
#include "engine/log/process.h"
#include "engine/log/progress.h"
#include "tests/support/paths.h"

using namespace expctr;
using nlohmann::json;

namespace {

/// Catches what the logger says for the life of the object.
struct Captured {
  explicit Captured(bool terminal, bool color = false, int width = 200) {
    before = Logger::instance().set_sink({[this](std::string_view text) { all += text; }, terminal, color, width});
  }
  ~Captured() {
    Logger::instance().set_sink(before);
    Logger::instance().set_level(LogLevel::info);
  }
  int lines() const { return static_cast<int>(std::count(all.begin(), all.end(), '\n')); }
  std::string all;
  Logger::Sink before;
};

}  // namespace

TEST_CASE("log lines by level, with and without colour") {
  Captured out(false);
  log_debug("no");
  log_info("yes {}", 1);
  log_warning("careful");
  Logger::instance().set_level(LogLevel::warning);
  CHECK(Logger::instance().quiet());
  log_info("no");
  log_error("bad");
  CHECK(out.all == "yes 1\nwarning: careful\nerror: bad\n");
  Captured colored(true, true);
  Logger::instance().set_level(LogLevel::info);
  log_warning("careful");
  CHECK(colored.all == "\x1b[33mwarning: \x1b[0mcareful\n");
}

TEST_CASE("NO_COLOR switches colours off") {
  ::setenv("NO_COLOR", "1", 1);
  CHECK_FALSE(Logger::stderr_sink().color);
  ::unsetenv("NO_COLOR");
}

TEST_CASE("durations") {
  CHECK(format_duration(0) == "0:00");
  CHECK(format_duration(25.4) == "0:25");
  CHECK(format_duration(59.6) == "1:00");
  CHECK(format_duration(727) == "12:07");
  CHECK(format_duration(11045) == "3:04:05");
  CHECK(format_duration(-1) == "-:--");
  CHECK(format_duration(NAN) == "-:--");
}

TEST_CASE("progress on a terminal is one line with a bar, and log lines stand above it") {
  Captured out(true);
  double now = 100;
  {
    Progress progress("fold 0", "step", 8, 2, [&] { return now; });
    now += 8.2;
    progress.update(4, "reward +0.031  kl 0.42");
    CHECK(out.all == "\r\x1b[2Kfold 0  step 4/8  ██████████░░░░░░░░░░  reward +0.031  kl 0.42  4.1 s/step  eta 0:16");
    out.all.clear();
    log_info("a line");
    CHECK(out.all == "\r\x1b[2Ka line\nfold 0  step 4/8  ██████████░░░░░░░░░░  reward +0.031  kl 0.42  4.1 s/step  eta 0:16");
    now += 16.4;
    progress.update(8);
    out.all.clear();
  }
  CHECK(out.all == "\r\x1b[2Kfold 0  step 8/8  ████████████████████  4.1 s/step  took 0:25\n");
}

TEST_CASE("progress is cut to the width of the terminal") {
  Captured out(true, false, 30);
  double now = 0;
  Progress progress("fold 0", "step", 2, 0, [&] { return now; });
  now = 1;
  progress.update(1, "a long field that does not fit");
  CHECK(out.all == "\r\x1b[2Kfold 0  step 1/2  ██████████░");
}

TEST_CASE("progress elsewhere is a plain line now and then") {
  for (const double seconds_per_step : {0.001, 0.5, 30.0, 100.0}) {
    CAPTURE(seconds_per_step);
    Captured out(false);
    double now = 0;
    {
      Progress progress("pairs", "pair", 200, 0, [&] { return now; });
      for (int i = 1; i <= 200; ++i) {
        now += seconds_per_step;
        progress.update(i);
      }
    }
    const int expected = seconds_per_step < 0.01 ? 2 : seconds_per_step < 1 ? 11 : seconds_per_step < 60 ? 101 : 200;
    CHECK(out.lines() >= std::min(expected, 2));
    CHECK(out.lines() <= expected);
    CHECK(out.all.find("pair 200/200") != std::string::npos);
    CHECK(out.all.find("█") == std::string::npos);
    CHECK(out.all.find("took") != std::string::npos);
  }
  Captured quiet(false);
  Logger::instance().set_level(LogLevel::warning);
  Progress progress("x", "step", 2);
  progress.update(1);
  CHECK(quiet.all.empty());
}

TEST_CASE("the metrics log drops torn lines and what the resumed run writes again") {
  const TemporaryFolder folder;
  const auto path = folder / "log.jsonl";
  {
    MetricsLog log = MetricsLog::fresh(path);
    for (int step = 1; step <= 5; ++step) log.append({{"step", step}, {"loss", step == 3 ? NAN : 0.1}});
    log.append({{"note", "no step"}, {"text", "\xFF not UTF-8 \n two lines"}});
  }
  std::ofstream(path, std::ios::app) << "{\"step\": 1";
  {
    MetricsLog log = MetricsLog::resume(path, 3);
    log.append({{"step", 4}, {"loss", 0.2}});
  }
  std::ifstream file(path);
  std::vector<json> records;
  for (std::string line; std::getline(file, line);) records.push_back(json::parse(line));
  REQUIRE(records.size() == 5);
  CHECK(records[0]["step"] == 1);
  CHECK(records[2]["loss"].is_null());
  CHECK(records[3].contains("note"));
  CHECK(records[4]["loss"] == 0.2);
  MetricsLog::resume(path, [](const json& record) { return record.value("step", 0) == 2; });
  CHECK(read_text(path) == "{\"loss\":0.1,\"step\":2}\n");
  MetricsLog::resume(folder / "new.jsonl", 0).append({{"a", 1}});
  CHECK(read_text(folder / "new.jsonl") == "{\"a\":1}\n");
  {
    const ScopedFault fault({.operation = {}, .nth = 1, .error = ENOSPC});
    CHECK_THROWS_AS(MetricsLog::resume(path, [](const json&) { return false; }), ResourceError);
  }
  CHECK(read_text(path) == "{\"loss\":0.1,\"step\":2}\n");
}

TEST_CASE("peak memory grows with what is touched") {
  const std::int64_t before = peak_memory_bytes();
  CHECK(before > 1 << 20);
  std::vector<char> block(64 << 20, 1);
  CHECK(block[block.size() / 2] == 1);
  CHECK(peak_memory_bytes() >= (64 << 20));
}

TEST_CASE("the first Ctrl-C sets a flag, the second ends the process with 130") {
  for (const int signal : {SIGINT, SIGTERM}) {
    const pid_t child = ::fork();
    if (child == 0) {
      install_interrupt_handler();
      if (interrupt_requested()) ::_exit(1);
      ::raise(signal);
      if (!interrupt_requested()) ::_exit(2);
      ::raise(signal);
      ::_exit(3);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 130);
  }
  CHECK_FALSE(interrupt_requested());
  CHECK(InterruptedError("x").code() == ExitCode::interrupted);
}
