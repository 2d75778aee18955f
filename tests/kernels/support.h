// Buffers with sentinels, random data and bit comparison for the kernel tests.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <vector>

#include "base/philox.h"
#include "base/view.h"
#include "cpu/isa.h"
#include "cpu/run.h"
#include "cpu/thread_pool.h"

namespace expctr::test {

/// A dense array between two guard zones; intact() is false when a kernel wrote outside.
template <class T>
class Array {
 public:
  explicit Array(std::vector<std::int64_t> shape, T value = T{}) : shape_(std::move(shape)), size_(1) {
    for (std::int64_t extent : shape_) size_ *= extent;
    memory_.resize(static_cast<std::size_t>(size_ + 2 * guard));
    std::memset(static_cast<void*>(memory_.data()), 0xA5, memory_.size() * sizeof(T));
    for (std::int64_t i = 0; i < size_; ++i) memory_[guard + i] = value;
  }
  View view() const {
    View view;
    view.data = const_cast<T*>(memory_.data() + guard);
    view.dtype = DTypeOf<T>::value;
    for (std::int64_t extent : shape_) view.shape[view.rank++] = extent;
    return view;
  }
  T* data() { return memory_.data() + guard; }
  const T* data() const { return memory_.data() + guard; }
  T& operator[](std::int64_t i) { return memory_[guard + i]; }
  const T& operator[](std::int64_t i) const { return memory_[guard + i]; }
  std::int64_t size() const { return size_; }
  bool intact() const {
    std::vector<unsigned char> zone(guard * sizeof(T), 0xA5);
    return std::memcmp(memory_.data(), zone.data(), zone.size()) == 0 &&
           std::memcmp(memory_.data() + guard + size_, zone.data(), zone.size()) == 0;
  }
  Array& random(std::uint32_t seed, double scale = 1) {
    for (std::int64_t i = 0; i < size_; ++i) {
      const RandomBits bits = philox({seed, 7}, {static_cast<std::uint32_t>(i), 0, 0, 0});
      memory_[guard + i] = static_cast<T>(scale * (2 * uniform_double(bits.word[0], bits.word[1]) - 1));
    }
    return *this;
  }

 private:
  static constexpr std::int64_t guard = 64;
  std::vector<std::int64_t> shape_;
  std::int64_t size_;
  std::vector<T> memory_;
};

template <class T>
bool same_bits(const Array<T>& a, const Array<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(T)) == 0;
}

template <class A, class B>
double largest_difference(const A& a, const B& b) {
  double largest = 0;
  for (std::int64_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    if (!(difference <= largest)) largest = difference;  // NaN counts
  }
  return largest;
}

/// Calls body once in every setting whose float results must agree bit for bit: instruction sets and thread counts.
template <class Body>
void for_each_setting(const Body& body) {
  const int threads = cpu::thread_count();
  for (const cpu::Isa isa : {cpu::Isa::v3, cpu::best_isa()}) {
    for (const int count : {1, 2, 3}) {
      cpu::set_isa(isa);
      cpu::set_thread_count(count);
      body();
    }
  }
  cpu::set_isa(cpu::best_isa());
  cpu::set_thread_count(threads);
}

}  // namespace expctr::test
