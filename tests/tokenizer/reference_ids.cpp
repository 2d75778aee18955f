// Token ids against independent tokenisers: oracles llm/tokenizer-chat, llm/minilm, llm/stories260k, and the four vocabularies of the data
// folder.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "data/tokenizer/tokenizer.h"
#include "tests/support/paths.h"

using namespace expctr;
using nlohmann::json;

namespace {

json read_json(const std::filesystem::path& path) { return json::parse(read_text(path)); }

struct Comparison {
  int compared = 0, wrong = 0;

  void ids(const std::string& text, const std::vector<std::int32_t>& got, const json& expected) {
    ++compared;
    const bool same = json(got) == expected;
    wrong += !same;
    CHECK_MESSAGE(same, fmt::format("'{}' gives {}, expected {}", text.substr(0, 200), json(got).dump(), expected.dump()));
  }
  void print(const std::string& name) const {
    CHECK(compared > 0);
    fmt::print("oracle {} {} max_rel_err=0 tol=0 ({} of {} equal)\n", name, wrong == 0 ? "ok" : "FAIL", compared - wrong, compared);
  }
};

}  // namespace

TEST_CASE("oracle llm/tokenizer-chat/strings: SmolLM2's ids, special tokens parsed and not, and back to text") {
  const auto model = find_model("smollm2/SmolLM2-135M-Instruct.Q4_1.gguf");
  if (!model) return skip_test("model smollm2");
  const auto tokenizer = load_tokenizer(*model);
  CHECK(tokenizer->vocabulary() == 49152);
  CHECK(tokenizer->bos() == 1);
  CHECK(tokenizer->eos() == 2);
  CHECK(tokenizer->unknown() == 0);
  CHECK(tokenizer->padding() == 2);
  CHECK_FALSE(tokenizer->add_bos());
  CHECK(tokenizer->find_token("<|im_end|>") == 2);
  Comparison comparison;
  const json table = read_json(oracle_root() / "llm/tokenizer-chat/strings.json");
  for (const json& item : table["strings"]) {
    const auto text = item["text"].get<std::string>();
    const auto parsed = tokenizer->encode(text, true), plain = tokenizer->encode(text, false);
    comparison.ids(text, parsed, item["ids_parse_special"]);
    comparison.ids(text, plain, item["ids_no_special"]);
    CHECK(tokenizer->decode(plain) == text);
    CHECK(tokenizer->decode(parsed, true) == text);
  }
  comparison.print("llm/tokenizer-chat/strings");
}

TEST_CASE("oracle llm/stories260k: ids from the GGUF file and from tokenizer.json") {
  const auto found = stories_folder();
  if (!found) return skip_test("model stories260k");
  const std::filesystem::path& folder = *found;
  for (const char* file : {"stories260K.gguf", "hf"}) {
    const auto tokenizer = load_tokenizer(folder / file);
    CHECK(tokenizer->add_bos());
    CHECK(tokenizer->bos() == 1);
    Comparison comparison;
    const json table = read_json(oracle_root() / "llm/tokenizer-chat/strings.json");
    for (const json& item : table["strings"]) {
      const auto text = item["text"].get<std::string>();
      comparison.ids(text, tokenizer->encode_document(text, false), item["ids_stories260k"]);
      CHECK(tokenizer->decode(tokenizer->encode(text, false)) == text);
    }
    const json cases = read_json(folder / "cases.json");
    for (const json& item : cases["cases"]) {
      const auto text = item["prompt"].get<std::string>();
      comparison.ids(text, tokenizer->encode_document(text, false), item["ids"]);
    }
    comparison.print(fmt::format("llm/stories260k/{}", file));
  }
}

TEST_CASE("oracle llm/minilm: WordPiece ids from tokenizer.json, whose truncation and padding are not followed") {
  const auto model = find_model("minilm/tokenizer.json");
  if (!model) return skip_test("model minilm");
  const auto tokenizer = load_tokenizer(*model);
  CHECK(tokenizer->notes().size() >= 2);
  CHECK(tokenizer->bos() == 101);
  CHECK(tokenizer->eos() == 102);
  CHECK(tokenizer->padding() == 0);
  Comparison comparison;
  const json table = read_json(oracle_root() / "llm/minilm/cases.json");
  for (const json& item : table["sentences"]) {
    const auto text = item["text"].get<std::string>();
    for (const auto& [key, pieces] : {std::pair<const char*, std::size_t>{"ids_128", 126}, {"ids_256", 254}}) {
      if (!item.contains(key)) continue;
      auto ids = tokenizer->encode(text, true);
      if (ids.size() > pieces) ids.resize(pieces);
      comparison.ids(text, tokenizer->with_ends(ids), item[key]);
    }
  }
  comparison.print("llm/minilm/ids");
}

TEST_CASE("data tokenizers: 46 strings, four vocabularies, and GPT-2's tokenizer.json") {
  const auto data = data_root();
  if (!data || !std::filesystem::exists(*data / "tokenizers")) return skip_test("data tokenizers");
  std::vector<json> records;
  std::string lines = read_text(*data / "tokenizers/expected.jsonl");
  for (std::size_t at = 0; at < lines.size();) {
    const std::size_t end = std::min(lines.find('\n', at), lines.size());
    if (end > at) records.push_back(json::parse(lines.substr(at, end - at)));
    at = end + 1;
  }
  CHECK(records.size() == 46);
  for (const auto& [file, column] : {std::pair<const char*, const char*>{"gpt-2.gguf", "gpt-2"},
                                     {"gpt2-tokenizer.json", "gpt-2"},
                                     {"falcon.gguf", "falcon"},
                                     {"llama-spm.gguf", "llama-spm"},
                                     {"bert-bge.gguf", "bert-bge"}}) {
    const auto tokenizer = load_tokenizer(*data / "tokenizers" / file);
    Comparison comparison;
    for (const json& record : records) {
      const auto text = record["text"].get<std::string>();
      const auto ids = tokenizer->encode(text, false);
      comparison.ids(text, ids, record[column]);
      if (column != std::string("bert-bge")) CHECK(tokenizer->decode(ids) == text);
    }
    comparison.print(fmt::format("tokenizers/{}", file));
  }
  if (const auto minilm = find_model("minilm/tokenizer.json")) {
    const auto tokenizer = load_tokenizer(*minilm);
    Comparison comparison;
    for (const json& record : records) {
      const auto text = record["text"].get<std::string>();
      comparison.ids(text, tokenizer->encode(text, false), record["bert-bge"]);
    }
    comparison.print("tokenizers/minilm");
  }
}
