// A job is open while its caller still hands out pieces; a worker that arrives later finds it closed and goes back to sleep, so the caller
// waits for workers inside the job only and never for one that is still waking up.
#include "cpu/thread_pool.h"

#include <immintrin.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#include "base/error.h"

namespace expctr::cpu {
namespace {

using Body = std::function<void(std::int64_t, std::int64_t)>;

thread_local bool inside_parallel_for = false;

// About 50 microseconds: longer than the gap between two products of one decoding step, short enough not to disturb other processes.
constexpr int spins_before_sleep = 1500;

int available_cores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

class ThreadPool {
 public:
  ThreadPool() { start(available_cores()); }
  ~ThreadPool() { stop(); }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_.load(std::memory_order_relaxed); }

  void resize(int threads) {
    const std::lock_guard lock(caller_);
    if (threads == threads_) return;
    stop();
    start(threads);
  }

  /// False when another thread's job has the pool.
  bool try_run(std::int64_t n, std::int64_t grain, const Body& body) {
    const std::unique_lock lock(caller_, std::try_to_lock);
    if (!lock.owns_lock() || workers_.empty()) return false;
    body_ = &body;
    n_ = n;
    grain_ = grain;
    error_ = nullptr;
    next_.store(0, std::memory_order_relaxed);
    failed_.store(false, std::memory_order_relaxed);
    state_.store(open_bit, std::memory_order_release);
    signal_.fetch_add(1, std::memory_order_release);
    signal_.notify_all();
    take_pieces();
    std::uint32_t inside = state_.fetch_and(~open_bit, std::memory_order_acq_rel) & ~open_bit;
    for (int spin = 0; inside != 0; inside = state_.load(std::memory_order_acquire)) {
      if (++spin < spins_before_sleep)
        _mm_pause();
      else
        state_.wait(inside, std::memory_order_acquire);
    }
    if (error_) {
      const std::exception_ptr error = std::move(error_);
      error_ = nullptr;
      std::rethrow_exception(error);
    }
    return true;
  }

 private:
  static constexpr std::uint32_t open_bit = 0x80000000u;

  void start(int threads) {
    stopping_.store(false);
    threads_.store(threads);
    const std::uint32_t seen = signal_.load();
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this, seen] { work(seen); });
  }

  void stop() {
    stopping_.store(true);
    signal_.fetch_add(1);
    signal_.notify_all();
    for (std::thread& worker : workers_) worker.join();
    workers_.clear();
  }

  void work(std::uint32_t seen) {
    inside_parallel_for = true;
    for (;;) {
      for (int spin = 0; signal_.load(std::memory_order_acquire) == seen;) {
        if (++spin < spins_before_sleep)
          _mm_pause();
        else
          signal_.wait(seen, std::memory_order_acquire);
      }
      seen = signal_.load(std::memory_order_acquire);
      if (stopping_.load()) return;
      std::uint32_t state = state_.load(std::memory_order_acquire);
      while ((state & open_bit) && !state_.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel)) {
      }
      if (!(state & open_bit)) continue;
      take_pieces();
      if (state_.fetch_sub(1, std::memory_order_acq_rel) == 1) state_.notify_all();
    }
  }

  void take_pieces() {
    const bool outer = inside_parallel_for;
    inside_parallel_for = true;
    for (;;) {
      const std::int64_t begin = next_.fetch_add(grain_, std::memory_order_relaxed);
      if (begin >= n_ || failed_.load(std::memory_order_relaxed)) break;
      try {
        (*body_)(begin, std::min(n_, begin + grain_));
      } catch (...) {
        const std::lock_guard lock(error_lock_);
        if (!error_) error_ = std::current_exception();
        failed_.store(true, std::memory_order_relaxed);
      }
    }
    inside_parallel_for = outer;
  }

  std::mutex caller_;  ///< held by the thread whose job runs
  std::vector<std::thread> workers_;
  std::atomic<int> threads_{1};
  std::atomic<bool> stopping_{false};
  std::atomic<std::uint32_t> signal_{0};  ///< grows by one a job
  std::atomic<std::uint32_t> state_{0};   ///< open bit, and the number of workers inside the job
  const Body* body_ = nullptr;
  std::int64_t n_ = 0, grain_ = 1;
  alignas(64) std::atomic<std::int64_t> next_{0};
  std::atomic<bool> failed_{false};
  std::mutex error_lock_;
  std::exception_ptr error_;
};

ThreadPool& pool() {
  static ThreadPool instance;
  return instance;
}

struct FreeDeleter {
  void operator()(std::byte* memory) const { std::free(memory); }
};

struct ScratchBuffer {
  std::unique_ptr<std::byte, FreeDeleter> memory;
  std::size_t bytes = 0;
};

}  // namespace

int thread_count() { return pool().threads(); }

void set_thread_count(int threads) {
  if (threads < 1) throw UsageError("thread count " + std::to_string(threads) + " is less than 1", "use a positive number of threads");
  pool().resize(threads);
}

void parallel_for(std::int64_t n, std::int64_t grain, const Body& body) {
  grain = std::max<std::int64_t>(1, grain);
  if (n > grain && !inside_parallel_for && pool().try_run(n, grain, body)) return;
  for (std::int64_t begin = 0; begin < n; begin += grain) body(begin, std::min(n, begin + grain));
}

std::span<std::byte> thread_scratch(std::size_t bytes, int slot) {
  thread_local ScratchBuffer buffers[scratch_slots];
  ScratchBuffer& buffer = buffers[slot];
  if (bytes > buffer.bytes) {
    const std::size_t rounded = (std::max(bytes, 2 * buffer.bytes) + 4095) / 4096 * 4096;
    buffer.memory.reset();
    buffer.bytes = 0;
    buffer.memory.reset(static_cast<std::byte*>(std::aligned_alloc(64, rounded)));
    if (!buffer.memory) throw ResourceError("no memory for " + std::to_string(rounded) + " bytes of kernel scratch", "use a smaller batch");
    buffer.bytes = rounded;
  }
  return {buffer.memory.get(), bytes};
}

}  // namespace expctr::cpu
