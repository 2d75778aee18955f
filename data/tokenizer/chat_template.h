// Conversations as the text a chat model was trained on.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer/tokenizer.h"

namespace expctr {

struct ChatMessage {
  std::string role, content;
};

/// How one family of models writes a conversation: data, in a table (chat_template.cpp). In the texts {role} stands for the message's role,
/// {bos} and {eos} for the tokeniser's tokens.
struct ChatFamily {
  std::string name;
  std::vector<std::string> signature;  ///< texts that the model's Jinja template holds
  std::vector<std::string> foreign;    ///< texts that it does not hold
  std::string start;                   ///< before everything
  std::string before_user, after_user, before_assistant, after_assistant, before_system, after_system;
  std::string generation;      ///< what asks for an answer
  std::string default_system;  ///< content of a system message put first when the first message is not one; empty: none
  bool trims = false;          ///< white space at both ends of a content is dropped
  bool has_system = true;      ///< false: a system message is an error
  bool alternates = false;     ///< user, assistant, user, ... is demanded
};

/// A stretch of a rendered conversation: the template's own text, or the content of a message.
struct ChatPiece {
  std::string text;
  bool from_template = true;
};

class ChatTemplate {
 public:
  /// The family whose signature the Jinja text of the tokeniser's model file shows. The text is only compared, never executed.
  /// Throws InputError when the file has no template, or one that belongs to no family of the table.
  static ChatTemplate recognise(const Tokenizer& tokenizer);

  const std::string& family() const { return family_->name; }

  /// The conversation as text. Throws InputError for roles that the family does not know or not in this order.
  std::string render(std::span<const ChatMessage> messages, bool add_generation_prompt) const;
  std::vector<ChatPiece> pieces(std::span<const ChatMessage> messages, bool add_generation_prompt) const;

  /// Ids of the conversation. Control tokens are recognised in the template's own text only: a message that spells one stays text.
  /// Neighbouring plain text is encoded as a whole, so the ids equal those of the rendered text wherever no content spells a control token.
  std::vector<std::int32_t> encode_chat(const Tokenizer& tokenizer, std::span<const ChatMessage> messages,
                                        bool add_generation_prompt) const;

 private:
  ChatTemplate(const ChatFamily* family, std::string bos, std::string eos) : family_(family), bos_(std::move(bos)), eos_(std::move(eos)) {}
  std::string filled(std::string_view text, std::string_view role) const;

  const ChatFamily* family_;
  std::string bos_, eos_;
};

}  // namespace expctr
