// Taking time, and the cheap checks before it.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "bench/suite/bench.h"
#include "engine/core/tensor.h"

namespace expctr {

/// Elapsed time since construction.
class StopWatch {
 public:
  StopWatch();
  Elapsed elapsed() const;

 private:
  double wall_, cpu_;
};

/// One repeat of a short body: called as often as it takes to fill some milliseconds, time per call.
std::function<Elapsed()> timed(Device device, std::function<void()> body);

/// Uniform in [-1/2, 1/2), a function of name and shape.
Tensor random_tensor(std::string_view name, const Shape& shape, Device device);
/// Token ids in [10, 40000), as far as the vocabulary goes.
std::vector<std::int32_t> random_ids(std::string_view name, std::int64_t count, std::int64_t vocabulary);

/// A tensor, or one row of it, in double on the host; and what the references are made of.
std::vector<double> host(const Tensor& tensor);
std::vector<double> host_row(const Tensor& tensor, std::int64_t row);
double dot(const std::vector<double>& a, const std::vector<double>& b);
double log_sum_exp(const std::vector<double>& values);

/// Throws Error "<bench>: ..." unless |got - expected| <= tolerance; not a number never passes.
void check_close(const std::string& bench, double got, double expected, double tolerance);

const char* mode_name(ComputeMode mode);

}  // namespace expctr
