// Tokeniser files with one fault each.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "data/tokenizer/tokenizer.h"
#include "engine/io/gguf.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/memory_file.h"
#include "tests/support/paths.h"

using namespace expctr;
using nlohmann::json;

namespace {

void check_gguf(const char* fault_name, const GgufWriter& writer, const char* fault) {
  const MemoryFile file;
  try {
    tokenizer_from_gguf(GgufFile::open(file.hold(writer.bytes)));
    FAIL_CHECK(fmt::format("{}: no error", fault_name));
  } catch (const InputError& error) {
    CHECK_MESSAGE(std::string(error.what()).find(fault) != std::string::npos,
                  fmt::format("{}: '{}' lacks '{}'", fault_name, error.what(), fault));
  }
}

GgufWriter byte_level(std::uint64_t more_entries) {
  GgufWriter w;
  w.header(0, 3 + more_entries).string_entry("tokenizer.ggml.model", "gpt2").string_entry("tokenizer.ggml.pre", "gpt-2");
  return w.string_array("tokenizer.ggml.tokens", {"a", "b", "ab"});
}

json small_bpe() {
  return {{"model", {{"type", "BPE"}, {"vocab", {{"a", 0}, {"b", 1}, {"ab", 2}}}, {"merges", {"a b"}}}},
          {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}}};
}

void check_json(const char* fault_name, const json& document, const char* fault) {
  const TemporaryFolder folder;
  std::ofstream(folder / "tokenizer.json") << document.dump();
  try {
    load_tokenizer(folder.path());
    FAIL_CHECK(fmt::format("{}: no error", fault_name));
  } catch (const InputError& error) {
    CHECK_MESSAGE(std::string(error.what()).find(fault) != std::string::npos,
                  fmt::format("{}: '{}' lacks '{}'", fault_name, error.what(), fault));
  }
}

json with(json document, const char* pointer, const json& value) {
  document[json::json_pointer(pointer)] = value;
  return document;
}

}  // namespace

TEST_CASE("GGUF tokenisers that are refused, by fault") {
  check_gguf("no-model", GgufWriter{}.header(0, 1).u32_entry("x", 1), "no key 'tokenizer.ggml.model'");
  check_gguf("no-tokens", GgufWriter{}.header(0, 1).string_entry("tokenizer.ggml.model", "gpt2"), "no key 'tokenizer.ggml.tokens'");
  check_gguf("unknown-model",
             GgufWriter{}.header(0, 2).string_entry("tokenizer.ggml.model", "rwkv").string_array("tokenizer.ggml.tokens", {"a"}),
             "'rwkv' is not supported");
  check_gguf("no-pre", GgufWriter{}.header(0, 2).string_entry("tokenizer.ggml.model", "gpt2").string_array("tokenizer.ggml.tokens", {"a"}),
             "tokenizer.ggml.pre");
  check_gguf("empty-vocabulary",
             GgufWriter{}.header(0, 2).string_entry("tokenizer.ggml.model", "gpt2").string_array("tokenizer.ggml.tokens", {}),
             "a vocabulary of 0 tokens");
  check_gguf("no-merges", byte_level(0), "tokenizer.ggml.merges");
  check_gguf("merge-without-blank", byte_level(1).string_array("tokenizer.ggml.merges", {"ab"}), "merge 0 is 'ab'");
  check_gguf("merge-of-strangers", byte_level(1).string_array("tokenizer.ggml.merges", {"a b", "b a"}), "merge 1 ('b' and 'a')");
  check_gguf("types-too-few", byte_level(1).number_array<std::int32_t>("tokenizer.ggml.token_type", 5, {1, 1}),
             "2 token types for 3 tokens");
  check_gguf("type-unknown", byte_level(1).number_array<std::int32_t>("tokenizer.ggml.token_type", 5, {1, 9, 1}),
             "token 1 has the unknown type 9");
  check_gguf("bos-outside", byte_level(1).u32_entry("tokenizer.ggml.bos_token_id", 3), "tokenizer.ggml.bos_token_id is 3");
  GgufWriter scores;
  scores.header(0, 3).string_entry("tokenizer.ggml.model", "llama").string_array("tokenizer.ggml.tokens", {"a", "b"});
  check_gguf("scores-too-few", scores.number_array<float>("tokenizer.ggml.scores", 6, {1.0f}), "1 scores for 2 tokens");
}

TEST_CASE("a character without token and without unknown token is an error, not a guess") {
  GgufWriter w = byte_level(1);
  w.string_array("tokenizer.ggml.merges", {"a b"});
  const MemoryFile file;
  const auto tokenizer = tokenizer_from_gguf(GgufFile::open(file.hold(w.bytes)));
  CHECK(tokenizer->encode("abba", false) == std::vector<std::int32_t>{2, 1, 0});
  CHECK_THROWS_WITH_AS(tokenizer->encode("abc", false), doctest::Contains("no token for"), InputError);
}

TEST_CASE("tokenizer.json files that are refused, by fault") {
  check_json("array", json::array(), "model.vocab is missing");
  check_json("no-vocab", {{"model", {{"type", "BPE"}}}}, "model.vocab is missing");
  check_json("unigram", with(small_bpe(), "/model/type", "Unigram"), "has the form of another type than 'Unigram'");
  check_json("word-level", with(small_bpe(), "/model/type", "WordLevel"), "'WordLevel' is not supported");
  const json unigram = {
      {"model", {{"type", "Unigram"}, {"unk_id", 0}, {"vocab", json::array({json::array({"<unk>", 0.0}), json::array({"a", -1.5})})}}},
      {"pre_tokenizer", {{"type", "Metaspace"}}}};
  check_json("unigram-entry", with(unigram, "/model/vocab/1", "a"), "entry 1 of model.vocab");
  check_json("unigram-score", with(unigram, "/model/vocab/1/1", "x"), "entry 1 of model.vocab");
  check_json("unigram-unknown", with(unigram, "/model/unk_id", 2), "without unknown token");
  check_json("unigram-metaspace", with(unigram, "/pre_tokenizer/replacement", "_"), "pre_tokenizer");
  check_json("charsmap-base64", with(unigram, "/normalizer", {{"type", "Precompiled"}, {"precompiled_charsmap", "&&&&"}}), "is not base64");
  check_json("charsmap-short", with(unigram, "/normalizer", {{"type", "Precompiled"}, {"precompiled_charsmap", "AAAA"}}),
             "character map is too short");
  check_json("charsmap-size", with(unigram, "/normalizer", {{"type", "Precompiled"}, {"precompiled_charsmap", "/////wAA"}}),
             "impossible size");
  check_json("negative-id", with(small_bpe(), "/model/vocab/b", -1), "'b' has no usable id");
  check_json("text-id", with(small_bpe(), "/model/vocab/b", "1"), "'b' has no usable id");
  check_json("huge-id", with(small_bpe(), "/model/vocab/b", 1000000000), "'b' has no usable id");
  check_json("sparse-ids", with(small_bpe(), "/model/vocab/b", 10000000), "3 tokens with ids up to 10000000");
  check_json("same-id", with(small_bpe(), "/model/vocab/b", 0), "have the same id");
  check_json("merge-number", with(small_bpe(), "/model/merges/0", 7), "merge 0 is '7'");
  check_json("merge-of-strangers", with(small_bpe(), "/model/merges/0", "b a"), "merge 0 ('b' and 'a')");
  check_json("unknown-normaliser", with(small_bpe(), "/normalizer", {{"type", "Titlecase"}}),
             "normalizer '{\"type\":\"Titlecase\"}' is not supported");
  check_json(
      "unknown-cut",
      with(small_bpe(), "/pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {{{"type", "ByteLevel"}}, {{"type", "Whitespace"}}}}}),
      "'{\"type\":\"Whitespace\"}'");
  check_json("added-without-text", with(small_bpe(), "/added_tokens", {{{"id", 3}}}), "added token without content");
  check_json("ends-are-no-token",
             with(small_bpe(), "/post_processor", {{"type", "BertProcessing"}, {"cls", {"[CLS]", 7}}, {"sep", {"[SEP]", 8}}}),
             "'[CLS]', which is no token");
  const TemporaryFolder folder;
  CHECK_THROWS_WITH_AS(load_tokenizer(folder.path()), doctest::Contains("tokenizer.json"), InputError);
}

TEST_CASE("added tokens, roles and NFC of tokenizer.json") {
  json document =
      with(small_bpe(), "/added_tokens",
           {{{"id", 3}, {"content", "<end>"}, {"special", true}, {"rstrip", true}}, {{"id", 4}, {"content", "ba"}, {"special", false}}});
  document["model"]["vocab"]["\u00c3"] = 5;  // byte C3 as the vocabulary spells it
  document["model"]["vocab"]["\u00a9"] = 6;  // byte A9
  document["normalizer"] = {{"type", "NFC"}};
  document["truncation"] = {{"max_length", 1}};
  const TemporaryFolder folder;
  std::ofstream(folder / "tokenizer.json") << document.dump();
  std::ofstream(folder / "tokenizer_config.json") << json{{"eos_token", "<end>"}}.dump();
  const auto tokenizer = load_tokenizer(folder.path());
  using Ids = std::vector<std::int32_t>;
  CHECK(tokenizer->eos() == 3);
  CHECK(tokenizer->encode("ab<end>  a", true) == Ids{2, 3, 0});
  CHECK(tokenizer->encode("bab", false) == Ids{4, 1});  // a user-defined token is found in any text
  CHECK_THROWS_AS(tokenizer->encode("<end>", false), InputError);
  CHECK(tokenizer->encode("e\u0301", false).size() == 2);
  CHECK(tokenizer->encode("\u00e9", false) == Ids{5, 6});
  REQUIRE(tokenizer->notes().size() == 1);
  CHECK(tokenizer->notes()[0].find("truncation") != std::string::npos);
}
