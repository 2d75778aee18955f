#include "bench/suite/measure.h"

#include <fmt/format.h>

#include <cmath>
#include <ctime>

#include "base/error.h"
#include "base/philox.h"

namespace expctr {

namespace {

double seconds_of(clockid_t clock) {
  timespec time{};
  ::clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

}  // namespace

StopWatch::StopWatch() : wall_(seconds_of(CLOCK_MONOTONIC)), cpu_(seconds_of(CLOCK_PROCESS_CPUTIME_ID)) {}

Elapsed StopWatch::elapsed() const { return {seconds_of(CLOCK_MONOTONIC) - wall_, seconds_of(CLOCK_PROCESS_CPUTIME_ID) - cpu_}; }

std::function<Elapsed()> timed(Device device, std::function<void()> body) {
  return [device, body = std::move(body)]() -> Elapsed {
    constexpr double least_seconds = 0.02;
    int calls = 0;
    const StopWatch watch;
    Elapsed elapsed;
    do {
      body();
      synchronise(device);
      ++calls;
      elapsed = watch.elapsed();
    } while (elapsed.wall < least_seconds);
    return {elapsed.wall / calls, elapsed.cpu / calls};
  };
}

Tensor random_tensor(std::string_view name, const Shape& shape, Device device) {
  const RandomKey key = random_key(1, name);
  std::vector<float> values(static_cast<std::size_t>(shape.size()));
  for (std::size_t i = 0; i < values.size(); i += 4) {
    const RandomBits bits = philox(key, {static_cast<std::uint32_t>(i / 4), 0, 0, 0});
    for (std::size_t j = i; j < std::min(i + 4, values.size()); ++j) values[j] = uniform_float(bits.word[j - i]) - 0.5f;
  }
  return Tensor::of(values, shape, device);
}

std::vector<std::int32_t> random_ids(std::string_view name, std::int64_t count, std::int64_t vocabulary) {
  const RandomKey key = random_key(2, name);
  const std::int64_t first = std::min<std::int64_t>(10, vocabulary - 1), last = std::min<std::int64_t>(40000, vocabulary);
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < count; ++i) {
    const RandomBits bits = philox(key, {static_cast<std::uint32_t>(i), 0, 0, 0});
    ids.push_back(static_cast<std::int32_t>(first + bits.word[0] % static_cast<std::uint32_t>(last - first)));
  }
  return ids;
}

std::vector<double> host(const Tensor& tensor) {
  const std::vector<float> values = tensor.to(cpu_device).to_vector<float>();
  return {values.begin(), values.end()};
}

std::vector<double> host_row(const Tensor& tensor, std::int64_t row) { return host(tensor.slice_rows(row, 1)); }

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

double log_sum_exp(const std::vector<double>& values) {
  double most = values[0], sum = 0;
  for (const double v : values) most = std::max(most, v);
  for (const double v : values) sum += std::exp(v - most);
  return most + std::log(sum);
}

void check_close(const std::string& bench, double got, double expected, double tolerance) {
  if (std::abs(got - expected) <= tolerance) return;
  throw Error(fmt::format("{}: the check before the measurement failed: {} instead of {} (tolerance {})", bench, got, expected, tolerance),
              "a wrong result is not worth timing: run expctr_engine doctor, then the tests");
}

const char* mode_name(ComputeMode mode) { return mode == ComputeMode::bf16 ? "bf16" : mode == ComputeMode::int8 ? "int8" : "f32"; }

}  // namespace expctr
