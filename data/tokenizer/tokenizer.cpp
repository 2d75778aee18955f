#include "data/tokenizer/tokenizer.h"

#include <fmt/format.h>

#include <utility>

#include "base/error.h"
#include "engine/io/gguf.h"
#include "engine/io/quoted.h"

namespace expctr {

Tokenizer::Tokenizer(TokenizerParts parts) : parts_(std::move(parts)), special_(parts_.vocabulary, parts_.strip_rules) {
  if (parts_.vocabulary.repeated() > 0)
    parts_.notes.push_back(fmt::format("{} tokens have the text of an earlier token and are never produced", parts_.vocabulary.repeated()));
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text, bool parse_special) const {
  std::vector<std::int32_t> ids;
  for (const Fragment& fragment : special_.split(text, parse_special)) {
    if (fragment.id >= 0)
      ids.push_back(fragment.id);
    else
      encode_fragment(fragment.text, fragment.text.data() == text.data(), ids);
  }
  return ids;
}

std::vector<std::int32_t> Tokenizer::encode_document(std::string_view text, bool parse_special) const {
  return with_ends(encode(text, parse_special));
}

std::vector<std::int32_t> Tokenizer::with_ends(std::vector<std::int32_t> ids) const {
  if (parts_.add_bos && parts_.bos) ids.insert(ids.begin(), *parts_.bos);
  if (parts_.add_eos && parts_.eos) ids.push_back(*parts_.eos);
  return ids;
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids, bool keep_special) const {
  std::string text;
  bool first = true;
  for (const std::int32_t id : ids) {
    if (parts_.vocabulary.holds(id) && is_control(id) && !keep_special) continue;
    const std::string bytes = token_bytes(id);
    if (is_control(id)) {
      text += bytes;
      continue;
    }
    text += first && strips_first_blank() && bytes.starts_with(' ') ? bytes.substr(1) : bytes;
    first = false;
  }
  return text;
}

std::string Tokenizer::token_bytes(std::int32_t id) const {
  if (!parts_.vocabulary.holds(id))
    throw Error(fmt::format("token id {} is outside the vocabulary of {}", id, vocabulary()),
                "the ids belong to another model's tokeniser");
  const TokenKind kind = parts_.vocabulary.kind(id);
  if (kind == TokenKind::control || kind == TokenKind::unknown || kind == TokenKind::user_defined) return parts_.vocabulary.text(id);
  return plain_bytes(id);
}

bool Tokenizer::is_control(std::int32_t id) const {
  return parts_.vocabulary.holds(id) && parts_.vocabulary.kind(id) == TokenKind::control;
}

void Tokenizer::append_unknown(std::string_view text, std::vector<std::int32_t>& ids) const {
  if (!parts_.unknown)
    throw InputError(fmt::format("the vocabulary has no token for {} and none for unknown text", quoted_text(text)),
                     "remove the character or use a model whose tokeniser knows it");
  ids.push_back(*parts_.unknown);
}

std::shared_ptr<const Tokenizer> load_tokenizer(const std::filesystem::path& model) {
  if (std::filesystem::is_directory(model)) return tokenizer_from_json(model / "tokenizer.json");
  if (model.extension() == ".json") return tokenizer_from_json(model);
  return tokenizer_from_gguf(GgufFile::open(model));
}

}  // namespace expctr
