#include "trainers/run_directory.h"

#include <doctest/doctest.h>

#include <csignal>

#include "base/error.h"
#include "cli/command_line.h"
#include "engine/config/config_reader.h"
#include "engine/io/fault.h"
#include "engine/io/phase.h"
#include "tests/support/outcome.h"
#include "tests/support/paths.h"

using namespace expctr;
namespace fs = std::filesystem;
using nlohmann::json;

namespace {

/// A job in small: four steps, each a rollout, an update and a checkpoint; the "model" is one number that depends on every step.
void run_small_job(const RunOptions& options) {
  ConfigReader reader(load_run_config(options, "seed: 1\nsteps: 4\n"));
  const auto seed = reader.get("seed", std::uint64_t{0});
  const int steps = reader.get("steps", 4);
  reader.require("steps", steps > 0, "must be > 0");
  reader.finish();
  RunDirectory run(options.out);
  std::uint64_t weight = seed;
  int step = 0;
  if (const auto point = run.resume_point(options.job, options.resume)) {
    step = point->state().at("step").get<int>();
    std::memcpy(&weight, point->tensor("weight").bytes.data(), sizeof weight);
    run.begin_log(options.job, step);
  } else {
    run.begin_log(options.job);
  }
  run.write_config(reader.resolved_yaml());
  while (step < steps) {
    ++step;
    phase("rollout");
    const std::uint64_t sample = weight * 6364136223846793005ull + static_cast<std::uint64_t>(step);
    phase("update");
    weight ^= sample >> 7;
    run.log(step, {{"weight", weight % 1000}, {"text", "sample"}});
    run.sync_log();
    CheckpointWriter writer(run.checkpoints(options.job), fmt::format("step{}", step));
    writer.add({"weight", DType::i64, {1}, std::as_bytes(std::span(&weight, 1))});
    writer.set_state({{"step", step}});
    writer.commit();
  }
  phase("explanation");
  run.write_metrics({{"job", options.job}, {"weight", weight}, {"peak_bytes", 0}});
}

Outcome run(const fs::path& folder, const std::vector<std::string>& words, std::optional<FaultPlan> plan = {}) {
  return in_child(folder, [&] {
    std::optional<ScopedFault> fault;
    if (plan) fault.emplace(*plan);
    return run_command_line(words, all_commands({{"small", "", run_small_job, "tiny"}, {"other", "", run_small_job, "tiny"}}));
  });
}

std::string result_of(const fs::path& folder) {
  return read_text(folder / "metrics.json") + read_text(folder / "log.jsonl") + read_text(folder / "config.yaml");
}

}  // namespace

TEST_CASE("a run leaves its configuration, log, events, checkpoints and metrics") {
  const TemporaryFolder folder;
  const Outcome outcome = run(folder.path(), {"run", "small", "--set", "steps=2"});
  CHECK(outcome.code == 0);
  const fs::path out = folder / "runs" / "tiny";
  CHECK(read_text(out / "config.yaml") == "seed: 1\nsteps: 2\n");
  std::ifstream log(out / "log.jsonl");
  std::string line;
  REQUIRE(std::getline(log, line));
  const json first = json::parse(line);
  CHECK(first["job"] == "small");
  CHECK(first["step"] == 1);
  CHECK(fs::exists(out / "events" / "small"));
  CHECK(list_checkpoints(out / "checkpoints" / "small").size() == 2);
  CHECK(json::parse(read_text(out / "metrics.json"))["job"] == "small");
  CHECK(read_phase(out / ".phase") == "explanation");
  // The resolved configuration is runnable as it is.
  CHECK(run(folder.path(), {"run", "small", "--config", (out / "config.yaml").string(), "--out", "again"}).code == 0);
  CHECK(result_of(folder / "again") == result_of(out));
}

TEST_CASE("a run that dies at any write, and the same command again, ends with the same bits") {
  const TemporaryFolder folder;
  REQUIRE(run(folder.path(), {"run", "small", "--out", "whole"}).code == 0);
  const std::string expected = result_of(folder / "whole");
  int kills = 0;
  std::map<std::string, int> phases;
  for (int nth = 1;; nth += 5) {
    CAPTURE(nth);
    const std::string out = fmt::format("killed{}", nth);
    const Outcome killed = run(folder.path(), {"run", "small", "--out", out}, FaultPlan{.operation = {}, .nth = nth, .kill = true});
    if (killed.code == 0) break;
    ++kills;
    CHECK(killed.signal == SIGKILL);
    ++phases[read_phase(folder / out / ".phase")];
    const Outcome again = run(folder.path(), {"run", "small", "--out", out});
    CHECK(again.code == 0);
    CHECK(result_of(folder / out) == expected);
    REQUIRE(nth < 500);
  }
  CHECK(kills > 10);
  CHECK(phases["checkpoint"] > 0);
  CHECK(phases["update"] > 0);
}

TEST_CASE("a full disk at any write is exit code 4 with a hint, and the same command goes on") {
  const TemporaryFolder folder;
  REQUIRE(run(folder.path(), {"run", "small", "--out", "whole"}).code == 0);
  const std::string expected = result_of(folder / "whole");
  for (int nth = 1; nth < 60; nth += 13) {
    CAPTURE(nth);
    const std::string out = fmt::format("full{}", nth);
    const Outcome full =
        run(folder.path(), {"run", "small", "--out", out}, FaultPlan{.operation = {}, .nth = nth, .error = ENOSPC, .sticky = true});
    CHECK(full.code == 4);
    CHECK(full.errors.starts_with("error: cannot "));
    CHECK(full.errors.find("No space left on device\nHINT: ") != std::string::npos);
    CHECK(run(folder.path(), {"run", "small", "--out", out}).code == 0);
    CHECK(result_of(folder / out) == expected);
  }
}

TEST_CASE("wrong folders and keys are exit code 2 and leave nothing behind") {
  const TemporaryFolder folder;
  std::ofstream(folder / "file") << "x";
  const Outcome file = run(folder.path(), {"run", "small", "--out", "file"});
  CHECK(file.code == 2);
  CHECK(file.errors.find("'file'") != std::string::npos);
  CHECK(read_text(folder / "file") == "x");
  CHECK(run(folder.path(), {"run", "small", "--out", "file/below"}).code == 2);
  const Outcome key = run(folder.path(), {"run", "small", "--out", "o", "--set", "step=3"});
  CHECK(key.code == 2);
  CHECK(key.errors == "error: --set step=3: unknown key 'step'\nHINT: did you mean 'steps'?\n");
  CHECK(run(folder.path(), {"run", "small", "--out", "o", "--set", "steps=0"})
            .errors.starts_with("error: --set steps=0: steps is 0, must be > 0\n"));
  CHECK(run(folder.path(), {"run", "small", "--out", "o", "--config", "none.yaml"}).code == 2);
  CHECK_FALSE(fs::exists(folder / "o"));
  CHECK(run(folder.path(), {"run", "small", "--out", "o", "--resume", "nowhere"}).code == 2);
}

TEST_CASE("one folder has one process at a time") {
  const TemporaryFolder folder;
  {
    const RunDirectory mine(folder / "o");
    const Outcome second = run(folder.path(), {"run", "small", "--out", "o"});
    CHECK(second.code == 2);
    CHECK(second.errors ==
          fmt::format("error: another process works in 'o' (process {})\nHINT: wait for it, or choose another folder with --out\n",
                      ::getpid()));
  }
  CHECK(run(folder.path(), {"run", "small", "--out", "o"}).code == 0);
}

TEST_CASE("resume: auto, never, a checkpoint, a run") {
  const TemporaryFolder folder;
  REQUIRE(run(folder.path(), {"run", "small", "--out", "a"}).code == 0);
  const std::string expected = result_of(folder / "a");
  const auto checkpoints = list_checkpoints(folder / "a" / "checkpoints" / "small");
  REQUIRE(checkpoints.size() == 2);
  // From a checkpoint of another run, and from that run's newest.
  CHECK(run(folder.path(), {"run", "small", "--out", "b", "--resume", checkpoints[0].string()}).code == 0);
  CHECK(read_text(folder / "b" / "metrics.json") == read_text(folder / "a" / "metrics.json"));
  CHECK(run(folder.path(), {"run", "small", "--out", "c", "--resume", "a"}).code == 0);
  CHECK(read_text(folder / "c" / "metrics.json") == read_text(folder / "a" / "metrics.json"));
  // Damage: passed over with a warning by auto, an error when named.
  fs::resize_file(checkpoints[1] / "tensors.bin", 3);
  const Outcome passed = run(folder.path(), {"run", "small", "--out", "a"});
  CHECK(passed.code == 0);
  CHECK(passed.errors.starts_with("warning: passed over a damaged checkpoint: "));
  CHECK(result_of(folder / "a") == expected);
  const fs::path named = list_checkpoints(folder / "a" / "checkpoints" / "small").front();
  fs::resize_file(named / "tensors.bin", 3);
  CHECK(run(folder.path(), {"run", "small", "--out", "b", "--resume", named.string()}).code == 3);
  // Anew, with another seed: nothing of the old run is left in log and metrics.
  CHECK(run(folder.path(), {"run", "small", "--out", "a", "--resume", "never", "--seed", "5"}).code == 0);
  CHECK(run(folder.path(), {"run", "small", "--out", "d", "--seed", "5"}).code == 0);
  CHECK(result_of(folder / "a") == result_of(folder / "d"));
  CHECK(std::distance(fs::directory_iterator(folder / "a" / "events" / "small"), fs::directory_iterator()) == 1);
  CHECK(result_of(folder / "a") != expected);
}

TEST_CASE("jobs that share a folder keep each other's log") {
  const TemporaryFolder folder;
  for (const char* job : {"small", "other", "small"})
    REQUIRE(run(folder.path(), {"run", job, "--out", "o", "--resume", "never"}).code == 0);
  std::ifstream log(folder / "o" / "log.jsonl");
  std::map<std::string, int> records;
  for (std::string line; std::getline(log, line);) ++records[json::parse(line)["job"].get<std::string>()];
  CHECK(records == std::map<std::string, int>{{"small", 4}, {"other", 4}});
}
