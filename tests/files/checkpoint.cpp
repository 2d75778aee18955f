#include "engine/io/checkpoint.h"

#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "base/error.h"
#include "engine/io/fault.h"
#include "engine/io/phase.h"
#include "tests/support/paths.h"

using namespace expctr;
namespace fs = std::filesystem;
using nlohmann::json;

namespace {

std::vector<float> weights(int step) {
  std::vector<float> values(600);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(step) * 1000.0f + static_cast<float>(i);
  return values;
}

/// A small but complete checkpoint of `step`: two tensors, a state, a configuration.
fs::path save(const fs::path& directory, int step, int keep = 2) {
  CheckpointWriter writer(directory, "step" + std::to_string(step));
  const std::vector<float> a = weights(step);
  const std::vector<std::int64_t> b = {step};
  writer.add({"a", DType::f32, {20, 30}, std::as_bytes(std::span(a))});
  writer.add({"empty", DType::f32, {0, 3}, {}});
  writer.add({"b", DType::i64, {}, std::as_bytes(std::span(b))});
  writer.set_state({{"step", step}, {"rng", {1, 2}}});
  writer.set_config("seed: 1\n");
  return writer.commit(keep);
}

/// The step of a whole checkpoint, after checking every byte of it.
int verified_step(const Checkpoint& checkpoint) {
  const int step = checkpoint.state().at("step").get<int>();
  const NamedBlob& a = checkpoint.tensor("a");
  CHECK(a.shape == std::vector<std::int64_t>{20, 30});
  const std::vector<float> expected = weights(step);
  REQUIRE(a.bytes.size() == expected.size() * sizeof(float));
  CHECK(std::memcmp(a.bytes.data(), expected.data(), a.bytes.size()) == 0);
  std::int64_t b = 0;
  REQUIRE(checkpoint.tensor("b").bytes.size() == sizeof b);
  std::memcpy(&b, checkpoint.tensor("b").bytes.data(), sizeof b);
  CHECK(b == step);
  CHECK(checkpoint.config() == "seed: 1\n");
  return step;
}

void flip_byte(const fs::path& path, std::size_t position) {
  std::string text = read_text(path);
  text[position] = static_cast<char>(text[position] ^ 1);
  std::ofstream(path, std::ios::binary) << text;
}

}  // namespace

TEST_CASE("a checkpoint comes back with the same bytes, and the last ones are kept") {
  const TemporaryFolder folder;
  CHECK_FALSE(Checkpoint::open_latest(folder / "none", {}));
  for (int step = 1; step <= 5; ++step) save(folder.path(), step, 3);
  CHECK(list_checkpoints(folder.path()).size() == 3);
  const auto latest = Checkpoint::open_latest(folder.path(), [](const std::string& text) { FAIL(text); });
  REQUIRE(latest);
  CHECK(verified_step(*latest) == 5);
  CHECK(latest->label() == "step5");
  CHECK(latest->has("empty"));
  CHECK_FALSE(latest->has("c"));
  CHECK_THROWS_AS(latest->tensor("c"), InputError);
  CHECK(latest->tensor("empty").bytes.empty());
  // The newest is the one written last, not the one of the highest step.
  save(folder.path(), 2);
  CHECK(verified_step(*Checkpoint::open_latest(folder.path(), {})) == 2);
}

TEST_CASE("a write that fails, at any operation, leaves the previous checkpoint whole") {
  int operations = 0;
  for (int nth = 1; nth == 1 || nth <= operations; ++nth) {
    CAPTURE(nth);
    const TemporaryFolder folder;
    save(folder.path(), 1);
    save(folder.path(), 2);
    bool failed = false;
    {
      const ScopedFault fault({.operation = {}, .nth = nth, .error = ENOSPC});
      try {
        save(folder.path(), 3);
      } catch (const ResourceError& error) {
        failed = true;
        CHECK(error.code() == ExitCode::no_resources);
      }
      CHECK(failed == fault.fired());
      if (!failed) operations = nth;
    }
    if (!failed) break;
    operations = nth + 1;
    const auto latest = Checkpoint::open_latest(folder.path(), [](const std::string& text) { FAIL(text); });
    REQUIRE(latest);
    CHECK(verified_step(*latest) >= 2);
    save(folder.path(), 4);
    CHECK(verified_step(*Checkpoint::open_latest(folder.path(), {})) == 4);
    for (const auto& entry : fs::directory_iterator(folder.path())) CHECK(entry.path().filename().string()[0] != '.');
  }
  CHECK(operations > 10);
}

TEST_CASE("kill -9 at any operation leaves a whole checkpoint, in phase 'checkpoint'") {
  int kills = 0;
  for (int nth = 1;; ++nth) {
    CAPTURE(nth);
    const TemporaryFolder folder;
    save(folder / "c", 1);
    const pid_t child = ::fork();
    if (child == 0) {
      open_phase_file(folder / ".phase");
      phase("update");
      const ScopedFault fault({.operation = {}, .nth = nth, .kill = true});
      save(folder / "c", 2, 1);
      phase("update");
      ::_exit(0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    const auto latest = Checkpoint::open_latest(folder / "c", [](const std::string& text) { FAIL(text); });
    REQUIRE(latest);
    const int step = verified_step(*latest);
    CHECK((step == 1 || step == 2));
    if (!WIFSIGNALED(status)) {
      CHECK(step == 2);
      break;
    }
    ++kills;
    CHECK(read_phase(folder / ".phase") == "checkpoint");
    REQUIRE(nth < 100);
  }
  CHECK(kills > 10);
}

TEST_CASE("damage in any file is found, and the checkpoint before is used") {
  for (const char* name : {"tensors.bin", "state.json", "config.yaml", "manifest.json"}) {
    for (const int kind : {0, 1, 2, 3}) {
      CAPTURE(name);
      CAPTURE(kind);
      const TemporaryFolder folder;
      save(folder.path(), 1);
      const fs::path newest = save(folder.path(), 2);
      const std::size_t size = static_cast<std::size_t>(fs::file_size(newest / name));
      if (kind == 0) flip_byte(newest / name, size / 2);
      if (kind == 1) fs::resize_file(newest / name, size / 2);
      if (kind == 2) fs::remove(newest / name);
      if (kind == 3) fs::resize_file(newest / name, 0);
      CHECK_THROWS_AS(Checkpoint::open(newest), InputError);
      int warnings = 0;
      const auto latest = Checkpoint::open_latest(folder.path(), [&](const std::string& text) {
        ++warnings;
        CHECK(text.find(name) != std::string::npos);
      });
      REQUIRE(latest);
      CHECK(verified_step(*latest) == 1);
      CHECK(warnings == 1);
    }
  }
}

TEST_CASE("every single flipped byte of a manifest is found") {
  const TemporaryFolder folder;
  const fs::path path = save(folder.path(), 1) / "manifest.json";
  const std::string good = read_text(path);
  for (std::size_t i = 0; i < good.size(); ++i) {
    CAPTURE(i);
    std::string text = good;
    text[i] = static_cast<char>(text[i] ^ 1);
    std::ofstream(path, std::ios::binary) << text;
    bool refused = false;
    try {
      Checkpoint::open(path.parent_path());
    } catch (const InputError&) {
      refused = true;
    }
    // White space between the members may change without changing what is said.
    if (!refused) CHECK(json::parse(text) == json::parse(good));
  }
}

TEST_CASE("wrong use of the writer is an error and leaves nothing behind") {
  const TemporaryFolder folder;
  const std::vector<float> four(4);
  const auto bytes = std::as_bytes(std::span(four));
  {
    CheckpointWriter writer(folder.path(), "x");
    writer.add({"a", DType::f32, {4}, bytes});
    CHECK_THROWS_AS(writer.add({"a", DType::f32, {4}, bytes}), Error);
    CHECK_THROWS_AS(writer.add({"b", DType::f32, {5}, bytes}), Error);
    CHECK_THROWS_AS(writer.add({"b", DType::f32, {-1}, bytes}), Error);
    CHECK_THROWS_AS(writer.add({"b", DType::q4_0, {4}, bytes}), Error);
    CHECK_THROWS_AS(writer.add({"b", DType::f32, {1LL << 40, 1LL << 40}, bytes}), Error);
    CHECK_THROWS_AS(writer.commit(0), Error);
  }
  CHECK(fs::is_empty(folder.path()));
  CHECK_THROWS_AS(CheckpointWriter(folder.path(), "../x"), Error);
  CHECK_THROWS_AS(CheckpointWriter(folder.path(), ""), Error);
  std::ofstream(folder / "file") << "x";
  CHECK_THROWS_AS(CheckpointWriter(folder / "file", "x"), UsageError);
}
