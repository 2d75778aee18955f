// embed, data, bench and doctor.
#include <doctest/doctest.h>

#include <cmath>
#include <map>
#include <set>

#include "engine/core/build_info.h"
#include "engine/io/npy.h"
#include "tests/commands/program.h"
#include "tests/support/paths.h"

using namespace expctr;
using nlohmann::json;

TEST_CASE("data stats and head of a small table") {
  const TemporaryFolder folder;
  std::ofstream(folder / "small.inter") << "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
                                           "7\t3\t5\t100\n7\t4\t3\t90\n8\t3\t4\t110\n9\t5\t1\t80\n";
  const Outcome stats = run_program(folder.path(), {"data", "stats", "--input", "small.inter", "--json"});
  REQUIRE(stats.code == 0);
  const json counts = json_lines(stats).at(0);
  CHECK(counts.at("rows") == 4);
  CHECK(counts.at("users") == 3);
  CHECK(counts.at("items") == 3);
  CHECK(counts.at("positive_share") == 0.5);
  CHECK(counts.at("first_time") == 80);
  CHECK(counts.at("last_time") == 110);
  CHECK(counts.at("skipped") == 0);
  CHECK(counts.at("peak_bytes").get<double>() > 1e6);
  const Outcome strict = run_program(folder.path(), {"data", "stats", "--input", "small.inter", "--json", "--label-rule", "rating > 4"});
  CHECK(json_lines(strict).at(0).at("positive_share") == 0.25);
  CHECK(run_program(folder.path(), {"data", "stats", "--input", "small.inter", "--label-rule", "rating about 4"}).code == 2);

  const Outcome head = run_program(folder.path(), {"data", "head", "--input", "small.inter", "--rows", "2", "--json"});
  REQUIRE(head.code == 0);
  const auto rows = json_lines(head);
  REQUIRE(rows.size() == 2);
  CHECK(rows[1].at("user") == "7");
  CHECK(rows[1].at("item") == "4");
  CHECK(rows[1].at("label") == 0);
  CHECK(run_program(folder.path(), {"data", "head", "--input", "small.inter"}).output.find("110") != std::string::npos);

  std::ofstream(folder / "broken.inter") << "user_id:token\titem_id:token\trating:float\n7\t3\n";
  CHECK(run_program(folder.path(), {"data", "stats", "--input", "broken.inter"}).code == 3);
}

TEST_CASE("data fetch says what is wrong with the python it is given and leaves the cache empty") {
  const TemporaryFolder folder;
  const std::string cache = "EXPCTR_MODELS=" + (folder / "cache").string();
  const Outcome outcome = run_program(folder.path(), {"data", "fetch", "ml-100k", "--python", "no_such_python"}, {cache});
  CHECK(outcome.code != 0);
  CHECK(outcome.errors.find("\nHINT: ") != std::string::npos);
  if (std::filesystem::exists(folder / "cache")) CHECK(std::filesystem::is_empty(folder / "cache"));
}

TEST_CASE("embed writes vectors of length 1 that do not depend on the other texts") {
  const auto model = find_model("minilm/model.safetensors");
  if (!model) return skip_test("model minilm");
  const TemporaryFolder folder;
  const std::string path = model->parent_path().string();
  const std::string two = write_json_lines(
      folder / "two", {{{"text", "A quick brown fox."}}, {{"text", "Reasons for a recommendation, and a few more words."}}});
  const std::string one = write_json_lines(folder / "one", {{{"text", "A quick brown fox."}}});
  CHECK(run_program(folder.path(), {"embed", "--model", path, "--input", two, "--output", "two.npy", "--normalize"}).code == 0);
  CHECK(
      run_program(folder.path(), {"embed", "--model", path, "--input", one, "--output", "one.npy", "--normalize", "--threads", "1"}).code ==
      0);
  const NpyArray both = read_npy(folder / "two.npy"), alone = read_npy(folder / "one.npy");
  REQUIRE(both.shape == std::vector<std::int64_t>{2, 384});
  REQUIRE(alone.shape == std::vector<std::int64_t>{1, 384});
  CHECK(std::equal(alone.bytes.begin(), alone.bytes.end(), both.bytes.begin()));
  double square = 0;
  for (std::size_t i = 0; i < 384; ++i) {
    float value = 0;
    std::memcpy(&value, alone.bytes.data() + 4 * i, 4);
    square += static_cast<double>(value) * static_cast<double>(value);
  }
  CHECK(square == doctest::Approx(1.0).epsilon(1e-5));
}

TEST_CASE("bench prints the fields that scripts rely on") {
  const TemporaryFolder folder;
  const Outcome outcome =
      run_program(folder.path(), {"bench", "--only", "matmul/5x7x9/f32", "--only", "matmul/64x64x64/f32", "--repeats", "3", "--json"});
  CAPTURE(outcome.errors);
  REQUIRE(outcome.code == 0);
  const auto lines = json_lines(outcome);
  REQUIRE(lines.size() == 2);
  CHECK(lines[0].at("name") == "matmul/5x7x9/f32");
  for (const json& line : lines) {
    for (const char* key : {"name", "mode", "shape", "dtype", "device", "threads", "repeats", "seconds_min", "seconds_median",
                            "seconds_max", "rate", "rate_unit", "gflops", "gbps", "of_ceiling", "peak_bytes"})
      CHECK(line.contains(key));
    CHECK(line.at("mode") == "f32");
    CHECK(line.at("device") == "cpu");
    CHECK(line.at("repeats") == 3);
    CHECK(line.at("seconds_min").get<double>() > 0);
    CHECK(line.at("seconds_min").get<double>() <= line.at("seconds_median").get<double>());
    CHECK(line.at("seconds_median").get<double>() <= line.at("seconds_max").get<double>());
  }
  const Outcome list = run_program(folder.path(), {"bench", "--list"});
  REQUIRE(list.code == 0);
  for (const char* name : {"rms_norm", "adamw", "attention/causal", "attention/full", "cross_entropy/49152", "linear_cross_entropy/49152",
                           "llm/prefill_512", "llm/decode_b1", "llm/decode_b16", "llm/lora_step_8x128", "llm/embed_32", "llm/embed_128",
                           "ppo/step_16x160x48\n", "ppo/step_16x160x48_last6", "ctr/din_steps", "ctr/din_end_to_end", "data/prepare"}) {
    CAPTURE(name);
    CHECK(list.output.find(name) != std::string::npos);
  }
}

TEST_CASE("doctor checks the machine and says what failed") {
  const TemporaryFolder folder;
  const Outcome outcome = run_program(folder.path(), {"doctor", "--quick", "--json"},
                                      {"EXPCTR_MODELS=" + folder.path().string(), "XDG_CACHE_HOME=" + folder.path().string()});
  CAPTURE(outcome.errors);
  REQUIRE(outcome.code == 0);
  const json report = json_lines(outcome).at(0);
  CHECK(report.at("failed") == 0);
  std::map<std::string, json> checks;
  for (const json& check : report.at("checks")) checks[check.at("name")] = check;
  for (const char* name :
       {"processor", "instruction set", "memory", "disk, here", "disk, cache", "random numbers", "device", "matrix products", "tokeniser"})
    CHECK(checks.contains(name));
  CHECK(checks["random numbers"].at("status") == "ok");
  CHECK(checks["matrix products"].at("status") == "ok");
  CHECK(checks["asset smollm2"].at("status") == "note");
  CHECK(checks["asset smollm2"].at("hint") == "expctr_engine data fetch smollm2");

  std::set<std::string> ops;
  for (const json& op : report.at("ops")) {
    CAPTURE(op.dump());
    CHECK(op.at("problem") == "");
    CHECK(op.at("error").get<double>() <= op.at("tolerance").get<double>());
    ops.insert(op.at("op"));
  }
  for (const char* op : {
#define OP(name, family, kernel) #name,
#include "engine/ops/ops.def"
#undef OP
       })
    CHECK_MESSAGE(ops.contains(op), op);

  if (has_cuda) return;
  const Outcome cuda = run_program(folder.path(), {"doctor", "--device", "cuda"});
  CHECK(cuda.code == 1);
  CHECK(cuda.output.find("FAILED  device") != std::string::npos);
  CHECK(cuda.errors.find("HINT") != std::string::npos);
}
