#include "cpu/thread_pool.h"

#include <doctest/doctest.h>

#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

#include "base/error.h"
#include "cpu/isa.h"

using namespace expctr;

TEST_CASE("parallel_for visits every index once, in pieces of at most grain") {
  const int threads = cpu::thread_count();
  for (const int count : {1, 2, 5}) {
    cpu::set_thread_count(count);
    CHECK(cpu::thread_count() == count);
    for (const std::int64_t n : {0, 1, 7, 1000}) {
      for (int repeat = 0; repeat < 50; ++repeat) {
        std::vector<std::atomic<int>> visits(n);
        std::atomic<bool> too_wide{false};
        cpu::parallel_for(n, 3, [&](std::int64_t begin, std::int64_t end) {
          if (end - begin > 3 || end <= begin) too_wide = true;
          for (std::int64_t i = begin; i < end; ++i) ++visits[i];
        });
        bool once = true;
        for (const auto& visit : visits) once = once && visit == 1;
        CHECK(once);
        CHECK_FALSE(too_wide);
      }
    }
  }
  cpu::set_thread_count(threads);
}

TEST_CASE("parallel_for nests, runs from several threads at once, and passes exceptions on") {
  std::atomic<std::int64_t> sum{0};
  std::vector<std::thread> callers;
  for (int t = 0; t < 4; ++t)
    callers.emplace_back([&] {
      for (int repeat = 0; repeat < 20; ++repeat)
        cpu::parallel_for(10, 1, [&](std::int64_t begin, std::int64_t) {
          cpu::parallel_for(10, 2, [&](std::int64_t from, std::int64_t to) {
            for (std::int64_t i = from; i < to; ++i) sum += begin * 10 + i;
          });
        });
    });
  for (std::thread& caller : callers) caller.join();
  CHECK(sum == 4 * 20 * (99 * 100 / 2));
  CHECK_THROWS_AS(cpu::parallel_for(100, 1,
                                    [](std::int64_t i, std::int64_t) {
                                      if (i == 37) throw std::out_of_range("37");
                                    }),
                  std::out_of_range);
  CHECK_NOTHROW(cpu::parallel_for(100, 1, [](std::int64_t, std::int64_t) {}));
  CHECK_THROWS_AS(cpu::set_thread_count(0), UsageError);
}

TEST_CASE("thread scratch is aligned, keeps its place and its slots apart") {
  const auto first = cpu::thread_scratch(100, 0), second = cpu::thread_scratch(100, 1);
  CHECK(reinterpret_cast<std::uintptr_t>(first.data()) % 64 == 0);
  CHECK(first.data() != second.data());
  CHECK(cpu::thread_scratch(50, 0).data() == first.data());
  CHECK(cpu::thread_scratch(1 << 20, 0).size() == 1 << 20);
}

TEST_CASE("instruction sets have names") {
  CHECK(cpu::parse_isa("v3") == cpu::Isa::v3);
  CHECK(cpu::parse_isa(cpu::isa_name(cpu::best_isa())) == cpu::best_isa());
  CHECK_THROWS_AS(cpu::parse_isa("sse"), UsageError);
}
