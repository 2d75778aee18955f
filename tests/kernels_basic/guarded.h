// What the kernel tests share: arrays with sentinels around them, reproducible values, comparison, and one against two threads.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/hash.h"
#include "base/view.h"
#include "cpu/run.h"
#include "cpu/thread_pool.h"

namespace expctr::kernel_test {

/// An array of T between sentinels; the destructor checks that nobody wrote over them.
template <class T>
class Guarded {
 public:
  static constexpr std::size_t margin = 16;

  Guarded(std::initializer_list<std::int64_t> shape, std::vector<T> values) : shape_(shape), memory_(values.size() + 2 * margin) {
    std::memset(memory_.data(), 0x5A, memory_.size() * sizeof(T));
    std::copy(values.begin(), values.end(), memory_.begin() + margin);
    std::int64_t size = 1;
    for (const std::int64_t extent : shape_) size *= extent;
    REQUIRE(size == static_cast<std::int64_t>(values.size()));
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  ~Guarded() {
    T sentinel;
    std::memset(&sentinel, 0x5A, sizeof sentinel);
    bool intact = true;
    for (std::size_t i = 0; i < margin; ++i) {
      intact = intact && std::memcmp(&memory_[i], &sentinel, sizeof sentinel) == 0;
      intact = intact && std::memcmp(&memory_[memory_.size() - 1 - i], &sentinel, sizeof sentinel) == 0;
    }
    CHECK_MESSAGE(intact, "a kernel wrote outside its output");
  }

  View view(DType dtype = DTypeOf<T>::value) {
    View view;
    view.data = memory_.size() > 2 * margin ? memory_.data() + margin : nullptr;
    view.dtype = dtype;
    view.rank = static_cast<int>(shape_.size());
    for (int i = 0; i < view.rank; ++i) view.shape[i] = shape_[static_cast<std::size_t>(i)];
    return view;
  }
  std::vector<T> values() const { return {memory_.begin() + margin, memory_.end() - margin}; }

 private:
  std::vector<std::int64_t> shape_;
  std::vector<T> memory_;
};

/// n values in [low, high), the same on every run.
template <class T>
std::vector<T> values(std::int64_t n, std::uint64_t seed, double low = -2, double high = 2) {
  std::vector<T> result(static_cast<std::size_t>(n));
  std::uint64_t state = seed;
  for (T& value : result) {
    state = splitmix64(state + 1);
    value = static_cast<T>(low + (high - low) * static_cast<double>(state >> 11) / 9007199254740992.0);
  }
  return result;
}

inline std::vector<std::int32_t> ids(std::int64_t n, std::uint64_t seed, int low, int high) {
  std::vector<std::int32_t> result;
  for (const double value : values<double>(n, seed, low, high)) result.push_back(static_cast<std::int32_t>(std::floor(value)));
  return result;
}

/// The outputs of one run of a kernel.
template <class T>
using Outputs = std::vector<std::vector<T>>;

template <class T>
constexpr double tolerance = sizeof(T) == 4 ? 4e-6 : 1e-13;

/// |actual - expected| <= tolerance (1 + |expected|) for every element.
template <class T>
void check_close(const std::vector<T>& actual, const std::vector<double>& expected, double slack = 1) {
  REQUIRE(actual.size() == expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const double error = std::abs(static_cast<double>(actual[i]) - expected[i]);
    if (!(error <= slack * tolerance<T> * (1 + std::abs(expected[i])))) {
      FAIL_CHECK("element ", i, ": ", static_cast<double>(actual[i]), " instead of ", expected[i]);
      return;
    }
  }
}

/// The result of `compute` (a vector of outputs), which must be the same bits on one and on two threads.
template <class Compute>
auto on_one_and_two_threads(Compute compute) {
  const int before = cpu::thread_count();
  cpu::set_thread_count(1);
  const auto one = compute();
  cpu::set_thread_count(2);
  const auto two = compute();
  cpu::set_thread_count(before);
  REQUIRE(one.size() == two.size());
  for (std::size_t i = 0; i < one.size(); ++i) {
    REQUIRE(one[i].size() == two[i].size());
    CHECK((one[i].empty() || std::memcmp(one[i].data(), two[i].data(), one[i].size() * sizeof(one[i][0])) == 0));
  }
  return one;
}

template <class Run>
std::string message_of(Run run) {
  try {
    run();
  } catch (const ShapeError& error) {
    return error.what();
  }
  return "no error";
}

inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

template <class T>
std::vector<double> in_double(const std::vector<T>& values) {
  return {values.begin(), values.end()};
}

}  // namespace expctr::kernel_test
