// A language model ready to use: decoder, tokeniser and chat template of one file or folder.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "data/prompts.h"
#include "data/tokenizer/chat_template.h"
#include "data/tokenizer/tokenizer.h"
#include "inference/prefix_store.h"
#include "models/llm/decoder.h"
#include "models/llm/load.h"

namespace expctr {

class LanguageModel {
 public:
  /// A .gguf file or a Hugging Face folder.
  static LanguageModel load(const std::filesystem::path& path, const DecoderLoadOptions& options = {});

  const std::string& name() const { return name_; }
  const Decoder& decoder() const { return *decoder_; }
  const Tokenizer& tokenizer() const { return *tokenizer_; }
  bool has_chat_template() const { return chat_.has_value(); }

  /// Ids of a conversation with the marker that asks for an answer. Throws InputError when the model has no chat template.
  Tokens encode_chat(std::span<const ChatMessage> messages) const;
  Tokens encode(const Prompt& prompt) const;
  /// Ids of plain text, with the begin token where the tokeniser's file asks for it.
  Tokens encode_text(std::string_view text, bool parse_special = false) const;
  /// Text of an answer up to its end token, blanks trimmed.
  std::string answer_text(std::span<const std::int32_t> tokens) const;
  /// Ids that end an answer.
  std::vector<std::int32_t> end_tokens() const;
  /// SHA-256 over all weights.
  std::string weights_hash() const;

  /// Ids of "Yes" and "No" exactly as they follow `prompt`. Throws UsageError when they coincide, take more than one token, or change the prompt's ids.
  struct Answers {
    std::int32_t yes = 0, no = 0;
  };
  Answers answers(const Prompt& prompt) const;

 private:
  std::string name_;
  std::shared_ptr<const Decoder> decoder_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::optional<ChatTemplate> chat_;
};

}  // namespace expctr
