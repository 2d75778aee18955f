// The parts of the tokenisers against slow and simple second implementations, and on inputs made to hurt.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <chrono>

#include "base/error.h"
#include "base/philox.h"
#include "data/tokenizer/pair_merge.h"
#include "data/tokenizer/pre_tokenizer.h"
#include "data/tokenizer/tokenizer.h"
#include "engine/io/gguf.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/memory_file.h"
#include "tests/support/paths.h"

using namespace expctr;

namespace {

/// Merges the pair of lowest rank, leftmost first, one at a time: what the heap must equal.
void merge_slowly(std::vector<std::int32_t>& symbols, const PairTable& table) {
  while (true) {
    const PairMerge* best = nullptr;
    std::size_t place = 0;
    for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
      const PairMerge* merge = table.find(symbols[i], symbols[i + 1]);
      if (merge != nullptr && (best == nullptr || merge->rank < best->rank)) {
        best = merge;
        place = i;
      }
    }
    if (best == nullptr) return;
    symbols[place] = best->id;
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(place) + 1);
  }
}

std::vector<std::string> pieces(const PreTokenizer& pre_tokenizer, std::string_view text) {
  std::vector<std::string_view> views;
  pre_tokenizer.split(text, views);
  return {views.begin(), views.end()};
}

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

TEST_CASE("pair merging by heap equals merging one pair at a time") {
  const RandomKey key = random_key(3, "merges");
  for (std::uint32_t trial = 0; trial < 300; ++trial) {
    PairTable table;  // grows: nothing is said about the number of merges
    std::int32_t next = 4;
    for (std::int32_t rank = 0; rank < 60; ++rank) {
      const RandomBits bits = philox(key, {trial, static_cast<std::uint32_t>(rank), 0, 0});
      // Equal ranks occur, as with equal scores.
      table.insert(static_cast<std::int32_t>(bits.word[0] % static_cast<unsigned>(next)),
                   static_cast<std::int32_t>(bits.word[1] % static_cast<unsigned>(next)),
                   {static_cast<std::int32_t>(bits.word[2] % 40), next});
      ++next;
    }
    std::vector<std::int32_t> symbols;
    for (std::uint32_t i = 0; i < trial % 70; ++i) {
      const std::uint32_t word = philox(key, {trial, i, 1, 0}).word[0];
      symbols.push_back(word % 11 == 0 ? -10 - static_cast<std::int32_t>(i) : static_cast<std::int32_t>(word % 4));
    }
    std::vector<std::int32_t> slow = symbols;
    merge_slowly(slow, table);
    PairMerger().merge(symbols, table);
    CHECK(symbols == slow);
  }
}

TEST_CASE("of two merges of one pair the earlier one counts") {
  PairTable table;
  table.insert(1, 2, {5, 50});
  table.insert(1, 2, {3, 30});
  table.insert(1, 2, {4, 40});
  REQUIRE(table.find(1, 2) != nullptr);
  CHECK(table.find(1, 2)->id == 30);
  CHECK(table.find(2, 1) == nullptr);
  CHECK(table.find(-1, 2) == nullptr);
}

TEST_CASE("named pre-tokenisers cut as their families do") {
  const auto cut = [](const char* name, std::string_view text) { return pieces(PreTokenizer::named(name, "test"), text); };
  using List = std::vector<std::string>;
  CHECK(cut("gpt-2", "I'll pay 1234 $  now\n") == List{"I", "'ll", " pay", " 1234", " $", " ", " now", "\n"});
  CHECK(cut("smollm", "pay 1234  now") == List{"pay", " ", "1", "2", "3", "4", " ", " now"});
  CHECK(cut("falcon", "a+b 12345") == List{"a", "+", "b", " ", "123", "45"});
  CHECK(cut("llama-bpe", "I'LL pay 12345 $!\n\n x") == List{"I", "'LL", " pay", " ", "123", "45", " $!\n\n", " x"});
  CHECK(cut("qwen2", "pay 123(x)\r\n  y") == List{"pay", " ", "1", "2", "3", "(x", ")\r\n", " ", " y"});
  CHECK(cut("gpt-2", "x\u180Ey") == List{"x", "\u180E", "y"});
  CHECK_THROWS_WITH_AS(PreTokenizer::named("smolm", "model.gguf"), doctest::Contains("smollm"), InputError);
}

TEST_CASE("pre-tokenisers lose no byte, whatever the bytes") {
  const RandomKey key = random_key(4, "bytes");
  for (const char* name : {"gpt-2", "smollm", "falcon", "llama-bpe", "qwen2"}) {
    const PreTokenizer pre_tokenizer = PreTokenizer::named(name, "test");
    for (std::uint32_t trial = 0; trial < 200; ++trial) {
      std::string text;
      for (std::uint32_t i = 0; i < trial; ++i) text += static_cast<char>(philox(key, {trial, i, 0, 0}).word[0]);
      std::string joined;
      for (const std::string& piece : pieces(pre_tokenizer, text)) joined += piece;
      CHECK(joined == text);
    }
  }
}

TEST_CASE("a pattern from a file that is wrong or too costly is an error") {
  CHECK_THROWS_WITH_AS(PreTokenizer({{"(unclosed"}}, "tokenizer.json"), doctest::Contains("does not compile"), InputError);
  const PreTokenizer costly({{"(a+)+$"}}, "tokenizer.json");
  CHECK_THROWS_WITH_AS(pieces(costly, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab"), doctest::Contains("gave up"),
                       InputError);
  const PreTokenizer empty_matches({{"x*"}}, "tokenizer.json");
  CHECK(pieces(empty_matches, "axxé").size() == 3);
}

TEST_CASE("SmolLM2: any bytes survive, long texts take linear time") {
  const auto model = find_model("smollm2/SmolLM2-135M-Instruct.Q4_1.gguf");
  if (!model) return skip_test("model smollm2");
  const auto tokenizer = load_tokenizer(*model);
  const RandomKey key = random_key(5, "bytes");
  int unchanged = 0;
  for (std::uint32_t trial = 0; trial < 300; ++trial) {
    std::string text;
    for (std::uint32_t i = 0; i < trial; ++i) {
      const RandomBits bits = philox(key, {trial, i, 0, 0});
      text += static_cast<char>(trial % 2 == 0 ? bits.word[0] : 0x20 + bits.word[0] % 0x5F);
    }
    const auto ids = tokenizer->encode(text, false);
    CHECK(std::none_of(ids.begin(), ids.end(), [&](std::int32_t id) { return tokenizer->is_control(id); }));
    const std::string back = tokenizer->decode(ids);
    if (back == text)
      ++unchanged;
    else
      CHECK(back.find("\xEF\xBF\xBD") != back.npos);  // for bytes that UTF-8 never has there is no token
  }
  CHECK(unchanged >= 150);
  // One word, one run of blanks, and one of changing letters of a megabyte each: quadratic merging would take minutes.
  for (const char* unit : {"a", " ", "xyz", "\u00e9"}) {
    std::string text;
    while (text.size() < 1'000'000) text += unit;
    std::vector<std::int32_t> ids;
    const double seconds = seconds_of([&] { ids = tokenizer->encode(text, false); });
    CHECK(tokenizer->decode(ids) == text);
    CHECK_MESSAGE(seconds < 10, fmt::format("{} repeated: {:.2f} s", unit, seconds));
  }
  CHECK_THROWS_WITH_AS(tokenizer->decode(std::vector<std::int32_t>{49152}), doctest::Contains("outside the vocabulary"), Error);
  CHECK_THROWS_AS(tokenizer->token_bytes(-1), Error);
  CHECK(tokenizer->decode(std::vector<std::int32_t>{1, 4093, 2}) == "user");
  CHECK(tokenizer->decode(std::vector<std::int32_t>{1, 4093, 2}, true) == "<|im_start|>user<|im_end|>");
}

TEST_CASE("SentencePiece merges through characters that are no tokens, as merging texts does") {
  // "é" is no token, "aé" and "aéb" are: merging texts finds "aé" although the character has no id.
  GgufWriter w;
  w.header(0, 5).string_entry("tokenizer.ggml.model", "llama");
  w.string_array("tokenizer.ggml.tokens", {"<unk>", "a", "b", "a\u00e9", "a\u00e9b", "<0xC3>", "<0xA9>", "<s>", "<", "s", "<s"});
  w.number_array<float>("tokenizer.ggml.scores", 6, {0, 0, 0, -1, -2, 0, 0, 0, 0, 0, -3});
  w.number_array<std::int32_t>("tokenizer.ggml.token_type", 5, {2, 1, 1, 1, 1, 6, 6, 3, 1, 1, 1});
  w.key("tokenizer.ggml.add_space_prefix", 7).number(std::uint8_t{0});
  w.key("tokenizer.ggml.unknown_token_id", 4).number(std::uint32_t{0});
  w.bytes[16] = 6;
  const MemoryFile file;
  const auto tokenizer = tokenizer_from_gguf(GgufFile::open(file.hold(w.bytes)));
  using Ids = std::vector<std::int32_t>;
  CHECK(tokenizer->encode("a\u00e9b", false) == Ids{4});
  CHECK(tokenizer->encode("\u00e9a", false) == Ids{5, 6, 1});
  CHECK(tokenizer->encode("b\u00e8", false) == Ids{2, 0});  // no byte token for its second byte: unknown
  CHECK(tokenizer->encode("<s>", false) == Ids{10, 0});     // a typed control token stays text
  CHECK(tokenizer->encode("<s>", true) == Ids{7});
  CHECK(tokenizer->decode(Ids{7, 1, 5, 6}) == "a\u00e9");
}
