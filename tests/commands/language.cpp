// tokenize, generate, score and inspect on a real model of 260 thousand parameters, and on SmolLM2 where it is there, against reference
// values.
#include <doctest/doctest.h>

#include <cmath>

#include "tests/commands/program.h"
#include "tests/support/paths.h"

using namespace expctr;
using nlohmann::json;

namespace {

json read_json(const std::filesystem::path& path) { return json::parse(read_text(path)); }

std::vector<json> answers(const TemporaryFolder& folder, std::vector<std::string> words) {
  words.push_back("--json");
  const Outcome outcome = run_program(folder.path(), words);
  CAPTURE(outcome.errors);
  REQUIRE(outcome.code == 0);
  return json_lines(outcome);
}

}  // namespace

TEST_CASE("tokenize gives the reference ids of a GGUF file and of a folder, and decodes them") {
  const auto stories = stories_folder();
  if (!stories) return skip_test("model stories260k");
  const TemporaryFolder folder;
  for (const char* name : {"stories260K.gguf", "hf"}) {
    CAPTURE(name);
    const std::string model = (*stories / name).string();
    std::vector<json> texts, ids;
    const json cases = read_json(*stories / "cases.json").at("cases");
    for (const json& c : cases) {
      texts.push_back({{"text", c.at("prompt")}});
      ids.push_back({{"ids", c.at("ids")}});
    }
    const auto encoded = answers(folder, {"tokenize", "--model", model, "--input", write_json_lines(folder / "t", texts)});
    const auto decoded = answers(folder, {"tokenize", "--decode", "--model", model, "--input", write_json_lines(folder / "i", ids)});
    REQUIRE(!ids.empty());
    REQUIRE(encoded.size() == ids.size());
    REQUIRE(decoded.size() == ids.size());
    for (std::size_t i = 0; i < ids.size(); ++i) {
      CHECK(encoded[i].at("index") == i);
      CHECK(encoded[i].at("ids") == ids[i].at("ids"));
      CHECK(decoded[i].at("text") == texts[i].at("text"));
    }
  }
  const Outcome outside = run_program(folder.path(), {"tokenize", "--decode", "--model", (*stories / "hf").string(), "--input",
                                                      write_json_lines(folder / "o", {{{"ids", {512}}}})});
  CHECK(outside.code == 3);
}

TEST_CASE("greedy generation gives the reference tokens; score gives their log-probabilities again") {
  const auto stories = stories_folder();
  if (!stories) return skip_test("model stories260k");
  const TemporaryFolder folder;
  const std::string model = (*stories / "stories260K.gguf").string();
  const json cases = read_json(*stories / "cases.json").at("cases");
  REQUIRE(!cases.empty());
  std::vector<json> prompts;
  for (const json& c : cases) prompts.push_back({{"prompt", c.at("prompt")}});
  const auto lines = answers(folder, {"generate", "--model", model, "--input", write_json_lines(folder / "p", prompts), "--max-new-tokens",
                                      "40", "--temperature", "0"});
  REQUIRE(lines.size() == cases.size() + 1);
  std::vector<json> completions;
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const std::vector<std::int32_t> expected = cases[i].at("greedy_ids"), got = lines[i].at("tokens");
    CHECK(lines[i].at("prompt_tokens") == cases[i].at("ids").size());
    CHECK(lines[i].at("logprobs").size() == got.size());
    if (lines[i].at("finish") == "length") CHECK(got.size() == 40);
    for (std::size_t t = 0; t < got.size(); ++t) {
      if (cases[i].at("greedy_margin")[t].get<double>() < 1e-3) break;  // a tie in float32
      CHECK(got[t] == expected[t]);
    }
    completions.push_back({{"prompt", cases[i].at("prompt")}, {"completion", lines[i].at("text")}});
  }
  const json summary = lines.back().at("summary");
  for (const char* key : {"prompt_tokens", "new_tokens", "prefill_seconds", "decode_seconds", "peak_bytes"})
    CHECK(summary.at(key).is_number());

  // At temperature 1 the log-probabilities of generation and of one pass over the whole text are the same numbers.
  const auto drawn =
      answers(folder, {"generate", "--model", model, "--prompt", "Once upon a time", "--max-new-tokens", "12", "--seed", "5"});
  const auto scored =
      answers(folder, {"score", "--model", model, "--input",
                       write_json_lines(folder / "s", {{{"prompt", "Once upon a time"}, {"completion", drawn[0].at("text")}}})});
  const std::vector<std::int32_t> tokens = drawn[0].at("tokens");
  if (scored[0].at("tokens").get<std::vector<std::int32_t>>() == tokens) {
    for (std::size_t t = 0; t < tokens.size(); ++t)
      CHECK(scored[0].at("logprobs")[t].get<double>() == doctest::Approx(drawn[0].at("logprobs")[t].get<double>()).epsilon(1e-5));
  } else {
    MESSAGE("the drawn text has another tokenisation; its log-probabilities are not compared");
  }
}

TEST_CASE("a seed gives the same text, whatever the batch") {
  const auto stories = stories_folder();
  if (!stories) return skip_test("model stories260k");
  const TemporaryFolder folder;
  std::vector<json> prompts;
  for (const char* text : {"Once", "The dog", "Lily and Tom went to the park", "One day"}) prompts.push_back({{"prompt", text}});
  const std::string input = write_json_lines(folder / "p", prompts);
  const auto tokens_of = [&](const char* batch, const char* seed) {
    std::vector<json> tokens;
    for (const json& line : answers(folder, {"generate", "--model", (*stories / "hf").string(), "--input", input, "--max-new-tokens", "10",
                                             "--batch", batch, "--seed", seed, "--top-k", "20"}))
      if (line.contains("tokens")) tokens.push_back(line.at("tokens"));
    return tokens;
  };
  const auto one = tokens_of("1", "3");
  CHECK(one.size() == 4);
  CHECK(one == tokens_of("16", "3"));
  CHECK(one != tokens_of("16", "4"));
}

TEST_CASE("prompts that do not fit the model's positions are refused") {
  const auto stories = stories_folder();
  if (!stories) return skip_test("model stories260k");
  const TemporaryFolder folder;
  const Outcome outcome =
      run_program(folder.path(), {"generate", "--model", (*stories / "hf").string(), "--prompt", "Once", "--max-new-tokens", "100000"});
  CHECK(outcome.code == 3);
  CHECK(outcome.errors.find("positions") != std::string::npos);
  CHECK(run_program(folder.path(), {"generate", "--model", (*stories / "hf").string(), "--prompt", "Once", "--chat"}).code ==
        3);  // no chat template
}

TEST_CASE("inspect lists the tensors of a GGUF file, a folder and an adapter") {
  const auto stories = stories_folder();
  if (!stories) return skip_test("model stories260k");
  const TemporaryFolder folder;
  const json gguf = answers(folder, {"inspect", (*stories / "stories260K.gguf").string()}).at(0),
             hf = answers(folder, {"inspect", (*stories / "hf").string()}).at(0);
  CHECK(gguf.at("kind") == "gguf");
  CHECK(gguf.at("metadata").at("general.architecture") == "llama");
  CHECK(hf.at("kind") == "hugging_face");
  CHECK(hf.at("metadata").contains("hidden_size"));
  // The same model: as many values, up to a head that one of the files writes out and the rotary frequencies.
  CHECK(gguf.at("values").get<double>() == doctest::Approx(hf.at("values").get<double>()).epsilon(0.15));
  const json lora = answers(folder, {"inspect", (*stories / "lora").string()}).at(0);
  CHECK(lora.at("kind") == "peft");
  CHECK(lora.at("metadata").contains("lora_alpha"));
  const Outcome table = run_program(folder.path(), {"inspect", (*stories / "stories260K.gguf").string()});
  CHECK(table.code == 0);
  CHECK(table.output.find("token_embd.weight") != std::string::npos);
}

TEST_CASE("score gives the reference logits of Yes and No") {
  const auto model = find_model("smollm2/SmolLM2-135M-Instruct.Q4_1.gguf");
  if (!model) return skip_test("model smollm2");
  const TemporaryFolder folder;
  std::vector<json> prompts, expected;
  const json cases = read_json(oracle_root() / "llm" / "smollm2" / "cases.json").at("cases");
  for (const json& c : cases) {
    if (!c.contains("l_yes")) continue;
    prompts.push_back({{"prompt", c.at("text")}});
    expected.push_back(c);
  }
  REQUIRE(!prompts.empty());
  const auto lines = answers(folder, {"score", "--model", model->string(), "--input", write_json_lines(folder / "p", prompts), "--choices",
                                      "Yes,No", "--parse-special"});
  REQUIRE(lines.size() == expected.size());
  for (std::size_t i = 0; i < lines.size(); ++i) {
    CHECK(lines[i].at("choices").at("Yes").get<double>() == doctest::Approx(expected[i].at("l_yes").get<double>()).epsilon(1e-4));
    CHECK(lines[i].at("choices").at("No").get<double>() == doctest::Approx(expected[i].at("l_no").get<double>()).epsilon(1e-4));
    CHECK(lines[i].at("tokens").empty());
  }
}
