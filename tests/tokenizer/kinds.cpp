// Small tokenisers of every kind against the ids of the tokenizers and sentencepiece libraries (tests/tokenizer/references, made by
// scripts/make_references.py beside it).
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "data/tokenizer/pre_tokenizer.h"
#include "data/tokenizer/tokenizer.h"
#include "engine/io/gguf.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/memory_file.h"
#include "tests/support/paths.h"

using namespace expctr;
using nlohmann::json;

namespace {

json reference(const std::string& name) { return json::parse(read_text(source_root() / "tests/tokenizer/references" / (name + ".json"))); }

void check_ids(const Tokenizer& tokenizer, const json& row, bool parse_special) {
  const auto text = row.at("text").get<std::string>();
  const std::vector<std::int32_t> ids = tokenizer.encode(text, parse_special);
  CHECK_MESSAGE(json(ids) == row.at("ids"),
                fmt::format("{} gives {}, expected {}", json(text).dump(), json(ids).dump(), row.at("ids").dump()));
}

}  // namespace

TEST_CASE("tokenizer.json of every kind: the ids of the tokenizers library") {
  for (const char* name : {"unigram_normalised", "unigram_words", "unigram_bytes", "unigram_precompiled", "bpe_metaspace_first",
                           "bpe_metaspace_split", "byte_level_v3"}) {
    CAPTURE(name);
    const json document = reference(name);
    const TemporaryFolder folder;
    std::ofstream(folder / "tokenizer.json") << document.at("tokenizer").dump();
    const auto tokenizer = load_tokenizer(folder.path());
    CHECK(document.at("strings").size() > 30);
    for (const json& row : document.at("strings")) {
      check_ids(*tokenizer, row, true);
      const auto ids = row.at("ids").get<std::vector<std::int32_t>>();
      if (row.at("decoded").get<std::string>().find("\uFFFD") == std::string::npos)
        CHECK(tokenizer->decode(ids) == row.at("decoded").get<std::string>());
    }
  }
}

TEST_CASE("GGUF of type t5: the ids of sentencepiece, with its character map") {
  const json document = reference("sentencepiece_charsmap");
  const auto pieces = document.at("pieces").get<std::vector<std::string>>();
  GgufWriter w;
  w.header(0, 7)
      .string_entry("tokenizer.ggml.model", "t5")
      .string_array("tokenizer.ggml.tokens", pieces)
      .number_array("tokenizer.ggml.scores", 6, document.at("scores").get<std::vector<float>>())
      .number_array("tokenizer.ggml.token_type", 5, document.at("types").get<std::vector<std::int32_t>>())
      .bool_entry("tokenizer.ggml.add_space_prefix", true)
      .bool_entry("tokenizer.ggml.remove_extra_whitespaces", true)
      .number_array("tokenizer.ggml.precompiled_charsmap", 0, document.at("charsmap").get<std::vector<std::uint8_t>>());
  const MemoryFile file;
  const auto tokenizer = tokenizer_from_gguf(GgufFile::open(file.hold(w.bytes)));
  for (const json& row : document.at("strings")) check_ids(*tokenizer, row, false);
}

TEST_CASE("named pre-tokenisers cut as the models' own expressions do") {
  const json document = reference("splits");
  for (const auto& [name, rows] : document.items()) {
    const PreTokenizer pre_tokenizer = PreTokenizer::named(name, "splits.json");
    for (const json& row : rows) {
      const auto text = row.at("text").get<std::string>();
      std::vector<std::string_view> views;
      pre_tokenizer.split(text, views);
      CHECK_MESSAGE(json(views) == row.at("pieces"),
                    fmt::format("{}: {} gives {}, expected {}", name, json(text).dump(), json(views).dump(), row.at("pieces").dump()));
    }
  }
}
