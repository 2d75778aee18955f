// Philox4x32-10: counter-based random numbers, the same bits on host and device.
// Source: Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3".
#pragma once

#include <cstdint>
#include <string_view>

#include "base/hash.h"
#include "base/host_device.h"

namespace expctr {

/// Key of a stream of random numbers: a seed and what the numbers are for.
struct RandomKey {
  std::uint32_t low = 0, high = 0;
};

inline RandomKey random_key(std::uint64_t seed, std::string_view purpose) {
  const std::uint64_t mixed = splitmix64(splitmix64(seed) ^ fnv1a(purpose));
  return {static_cast<std::uint32_t>(mixed), static_cast<std::uint32_t>(mixed >> 32)};
}

/// Which number of the stream: never a place in a batch.
struct RandomCounter {
  std::uint32_t step = 0, sample = 0, row = 0, channel = 0;
};

struct RandomBits {
  std::uint32_t word[4];
};

EXPCTR_HOST_DEVICE RandomBits philox(RandomKey key, RandomCounter counter) {
  std::uint32_t c0 = counter.step, c1 = counter.sample, c2 = counter.row, c3 = counter.channel;
  std::uint32_t k0 = key.low, k1 = key.high;
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c0, p1 = std::uint64_t{0xCD9E8D57u} * c2;
    const std::uint32_t n0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0, n2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<std::uint32_t>(p1);
    c3 = static_cast<std::uint32_t>(p0);
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

/// Uniform in [0, 1): the upper 24 bits of a word.
EXPCTR_HOST_DEVICE float uniform_float(std::uint32_t bits) { return static_cast<float>(bits >> 8) * (1.0f / 16777216.0f); }

/// Uniform in [0, 1) with 53 bits.
EXPCTR_HOST_DEVICE double uniform_double(std::uint32_t high, std::uint32_t low) {
  return static_cast<double>((std::uint64_t{high} << 21) ^ (low >> 11)) * (1.0 / 9007199254740992.0);
}

}  // namespace expctr
