#include "engine/io/durable_file.h"

#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <set>

#include "base/error.h"
#include "engine/io/fault.h"
#include "engine/io/phase.h"
#include "engine/io/sha256.h"
#include "tests/support/paths.h"

using namespace expctr;
namespace fs = std::filesystem;

namespace {

std::size_t entries(const fs::path& folder) {
  return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

/// Runs `action` in a child under a plan that kills; true when the child was killed, false when it ended by itself.
bool dies_under(const FaultPlan& plan, const std::function<void()>& action) {
  const pid_t child = ::fork();
  if (child == 0) {
    const ScopedFault fault(plan);
    try {
      action();
    } catch (...) {
      ::_exit(7);
    }
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  if (WIFSIGNALED(status)) return true;
  CHECK(WEXITSTATUS(status) == 0);
  return false;
}

}  // namespace

TEST_CASE("an atomic write replaces the file and leaves nothing else") {
  const TemporaryFolder folder;
  write_file_atomically(folder / "a", "one");
  write_file_atomically(folder / "a", "two");
  CHECK(read_text(folder / "a") == "two");
  CHECK(entries(folder.path()) == 1);
}

TEST_CASE("an atomic write that fails at any operation leaves the old file or the new one, and exit code 4") {
  for (const int error : {ENOSPC, EIO}) {
    for (int nth = 1; nth <= 5; ++nth) {
      CAPTURE(nth);
      const TemporaryFolder folder;
      write_file_atomically(folder / "a", "the old content");
      const ScopedFault fault({.operation = {}, .nth = nth, .error = error});
      try {
        write_file_atomically(folder / "a", "the new content");
        CHECK(nth == 5);  // write, fsync, rename, fsync of the folder: there is no fifth operation
      } catch (const ResourceError& failure) {
        CHECK(nth <= 4);
        CHECK(failure.code() == ExitCode::no_resources);
        CHECK(std::string(failure.what()).find("HINT: ") != std::string::npos);
        CHECK(std::string(failure.what()).find((folder.path()).string()) != std::string::npos);
      }
      CHECK(read_text(folder / "a") == (nth <= 3 ? "the old content" : "the new content"));
      CHECK(entries(folder.path()) == 1);
    }
  }
}

TEST_CASE("a process killed at any operation of an atomic write leaves the old file or the new one") {
  int kills = 0;
  for (int nth = 1; nth <= 5; ++nth) {
    const TemporaryFolder folder;
    write_file_atomically(folder / "a", "the old content");
    const bool killed =
        dies_under({.operation = {}, .nth = nth, .kill = true}, [&] { write_file_atomically(folder / "a", "the new content"); });
    kills += killed;
    CHECK(read_text(folder / "a") == (nth <= 3 ? "the old content" : "the new content"));
  }
  CHECK(kills == 4);
}

TEST_CASE("paths that cannot be written are wrong usage") {
  const TemporaryFolder folder;
  fs::create_directory(folder / "d");
  write_file_atomically(folder / "f", "x");
  CHECK_THROWS_AS(write_file_atomically(folder / "d", "x"), UsageError);
  CHECK_THROWS_AS(write_file_atomically(folder / "f" / "x", "x"), UsageError);
  CHECK_THROWS_AS(write_file_atomically(folder / "none" / "x", "x"), UsageError);
  CHECK_THROWS_AS(make_folders(folder / "f"), UsageError);
  CHECK_THROWS_AS(make_folders(folder / "f" / "g"), UsageError);
  CHECK_THROWS_AS(AppendFile(folder / "d", AppendFile::Mode::resume), UsageError);
  CHECK(read_text(folder / "f") == "x");
  CHECK(entries(folder.path()) == 2);
}

TEST_CASE("the real /dev/full is out of resources too") {
  OutputFile full = OutputFile::append_to("/dev/full");
  CHECK_THROWS_AS(full.write("x"), ResourceError);
}

TEST_CASE("an append-only file is cut to the last whole record on resume") {
  const TemporaryFolder folder;
  const fs::path path = folder / "log.jsonl";
  for (const std::string& torn : {std::string(), std::string("{\"c\": "), std::string(10000, 'x')}) {
    std::ofstream(path) << "{\"a\":1}\n{\"b\":2}\n" << torn;
    {
      AppendFile file(path, AppendFile::Mode::resume);
      CHECK(file.cut_bytes() == torn.size());
      file.append("{\"d\":3}");
    }
    CHECK(read_text(path) == "{\"a\":1}\n{\"b\":2}\n{\"d\":3}\n");
  }
  std::ofstream(path) << "no end of line";
  CHECK(AppendFile(path, AppendFile::Mode::resume).size() == 0);
  AppendFile fresh(path, AppendFile::Mode::fresh);
  fresh.append("x");
  CHECK(read_text(path) == "x\n");
  CHECK_THROWS_AS(fresh.append("two\nlines"), Error);
}

TEST_CASE("an append that fails takes its bytes back") {
  const TemporaryFolder folder;
  AppendFile file(folder / "log", AppendFile::Mode::fresh);
  file.append("whole");
  {
    const ScopedFault fault({.operation = FileOperation::write, .nth = 1, .error = ENOSPC});
    CHECK_THROWS_AS(file.append("a record that the disk has no room for"), ResourceError);
    CHECK(fault.fired());
  }
  CHECK(read_text(folder / "log") == "whole\n");
  file.append("next");
  CHECK(read_text(folder / "log") == "whole\nnext\n");
}

TEST_CASE("a process killed in an append leaves a file that resumes to whole records") {
  const TemporaryFolder folder;
  const fs::path path = folder / "log";
  CHECK(dies_under({.operation = FileOperation::write, .nth = 3, .kill = true}, [&] {
    AppendFile file(path, AppendFile::Mode::fresh);
    for (int i = 0; i < 5; ++i) file.append("record " + std::to_string(i));
  }));
  CHECK(read_text(path) == "record 0\nrecord 1\nreco");
  AppendFile resumed(path, AppendFile::Mode::resume);
  CHECK(read_text(path) == "record 0\nrecord 1\n");
}

TEST_CASE("the phase of a killed process can be read from outside") {
  const TemporaryFolder folder;
  CHECK(read_phase(folder / ".phase") == "");
  const pid_t child = ::fork();
  if (child == 0) {
    open_phase_file(folder / ".phase");
    phase("rollout");
    {
      const PhaseScope scope("checkpoint");
      if (current_phase() != "checkpoint") ::_exit(1);
    }
    if (read_phase(folder / ".phase") != "rollout") ::_exit(1);
    phase("explanation");
    phase("update");
    ::kill(::getpid(), SIGKILL);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  CHECK(WIFSIGNALED(status));
  CHECK(read_phase(folder / ".phase") == "update");
}

TEST_CASE("fault descriptions of the environment") {
  const FaultPlan plan = parse_fault("write:3:enospc");
  CHECK(plan.operation == FileOperation::write);
  CHECK(plan.nth == 3);
  CHECK(plan.error == ENOSPC);
  CHECK(parse_fault("any:12:kill").kill);
  for (const char* wrong : {"", "write", "write:3", "write:x:eio", "read:1:eio", "write:1:bang", "write::eio", "write:99999999999:eio"}) {
    CHECK_THROWS_AS(parse_fault(wrong), UsageError);
  }
}

TEST_CASE("SHA-256 gives the known answers of FIPS 180-2") {
  CHECK(sha256_hex(as_bytes("abc")) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(sha256_hex({}) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  const TemporaryFolder folder;
  write_file_atomically(folder / "f", std::string(1'000'000, 'a'));
  CHECK(sha256_of_file(folder / "f") == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST_CASE("what killed processes left unfinished is removed, of one file or in a folder and below, and nothing else") {
  const TemporaryFolder folder;
  fs::create_directories(folder / "in/deep");
  for (const char* name : {"a.json.tmp-12", "b.json.tmp-12", "in/deep/c.bin.tmp-7", "a.json", "a.json.tmp-", "a.json.tmp-x1", ".tmp-12", "in/notes.tmp"}) write_file_atomically(folder / name, "x");
  const auto left = [&] {
    std::set<std::string> names;
    for (const auto& entry : fs::recursive_directory_iterator(folder.path())) {
      if (entry.is_regular_file()) names.insert(fs::relative(entry.path(), folder.path()).string());
    }
    return names;
  };
  remove_unfinished_files(folder / "a.json");
  CHECK(left() == std::set<std::string>{"a.json", "b.json.tmp-12", "in/deep/c.bin.tmp-7", "a.json.tmp-", "a.json.tmp-x1", ".tmp-12", "in/notes.tmp"});
  remove_unfinished_files(folder / "in");
  CHECK(left() == std::set<std::string>{"a.json", "b.json.tmp-12", "a.json.tmp-", "a.json.tmp-x1", ".tmp-12", "in/notes.tmp"});
  remove_unfinished_files(folder / "not-there");
}
