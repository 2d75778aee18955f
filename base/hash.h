// Hashes that define folds, splits and seeds (specs/README.md, section 3). Functions of ids and seed only.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/host_device.h"

namespace expctr {

/// splitmix64(0) = 0xE220A8397B1DCDAF. Source: Steele, Lea, Flood 2014.
EXPCTR_HOST_DEVICE std::uint64_t splitmix64(std::uint64_t x) {
  std::uint64_t z = x + 0x9E3779B97F4A7C15ull;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

/// FNV-1a, 64 bits.
constexpr std::uint64_t fnv1a(std::string_view text) {
  std::uint64_t hash = 0xCBF29CE484222325ull;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3ull;
  return hash;
}

}  // namespace expctr
