// The threads that CPU kernels share. Work is split by shape and never by thread count, so results do not depend on it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

namespace expctr::cpu {

/// Number of threads that parallel_for uses, the caller included. At least 1; default: the cores this process may run on.
int thread_count();
void set_thread_count(int threads);

/// Calls body(begin, end) on pieces of at most `grain` of [0, n), in any order and on any thread; returns when all are done. A nested call
/// runs on the calling thread. An exception of a piece is rethrown to the caller.
void parallel_for(std::int64_t n, std::int64_t grain, const std::function<void(std::int64_t, std::int64_t)>& body);

constexpr int scratch_slots = 3;

/// Scratch memory of this thread, 64-byte aligned, reused by the next call with the same slot on the same thread; grows, never shrinks.
/// Slot 0 belongs to the pieces of a parallel_for, slots 1 and 2 to the kernel that calls it (its thread runs pieces too).
std::span<std::byte> thread_scratch(std::size_t bytes, int slot = 0);

}  // namespace expctr::cpu
