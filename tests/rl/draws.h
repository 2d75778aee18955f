// Random numbers of tests.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/philox.h"

namespace expctr::test {

/// Uniform in [low, high), a function of the index alone.
class Draws {
 public:
  explicit Draws(std::uint64_t seed) : key_(random_key(seed, "test")) {}
  double uniform(double low, double high) {
    const RandomBits bits = philox(key_, {next_++, 0, 0, 0});
    return low + (high - low) * uniform_double(bits.word[0], bits.word[1]);
  }
  std::int32_t below(std::int32_t n) { return std::min(n - 1, static_cast<std::int32_t>(uniform(0.0, n))); }

 private:
  RandomKey key_;
  std::uint32_t next_ = 0;
};

}  // namespace expctr::test
