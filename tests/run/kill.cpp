// kill -9 at any moment, then the same command: it goes on and ends with the bits of an undisturbed run. The same for Ctrl-C.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <map>
#include <thread>

#include "base/hash.h"
#include "engine/io/checkpoint.h"
#include "engine/io/phase.h"
#include "tests/run/process.h"
#include "tests/run/results.h"
#include "tests/support/tiny_run.h"

namespace fs = std::filesystem;
using namespace expctr;
using Clock = std::chrono::steady_clock;

namespace {

/// How many kills fell into which phase, over the whole program.
std::map<std::string, int> kills;

const TinyRun& tiny() {
  static const TemporaryFolder folder;
  static const TinyRun run = write_tiny_run(folder.path());
  return run;
}

/// What stands in the folder before `job` starts, and what it leaves when nothing disturbs it.
struct Reference {
  fs::path before;
  std::map<std::string, std::string> results;
  double seconds = 0;
};

const Reference& reference(const std::string& job) {
  static const TemporaryFolder folder;
  static std::map<std::string, Reference> known;
  if (const auto found = known.find(job); found != known.end()) return found->second;
  static const std::map<std::string, std::string> predecessor = {{"stage1", "sft"}, {"stage2", "stage1"}, {"stage3", "stage2"}};
  Reference& made = known[job];
  made.before = folder / ("before-" + job);
  const fs::path after = folder / ("after-" + job);
  if (const auto earlier = predecessor.find(job); earlier != predecessor.end()) {
    reference(earlier->second);
    fs::copy(folder / ("after-" + earlier->second), made.before, fs::copy_options::recursive);
    fs::copy(made.before, after, fs::copy_options::recursive);
  } else {
    fs::create_directories(made.before);
  }
  const auto start = Clock::now();
  const Ending ending = run_to_end(tiny().command(job, after));
  made.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  INFO(ending.errors);
  REQUIRE(ending.code == 0);
  made.results = results_of(after);
  return made;
}

fs::path fresh_copy(const Reference& of, const TemporaryFolder& folder) {
  const fs::path out = folder / "out";
  fs::remove_all(out);
  fs::copy(of.before, out, fs::copy_options::recursive);
  fs::remove(out / ".phase");  // the phase of another process says nothing about the next one
  return out;
}

/// After a kill: counts its phase.
std::string count_kill(const fs::path& out) {
  const std::string phase = read_phase(out / ".phase");
  ++kills[phase.empty() ? "start" : phase];
  return phase;
}

void finish_and_compare(const std::string& job, const fs::path& out) {
  const Ending ending = run_to_end(tiny().command(job, out));
  INFO(ending.errors);
  CHECK(ending.code == 0);
  CHECK(differences(reference(job).results, results_of(out)) == "");
}

/// Kills `job` at `count` moments drawn over the length of the run, one run with all the kills.
void kill_at_random(const std::string& job, int count, std::uint64_t seed) {
  const TemporaryFolder folder;
  const fs::path out = fresh_copy(reference(job), folder);
  std::uint64_t state = seed;
  int done = 0;
  for (int attempt = 0; done < count && attempt < 10 * count; ++attempt) {
    // A run that was killed before has less to do; what came too late is drawn again, earlier.
    const double moment = reference(job).seconds * (static_cast<double>(splitmix64(++state) >> 11) * 0x1p-53) / (1.0 + 0.3 * attempt);
    Process process(tiny().command(job, out));
    std::this_thread::sleep_for(std::chrono::duration<double>(moment));
    process.signal(SIGKILL);
    const Ending ending = process.wait();
    if (ending.signal == SIGKILL) {
      count_kill(out);
      ++done;
    } else {
      INFO(ending.errors);
      REQUIRE(ending.code == 0);
      CHECK(differences(reference(job).results, results_of(out)) == "");
      fresh_copy(reference(job), folder);
    }
  }
  CHECK(done == count);
  finish_and_compare(job, out);
}

/// Kills `job` in each of these phases by watching its phase file; one run with all the kills.
void kill_in_phases(const std::string& job, const std::vector<std::string>& phases) {
  const TemporaryFolder folder;
  const fs::path out = fresh_copy(reference(job), folder);
  for (const std::string& wanted : phases) {
    // By the time the signal arrives the phase may be over: that is a kill too, but not the one that was wanted.
    bool hit = false;
    for (int attempt = 0; !hit && attempt < 40; ++attempt) {
      Process process(tiny().command(job, out));
      while (process.running() && read_phase(out / ".phase") != wanted) std::this_thread::yield();
      process.signal(SIGKILL);
      if (process.wait().signal == SIGKILL) {
        hit = count_kill(out) == wanted;
      } else {
        CHECK(differences(reference(job).results, results_of(out)) == "");
        fresh_copy(reference(job), folder);
      }
    }
    WARN_MESSAGE(hit, job << ": no kill fell into the phase " << wanted);
  }
  finish_and_compare(job, out);
}

/// The n-th write, flush or rename is the process's last act.
void kill_in_operation(const std::string& job, const std::string& fault) {
  const TemporaryFolder folder;
  const fs::path out = fresh_copy(reference(job), folder);
  CAPTURE(fault);
  const Ending ending = run_to_end(tiny().command(job, out), {"EXPCTR_FAULT=" + fault});
  REQUIRE(ending.signal == SIGKILL);
  count_kill(out);
  finish_and_compare(job, out);
}

const std::vector<std::string> all_phases = {"rollout", "scoring", "update", "checkpoint", "explanation"};

}  // namespace

TEST_CASE("every job that is killed at random moments ends with the bits of an undisturbed run") {
  std::uint64_t seed = 100;
  for (const char* job : {"sft", "stage1", "stage2", "stage3", "expctr"}) {
    CAPTURE(job);
    kill_at_random(job, 3, seed += 100);
  }
}

TEST_CASE("every job that is killed in a chosen phase ends with the bits of an undisturbed run") {
  kill_in_phases("sft", {"update", "checkpoint"});
  kill_in_phases("stage1", all_phases);
  kill_in_phases("stage2", {"update", "checkpoint"});
  kill_in_phases("stage3", all_phases);
}

TEST_CASE("a job whose n-th file operation kills it ends with the bits of an undisturbed run") {
  for (const char* fault : {"write:3:kill", "fsync:5:kill", "rename:3:kill"}) kill_in_operation("sft", fault);
  for (const char* fault : {"write:12:kill", "fsync:20:kill", "rename:6:kill", "rename:9:kill"}) kill_in_operation("stage1", fault);
  for (const char* fault : {"write:9:kill", "rename:3:kill", "rename:6:kill"}) kill_in_operation("stage2", fault);
  for (const char* fault : {"any:50:kill", "rename:7:kill"}) kill_in_operation("stage3", fault);
}

TEST_CASE("Ctrl-C: exit code 130, a checkpoint, a message that says how to go on, and the same bits in the end") {
  for (const auto& [job, phase, checkpoints] : std::vector<std::array<std::string, 3>>{{"sft", "update", "sft"},
                                                                                       {"stage1", "rollout", "stage1"},
                                                                                       {"stage1", "explanation", "stage1"},
                                                                                       {"stage2", "update", "stage2-text_free"},
                                                                                       {"stage3", "update", "stage3"}}) {
    CAPTURE(job);
    CAPTURE(phase);
    const TemporaryFolder folder;
    const fs::path out = fresh_copy(reference(job), folder);
    Process process(tiny().command(job, out));
    while (process.running() && read_phase(out / ".phase") != phase) std::this_thread::yield();
    process.signal(SIGINT);
    const Ending ending = process.wait();
    INFO(ending.errors);
    CHECK(ending.code == 130);
    CHECK(ending.errors.find("\nHINT: ") != std::string::npos);
    CHECK(ending.errors.find("the same command") != std::string::npos);
    CHECK(Checkpoint::open_latest(out / "checkpoints" / checkpoints, [](const std::string& warning) { FAIL(warning); }).has_value());
    finish_and_compare(job, out);
  }
}

TEST_CASE("kills have fallen into every phase") {
  // Chance, or a choice of test cases, may have left one out.
  for (const std::string& phase : all_phases) {
    if (kills[phase] == 0) kill_in_phases("stage1", {phase});
  }
  std::printf("kills: rollout %d, scoring %d, update %d, explanation %d, checkpoint %d; elsewhere", kills["rollout"], kills["scoring"],
              kills["update"], kills["explanation"], kills["checkpoint"]);
  for (const auto& [phase, count] : kills) {
    if (std::find(all_phases.begin(), all_phases.end(), phase) == all_phases.end()) std::printf(" %s %d", phase.c_str(), count);
  }
  std::printf("\n");
  for (const std::string& phase : all_phases) {
    CAPTURE(phase);
    CHECK(kills[phase] > 0);
  }
}

TEST_SUITE("slow") {
  TEST_CASE("every job that is killed at twenty random moments ends with the bits of an undisturbed run") {
    std::uint64_t seed = 1000;
    for (const char* job : {"sft", "stage1", "stage2", "stage3", "expctr"}) {
      CAPTURE(job);
      for (int run = 0; run < 5; ++run) kill_at_random(job, 4, seed += 100);
    }
  }

  TEST_CASE("every job whose n-th file operation kills it, for the first forty, ends with the bits of an undisturbed run") {
    for (const char* job : {"sft", "stage1", "stage2", "stage3"}) {
      for (int n = 1; n <= 40; ++n) {
        const TemporaryFolder folder;
        const fs::path out = fresh_copy(reference(job), folder);
        CAPTURE(job);
        CAPTURE(n);
        if (run_to_end(tiny().command(job, out), {fmt::format("EXPCTR_FAULT=any:{}:kill", n)}).signal == SIGKILL) count_kill(out);
        finish_and_compare(job, out);
      }
    }
  }
}
