// Progress of a loop with a known number of steps: a bar with the time left on a terminal, a plain line now and then elsewhere.
//
//   fold 0  step 6/6  ████████████████████  reward +0.031  kl 0.42  4.1 s/step  eta 0:25
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace expctr {

/// "0:25", "12:07", "3:04:05"; "-:--" for what is not known (negative or not finite).
std::string format_duration(double seconds);

/// One line a call on a terminal. Elsewhere a line for the first and the last step, and in between when 10 % of the steps or 10 s have gone
/// by, whichever comes later; but after 60 s always. Nothing with --quiet.
class Progress {
 public:
  using Clock = std::function<double()>;  ///< seconds, monotonic

  /// `label` begins the line ("fold 0"), `unit` names a step ("step", "pair"). `start` steps were done by an earlier process: they count in
  /// the bar and not in the speed.
  Progress(std::string label, std::string unit, std::int64_t total, std::int64_t start = 0, Clock clock = {});
  /// Leaves the last line standing.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// `done` of `total` steps are done; `fields` is shown behind the bar ("reward +0.031  kl 0.42").
  void update(std::int64_t done, std::string_view fields = {});

 private:
  std::string text(bool bar) const;
  std::string label_, unit_, fields_;
  std::int64_t total_, start_, done_;
  std::int64_t last_printed_ = -1;
  double begin_, last_time_ = 0;
  Clock clock_;
};

}  // namespace expctr
