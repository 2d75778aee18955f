// The whole of ExpCTR in miniature on a CUDA device: every job runs to its end, and begins as on the CPU.
#include <fmt/format.h>

#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/cuda_models/both.h"
#include "tests/support/outcome.h"
#include "tests/support/paths.h"
#include "tests/support/tiny_run.h"

using namespace expctr;
using namespace expctr::test;

namespace {

// The first record of each job in log.jsonl: what it says comes from one forward and backward pass and no update.
std::map<std::string, nlohmann::json> first_records(const std::filesystem::path& out) {
  std::map<std::string, nlohmann::json> records;
  std::istringstream lines(read_text(out / "log.jsonl"));
  for (std::string line; std::getline(lines, line);) {
    const nlohmann::json record = nlohmann::json::parse(line);
    records.emplace(record.at("job").get<std::string>(), record);
  }
  return records;
}

}  // namespace

TEST_CASE("a run of ExpCTR on a CUDA device ends well and begins as on the CPU" * doctest::test_suite("slow")) {
  const TemporaryFolder folder;
  const TinyRun tiny = write_tiny_run(folder / "tiny");
  const auto start = std::chrono::steady_clock::now();
  for (const std::string device : {"cpu", "cuda"}) {
    const Outcome outcome = run_program(folder.path(), tiny.command("expctr", folder / device, {"--device", device}));
    INFO(device, ": ", outcome.errors);
    REQUIRE(outcome.code == 0);
    CHECK(outcome.errors.find("vgpu:") == std::string::npos);
    CHECK(std::filesystem::exists(folder / device / "metrics.json"));
  }
  const auto cuda = first_records(folder / "cuda"), cpu = first_records(folder / "cpu");
  REQUIRE(cuda.contains("sft"));
  for (const char* name : {"loss", "grad_norm"}) {
    CAPTURE(name);
    CHECK(cuda.at("sft").at(name).get<double>() == doctest::Approx(cpu.at("sft").at(name).get<double>()).epsilon(1e-4));
  }
  for (const auto& [job, record] : cpu) CHECK_MESSAGE(cuda.contains(job), job);
  fmt::print("run expctr on cpu and on cuda: {:.1f} s\n", std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
}
