#include "inference/language_model.h"

#include <fmt/format.h>

#include "base/error.h"
#include "models/parameters.h"

namespace expctr {

LanguageModel LanguageModel::load(const std::filesystem::path& path, const DecoderLoadOptions& options) {
  LanguageModel model;
  model.name_ = path.filename().empty() ? path.parent_path().filename().string() : path.stem().string();
  model.tokenizer_ = load_tokenizer(path);
  model.decoder_ = std::make_shared<const Decoder>(load_decoder(path, options));
  if (model.tokenizer_->vocabulary() > model.decoder_->config().vocabulary) {
    throw InputError(fmt::format("{}: the tokeniser has {} tokens, the model {}", path.string(), model.tokenizer_->vocabulary(), model.decoder_->config().vocabulary),
                     "tokeniser and weights belong to different models");
  }
  if (model.tokenizer_->chat_template()) model.chat_ = ChatTemplate::recognise(*model.tokenizer_);
  return model;
}

Tokens LanguageModel::encode_chat(std::span<const ChatMessage> messages) const {
  if (!chat_) throw InputError(fmt::format("{}: the model has no chat template", name_), "use an instruction-tuned model, or plain prompts");
  return chat_->encode_chat(*tokenizer_, messages, true);
}

Tokens LanguageModel::encode(const Prompt& prompt) const {
  const ChatMessage messages[] = {{"system", prompt.system}, {"user", prompt.user}};
  return encode_chat(messages);
}

Tokens LanguageModel::encode_text(std::string_view text, bool parse_special) const { return tokenizer_->encode_document(text, parse_special); }

std::vector<std::int32_t> LanguageModel::end_tokens() const {
  std::vector<std::int32_t> ends;
  if (tokenizer_->eos()) ends.push_back(*tokenizer_->eos());
  return ends;
}

std::string LanguageModel::answer_text(std::span<const std::int32_t> tokens) const {
  std::size_t n = 0;
  const std::vector<std::int32_t> ends = end_tokens();
  while (n < tokens.size() && std::find(ends.begin(), ends.end(), tokens[n]) == ends.end()) ++n;
  const std::string text = tokenizer_->decode(tokens.first(n));
  constexpr const char* blanks = " \t\r\n";
  const std::size_t first = text.find_first_not_of(blanks);
  if (first == std::string::npos) return {};
  return text.substr(first, text.find_last_not_of(blanks) - first + 1);
}

std::string LanguageModel::weights_hash() const { return hash_of(decoder_->weights()); }

LanguageModel::Answers LanguageModel::answers(const Prompt& prompt) const {
  if (!chat_) throw InputError(fmt::format("{}: the model has no chat template", name_), "use an instruction-tuned model");
  const ChatMessage messages[] = {{"system", prompt.system}, {"user", prompt.user}};
  std::vector<ChatPiece> pieces = chat_->pieces(messages, true);
  const auto answer = [&](const char* word) {
    // The answer continues the template's own last stretch of text: encoded together with it, the prompt's ids must stay and one id must come.
    std::string text;
    for (const ChatPiece& piece : pieces) text += piece.text;
    const Tokens plain = tokenizer_->encode(text, true), joined = tokenizer_->encode(text + word, true);
    if (joined.size() != plain.size() + 1 || !std::equal(plain.begin(), plain.end(), joined.begin())) {
      throw UsageError(fmt::format("{}: '{}' behind the scorer's prompt is not one token of its own", name_, word), "choose a model whose tokeniser keeps Yes and No whole");
    }
    return joined.back();
  };
  const Answers result{answer("Yes"), answer("No")};
  if (result.yes == result.no) throw UsageError(fmt::format("{}: Yes and No are the same token", name_), "choose another model");
  return result;
}

}  // namespace expctr
