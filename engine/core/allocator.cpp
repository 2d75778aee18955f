#include "engine/core/allocator.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "base/error.h"
#include "cuda/device.h"
#include "engine/core/build_info.h"

namespace expctr {
namespace {

// Sizes are rounded to one of four steps between powers of two, so blocks of nearly the same size serve each other.
std::size_t rounded(std::size_t bytes) {
  constexpr std::size_t smallest = 256;
  if (bytes <= smallest) return smallest;
  const std::size_t step = std::bit_floor(bytes - 1) / 4 > smallest ? std::bit_floor(bytes - 1) / 4 : smallest;
  return (bytes + step - 1) / step * step;
}

struct Pool {
  std::mutex mutex;
  std::unordered_map<std::size_t, std::vector<void*>> free_blocks;
  std::unordered_set<void*> exact_blocks;  // those that do not return to free_blocks
  std::unordered_set<void*> guarded;       // what was handed out with guard bytes around it
  MemoryStatistics statistics;
};

Pool& pool(Device device) {
  // The CPU and up to 16 CUDA devices. Never destroyed: tensors of static storage duration give their blocks back at any time.
  static Pool* const pools = new Pool[17];
  return pools[device.is_cuda() ? 1 + device.index : 0];
}

// Memory guards of the tests: the bytes asked for lie between guard bytes. The front ones keep the alignment of the block.
constexpr std::size_t front_guard = 256, back_guard = 64;
constexpr unsigned char guard_pattern = 0xA5, poison = 0xFF;  // 0xFF.. is a NaN in every floating type
std::atomic<bool> guards{false};
std::atomic<std::uint64_t> violations{0};

std::atomic<bool> exact{false};

std::mutex failure_mutex;
std::uint64_t failure_countdown = 0;

bool planned_failure() {
  const std::lock_guard lock(failure_mutex);
  return failure_countdown != 0 && --failure_countdown == 0;
}

void* system_allocate(Device device, std::size_t bytes) {
  if (device.is_cuda()) {
    if constexpr (has_cuda) {
      current_stream(device);  // memory comes from the thread's current device
      return cuda::allocate(bytes);
    }
  }
  return std::aligned_alloc(64, bytes);
}

void system_release(Device device, void* pointer) noexcept {
  if (device.is_cuda()) {
    if constexpr (has_cuda) cuda::release(pointer);
    return;
  }
  std::free(pointer);
}

void drop_free_blocks(Device device, Pool& p) {
  for (auto& [bytes, blocks] : p.free_blocks) {
    for (void* block : blocks) {
      system_release(device, block);
      p.statistics.reserved -= bytes;
    }
    blocks.clear();
  }
}

}  // namespace

namespace {

std::size_t block_bytes(std::size_t asked, bool is_exact, bool is_guarded) {
  const std::size_t bytes = asked + (is_guarded ? front_guard + back_guard : 0);
  return is_exact ? std::max<std::size_t>(bytes, 1) : rounded(bytes);
}

void fill(Device device, void* pointer, unsigned char value, std::size_t bytes) {
  if (!device.is_cuda()) {
    std::memset(pointer, value, bytes);
  } else if constexpr (has_cuda) {
    cuda::fill_bytes(pointer, value, bytes, current_stream(device));
  }
}

bool filled(Device device, const void* pointer, unsigned char value, std::size_t bytes) {
  unsigned char host[std::max(front_guard, back_guard)];
  if (!device.is_cuda()) {
    std::memcpy(host, pointer, bytes);
  } else if constexpr (has_cuda) {
    cuda::copy_to_host(host, pointer, bytes, current_stream(device));
  }
  return std::all_of(host, host + bytes, [value](unsigned char byte) { return byte == value; });
}

// The block with guards written and its inside poisoned -> where the inside begins.
void* guard(Device device, void* block, std::size_t asked) {
  auto* inside = static_cast<unsigned char*>(block) + front_guard;
  fill(device, block, guard_pattern, front_guard);
  fill(device, inside, poison, asked);
  fill(device, inside + asked, guard_pattern, back_guard);
  return inside;
}

// The block behind an inside; counts a guard that has changed.
void* unguard(Device device, void* pointer, std::size_t asked) noexcept {
  auto* inside = static_cast<unsigned char*>(pointer);
  try {
    if (!filled(device, inside - front_guard, guard_pattern, front_guard) || !filled(device, inside + asked, guard_pattern, back_guard)) ++violations;
  } catch (...) {
    ++violations;  // a device that cannot be read any more
  }
  return inside - front_guard;
}

}  // namespace

void* allocate_bytes(Device device, std::size_t asked) {
  const bool is_exact = exact && device.is_cuda(), is_guarded = guards;
  const std::size_t bytes = block_bytes(asked, is_exact, is_guarded);
  Pool& p = pool(device);
  const std::lock_guard lock(p.mutex);
  void* block = nullptr;
  if (!planned_failure()) {
    auto& blocks = p.free_blocks[bytes];
    if (!is_exact && !blocks.empty()) {
      block = blocks.back();
      blocks.pop_back();
    } else {
      block = system_allocate(device, bytes);
      if (block == nullptr) {
        drop_free_blocks(device, p);
        block = system_allocate(device, bytes);
      }
      if (block != nullptr) {
        p.statistics.reserved += bytes;
        ++p.statistics.system_allocations;
      }
    }
  }
  if (block == nullptr) {
    throw ResourceError(fmt::format("out of memory on {}: {} bytes asked for, {} in use", device_name(device), asked, p.statistics.in_use),
                        "use a smaller batch, shorter prompts or a smaller cache.prefix_bytes");
  }
  if (is_exact) p.exact_blocks.insert(block);
  p.statistics.in_use += bytes;
  if (p.statistics.in_use > p.statistics.peak) p.statistics.peak = p.statistics.in_use;
  if (is_guarded) {
    block = guard(device, block, asked);
    p.guarded.insert(block);
  }
  return block;
}

void release_bytes(Device device, void* pointer, std::size_t asked) noexcept {
  if (pointer == nullptr) return;
  Pool& p = pool(device);
  const std::lock_guard lock(p.mutex);
  const bool is_guarded = p.guarded.erase(pointer) != 0;
  if (is_guarded) pointer = unguard(device, pointer, asked);
  const bool is_exact = p.exact_blocks.erase(pointer) != 0;
  const std::size_t bytes = block_bytes(asked, is_exact, is_guarded);
  p.statistics.in_use -= bytes;
  if (is_exact) {
    system_release(device, pointer);
    p.statistics.reserved -= bytes;
    return;
  }
  try {
    p.free_blocks[bytes].push_back(pointer);
  } catch (...) {
    system_release(device, pointer);
    p.statistics.reserved -= bytes;
  }
}

MemoryStatistics memory_statistics(Device device) {
  Pool& p = pool(device);
  const std::lock_guard lock(p.mutex);
  return p.statistics;
}

void reset_peak(Device device) {
  Pool& p = pool(device);
  const std::lock_guard lock(p.mutex);
  p.statistics.peak = p.statistics.in_use;
}

void release_cached(Device device) {
  Pool& p = pool(device);
  const std::lock_guard lock(p.mutex);
  drop_free_blocks(device, p);
}

void set_memory_guards(bool on) {
  guards = on;
  violations = 0;
}

void set_exact_blocks(bool on) { exact = on; }

std::uint64_t guard_violations() { return violations; }

void fail_allocation(std::uint64_t n) {
  const std::lock_guard lock(failure_mutex);
  failure_countdown = n;
}

}  // namespace expctr
