// A caching allocator per device: freed blocks are kept and handed out again, so a step in steady state allocates nothing.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/core/device.h"

namespace expctr {

struct MemoryStatistics {
  std::size_t in_use = 0, peak = 0, reserved = 0;  ///< bytes; reserved includes cached free blocks
  std::uint64_t system_allocations = 0;            ///< times the system was asked
};

/// 64-byte aligned (256 on CUDA). Throws ResourceError that names the bytes asked for and those in use.
void* allocate_bytes(Device device, std::size_t bytes);
void release_bytes(Device device, void* pointer, std::size_t bytes) noexcept;

MemoryStatistics memory_statistics(Device device);
void reset_peak(Device device);
/// Gives cached free blocks back to the system.
void release_cached(Device device);

/// Tests: while on, new blocks of every device are filled with NaN (0xFF bytes: -1 in integers) and stand between 256 and 64 guard bytes,
/// which are checked at release.
void set_memory_guards(bool on);
/// Blocks found written outside of their bounds since the guards were switched on.
std::uint64_t guard_violations();

/// Tests: while on, blocks of CUDA devices come from the system in the size asked for and go back at once, so that a device that checks memory
/// sees what is read or written past a tensor's end, and what is read before it was written.
void set_exact_blocks(bool on);

/// Tests: the n-th allocation from now (counting from 1) fails; 0 switches the plan off.
void fail_allocation(std::uint64_t n);

}  // namespace expctr
