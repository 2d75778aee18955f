// A tokeniser out of GGUF metadata (keys tokenizer.ggml.*).
#include <fmt/format.h>

#include <cmath>

#include "base/error.h"
#include "data/tokenizer/byte_level_bpe.h"
#include "data/tokenizer/sentence_piece.h"
#include "data/tokenizer/tokenizer.h"
#include "data/tokenizer/unigram.h"
#include "data/tokenizer/word_piece.h"
#include "engine/io/gguf.h"
#include "engine/io/quoted.h"

namespace expctr {
namespace {

constexpr const char* prefix = "tokenizer.ggml.";
constexpr const char* hint = "the file is damaged or was converted wrongly; fetch or convert the model again";

std::string key(const char* name) { return std::string(prefix) + name; }

std::vector<TokenKind> token_kinds(const GgufFile& file, std::size_t tokens) {
  std::vector<TokenKind> kinds;
  const auto numbers = file.find_i32_array(key("token_type"));
  if (!numbers) return kinds;
  if (numbers->size() != tokens)
    throw InputError(fmt::format("{}: {} token types for {} tokens", file.path(), numbers->size(), tokens), hint);
  for (std::size_t i = 0; i < tokens; ++i) {
    const std::int32_t number = (*numbers)[i];
    if (number < 1 || number > 6) throw InputError(fmt::format("{}: token {} has the unknown type {}", file.path(), i, number), hint);
    kinds.push_back(static_cast<TokenKind>(number));
  }
  return kinds;
}

std::optional<std::int32_t> special_id(const GgufFile& file, const char* name, std::int32_t tokens) {
  const auto id = file.find_u32(key(name));
  if (!id || *id == 0xFFFFFFFFu) return std::nullopt;  // how some converters write "none"
  if (*id >= static_cast<std::uint32_t>(tokens))
    throw InputError(fmt::format("{}: {} is {}, the vocabulary has {} tokens", file.path(), key(name), *id, tokens), hint);
  return static_cast<std::int32_t>(*id);
}

std::vector<std::pair<std::string, std::string>> merges_of(const GgufFile& file) {
  std::vector<std::pair<std::string, std::string>> merges;
  for (const std::string& text : file.required_string_array(key("merges"))) {
    const std::size_t blank = text.find(' ', 1);
    if (blank == text.npos || blank + 1 == text.size())
      throw InputError(
          fmt::format("{}: merge {} is {}, not two parts with a blank between them", file.path(), merges.size(), quoted_text(text)), hint);
    merges.emplace_back(text.substr(0, blank), text.substr(blank + 1));
  }
  return merges;
}

std::vector<float> scores_of(const GgufFile& file, std::size_t tokens) {
  std::vector<float> scores = file.required_f32_array(key("scores"));
  if (scores.size() != tokens) throw InputError(fmt::format("{}: {} scores for {} tokens", file.path(), scores.size(), tokens), hint);
  for (std::size_t i = 0; i < tokens; ++i)
    if (std::isnan(scores[i])) throw InputError(fmt::format("{}: the score of token {} is no number", file.path(), i), hint);
  return scores;
}

}  // namespace

std::shared_ptr<const Tokenizer> tokenizer_from_gguf(const GgufFile& file) {
  const std::string model = file.required_string(key("model"));
  std::vector<std::string> texts = file.required_string_array(key("tokens"));
  if (texts.empty() || texts.size() > (1u << 24))
    throw InputError(fmt::format("{}: a vocabulary of {} tokens", file.path(), texts.size()), hint);
  const std::size_t count = texts.size();

  TokenizerParts parts;
  parts.vocabulary = Vocabulary(std::move(texts), token_kinds(file, count));
  const auto id = [&](const char* name) { return special_id(file, name, parts.vocabulary.size()); };
  parts.bos = id("bos_token_id");
  parts.eos = id("eos_token_id");
  parts.unknown = id("unknown_token_id");
  parts.padding = id("padding_token_id");
  parts.add_bos = file.find_bool(key("add_bos_token")).value_or(model == "llama" || model == "bert");
  parts.add_eos = file.find_bool(key("add_eos_token")).value_or(model == "bert" || model == "t5");
  parts.chat_template = file.find_string("tokenizer.chat_template");

  if (model == "gpt2") {
    const std::string pre_tokenizer = file.required_string(key("pre"));
    ByteLevelBpe::Options options;
    options.ignore_merges = ignores_merges(pre_tokenizer);
    options.add_prefix_space = file.find_bool(key("add_space_prefix")).value_or(false);
    return std::make_shared<ByteLevelBpe>(std::move(parts), PreTokenizer::named(pre_tokenizer, file.path()), merges_of(file), options,
                                          file.path());
  }
  if (model == "llama") {
    SentencePiece::Options options;
    if (!file.find_bool(key("add_space_prefix")).value_or(true)) options.metaspace.prefix = BlankPrefix::never;
    return std::make_shared<SentencePiece>(std::move(parts), scores_of(file, count), options);
  }
  if (model == "t5") {
    for (std::int32_t id = 0; id < parts.vocabulary.size(); ++id)
      if (parts.vocabulary.kind(id) == TokenKind::unknown) parts.unknown = id;
    const std::vector<float> scores = scores_of(file, count);
    Unigram::Options options;
    if (!file.find_bool(key("add_space_prefix")).value_or(false)) options.metaspace.prefix = BlankPrefix::never;
    options.collapse_blanks = file.find_bool(key("remove_extra_whitespaces")).value_or(false);
    Normalizer normalizer;
    if (const auto numbers = file.find_i32_array(key("precompiled_charsmap")); numbers && !numbers->empty()) {
      std::vector<std::byte> bytes;
      for (const std::int32_t number : *numbers) bytes.push_back(static_cast<std::byte>(number & 0xFF));  // u8 or i8 in the file
      const auto map = std::make_shared<CharacterMap>(bytes, file.path());
      normalizer.add([map](std::string_view text) { return map->replace_longest(text); });
    }
    return std::make_shared<Unigram>(std::move(parts), std::vector<double>(scores.begin(), scores.end()), std::move(normalizer), options,
                                     file.path());
  }
  if (model == "bert") {
    if (const auto cls = id("cls_token_id")) parts.bos = cls;
    if (const auto separator = id("seperator_token_id")) parts.eos = separator;  // spelled like this in the format
    for (const auto& marker : {parts.bos, parts.eos, parts.padding, id("mask_token_id")})
      if (marker) parts.vocabulary.set_kind(*marker, TokenKind::control);
    if (parts.unknown) parts.vocabulary.set_kind(*parts.unknown, TokenKind::unknown);
    return std::make_shared<WordPiece>(std::move(parts), "\u2581", "", WordPiece::Options{}, file.path());
  }
  throw InputError(fmt::format("{}: tokeniser model {} is not supported", file.path(), quoted_text(model)),
                   "supported are gpt2 (byte-level BPE), llama (SentencePiece BPE), t5 (unigram) and bert (WordPiece)");
}

}  // namespace expctr
