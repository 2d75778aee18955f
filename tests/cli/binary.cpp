// The built program as a user starts it.
#include <doctest/doctest.h>

#include "tests/support/outcome.h"
#include "tests/support/paths.h"

using namespace expctr;

TEST_CASE("the program prints its version, compiler, backends, instruction sets and libraries") {
  const TemporaryFolder folder;
  const Outcome outcome = run_program(folder.path(), {"--version"});
  CHECK(outcome.code == 0);
  CHECK(outcome.output.starts_with("expctr_engine "));
  for (const char* word : {"compiler", "backends", "cpu", "instruction sets", "avx2", "libraries", "OpenSSL", "fmt", "CLI11"}) {
    CAPTURE(word);
    CHECK(outcome.output.find(word) != std::string::npos);
  }
  CHECK(outcome.errors == "");
}

TEST_CASE("the program answers wrong words with exit code 2, a message and a hint, and makes no files") {
  const TemporaryFolder folder;
  for (const std::vector<std::string>& words : std::vector<std::vector<std::string>>{{},
                                                                                     {"rnu"},
                                                                                     {"run", "no_such_job"},
                                                                                     {"--no-such-option"},
                                                                                     {"explain"},
                                                                                     {"evaluate", "--run", "nowhere"},
                                                                                     {"run", "x", "--threads", "-1"}}) {
    const Outcome outcome = run_program(folder.path(), words);
    CAPTURE(fmt::format("{}", fmt::join(words, " ")));
    CHECK(outcome.code == 2);
    CHECK(outcome.output == "");
    CHECK(outcome.errors.starts_with("error: "));
    CHECK(outcome.errors.find("\nHINT: ") != std::string::npos);
  }
  CHECK(run_program(folder.path(), {"rnu"}).errors == "error: unknown command 'rnu'\nHINT: did you mean 'run'?\n");
  CHECK(std::filesystem::is_empty(folder.path()));
}

TEST_CASE("the program refuses a fault plan that it cannot read") {
  const TemporaryFolder folder;
  const Outcome outcome = run_program(folder.path(), {"--version"}, {"EXPCTR_FAULT=nonsense"});
  CHECK(outcome.code == 2);
  CHECK(outcome.errors.starts_with("error: EXPCTR_FAULT is 'nonsense'\nHINT: "));
}
