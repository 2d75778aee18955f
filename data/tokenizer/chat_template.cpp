#include "data/tokenizer/chat_template.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "base/error.h"
#include "engine/io/quoted.h"

namespace expctr {
namespace {

ChatFamily chat_ml(const char* name, const char* default_system) {
  ChatFamily family;
  family.name = name;
  family.signature = {"<|im_start|>", "<|im_end|>"};
  if (*default_system != '\0') family.signature.push_back(std::string("<|im_start|>system\n") + default_system + "<|im_end|>\n");
  family.foreign = {"<think>", "trim", "strip()", "eos_token", "strftime_now"};
  family.before_user = family.before_assistant = family.before_system = "<|im_start|>{role}\n";
  family.after_user = family.after_assistant = family.after_system = "<|im_end|>\n";
  family.generation = "<|im_start|>assistant\n";
  family.default_system = default_system;
  return family;
}

ChatFamily llama_3() {
  ChatFamily family;
  family.name = "Llama 3";
  family.signature = {"<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>", "trim", "bos_token"};
  family.foreign = {"Cutting Knowledge", "date_string", "tools"};  // 3.1 and later write a dated system message
  family.start = "{bos}";
  family.before_user = family.before_assistant = family.before_system = "<|start_header_id|>{role}<|end_header_id|>\n\n";
  family.after_user = family.after_assistant = family.after_system = "<|eot_id|>";
  family.generation = "<|start_header_id|>assistant<|end_header_id|>\n\n";
  family.trims = true;
  return family;
}

ChatFamily mistral(const char* name, const char* after_assistant, const char* signature) {
  ChatFamily family;
  family.name = name;
  family.signature = {"bos_token", "'[INST] ' + message['content'] + ' [/INST]'", signature};
  family.foreign = {"system_message", "loop_messages", "tools", "trim", "strip()", "<<SYS>>"};
  family.start = "{bos}";
  family.before_user = "[INST] ";
  family.after_user = " [/INST]";
  family.after_assistant = after_assistant;
  family.has_system = false;
  family.alternates = true;
  return family;
}

/// The first family that fits is taken.
const std::vector<ChatFamily>& families() {
  static const std::vector<ChatFamily> table = {
      chat_ml("SmolLM2", "You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
      chat_ml("Qwen 2.5", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
      chat_ml("Qwen 2", "You are a helpful assistant."),
      chat_ml("Qwen 1.5", "You are a helpful assistant"),
      chat_ml("ChatML", ""),
      llama_3(),
      mistral("Mistral 0.1", "{eos} ", "eos_token + ' '"),
      mistral("Mistral 0.2", "{eos}", "eos_token"),
  };
  return table;
}

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (std::size_t at = text.find(from); at != text.npos; at = text.find(from, at + to.size())) text.replace(at, from.size(), to);
}

std::string_view trimmed(std::string_view text) {
  const auto blank = [](char c) { return c == ' ' || (c >= '\t' && c <= '\r'); };
  while (!text.empty() && blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && blank(text.back())) text.remove_suffix(1);
  return text;
}

/// A system line of the template's own that the table does not have: without it every prompt would be subtly wrong.
bool has_unknown_system_line(const ChatFamily& family, const std::string& jinja) {
  std::string header = family.before_system;
  replace_all(header, "{role}", "system");
  if (header.empty() || !family.default_system.empty()) return false;
  for (std::size_t at = jinja.find(header); at != jinja.npos; at = jinja.find(header, at + 1)) {
    const std::size_t next = at + header.size();
    if (next < jinja.size() && std::isalnum(static_cast<unsigned char>(jinja[next]))) return true;
  }
  return false;
}

bool fits(const ChatFamily& family, const std::string& jinja) {
  const auto holds = [&](const std::string& text) { return jinja.find(text) != jinja.npos; };
  return std::all_of(family.signature.begin(), family.signature.end(), holds) &&
         std::none_of(family.foreign.begin(), family.foreign.end(), holds) && !has_unknown_system_line(family, jinja);
}

std::string known_families() {
  std::string names;
  for (const ChatFamily& family : families()) names += (names.empty() ? "" : ", ") + family.name;
  return names;
}

}  // namespace

ChatTemplate ChatTemplate::recognise(const Tokenizer& tokenizer) {
  if (!tokenizer.chat_template())
    throw InputError("the model has no chat template", "it was not trained on conversations; give a plain prompt (without --chat)");
  std::string jinja = *tokenizer.chat_template();
  replace_all(jinja, "\\n", "\n");  // inside the template's string literals both spellings occur
  const auto spelling = [&](std::optional<std::int32_t> id) { return id ? tokenizer.token_bytes(*id) : std::string(); };
  for (const ChatFamily& family : families())
    if (fits(family, jinja)) return {&family, spelling(tokenizer.bos()), spelling(tokenizer.eos())};
  throw InputError(fmt::format("the model's chat template is of no known family: {}", quoted_text(jinja)),
                   fmt::format("known are {}; render the conversation yourself and give it as a plain prompt", known_families()));
}

std::string ChatTemplate::filled(std::string_view text, std::string_view role) const {
  std::string result(text);
  replace_all(result, "{role}", role);
  replace_all(result, "{bos}", bos_);
  replace_all(result, "{eos}", eos_);
  return result;
}

std::vector<ChatPiece> ChatTemplate::pieces(std::span<const ChatMessage> messages, bool add_generation_prompt) const {
  std::vector<ChatPiece> result;
  const auto add_message = [&](const ChatMessage& message, bool from_template) {
    const bool user = message.role == "user", assistant = message.role == "assistant";
    const std::string& before = user ? family_->before_user : assistant ? family_->before_assistant : family_->before_system;
    const std::string& after = user ? family_->after_user : assistant ? family_->after_assistant : family_->after_system;
    result.push_back({filled(before, message.role), true});
    result.push_back({std::string(family_->trims ? trimmed(message.content) : std::string_view(message.content)), from_template});
    result.push_back({filled(after, message.role), true});
  };

  result.push_back({filled(family_->start, ""), true});
  if (!messages.empty() && messages[0].role != "system" && !family_->default_system.empty())
    add_message({"system", family_->default_system}, true);
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const std::string& role = messages[i].role;
    if (role != "user" && role != "assistant" && (role != "system" || !family_->has_system))
      throw InputError(
          fmt::format("message {} has the role {}, which chats of the family {} do not have", i, quoted_text(role), family_->name),
          family_->has_system ? "roles are system, user and assistant"
                              : "roles are user and assistant; put instructions into the first user message");
    if (family_->alternates && (role == "user") != (i % 2 == 0))
      throw InputError(fmt::format("message {} has the role {}; chats of the family {} alternate user, assistant, user, ...", i,
                                   quoted_text(role), family_->name),
                       "join neighbouring messages of one role");
    add_message(messages[i], false);
  }
  if (add_generation_prompt) result.push_back({filled(family_->generation, "assistant"), true});
  std::erase_if(result, [](const ChatPiece& piece) { return piece.text.empty(); });
  return result;
}

std::string ChatTemplate::render(std::span<const ChatMessage> messages, bool add_generation_prompt) const {
  std::string text;
  for (const ChatPiece& piece : pieces(messages, add_generation_prompt)) text += piece.text;
  return text;
}

std::vector<std::int32_t> ChatTemplate::encode_chat(const Tokenizer& tokenizer, std::span<const ChatMessage> messages,
                                                    bool add_generation_prompt) const {
  std::vector<std::int32_t> ids;
  std::string plain;
  const auto flush = [&] {
    const std::vector<std::int32_t> encoded = tokenizer.encode(plain, false);
    ids.insert(ids.end(), encoded.begin(), encoded.end());
    plain.clear();
  };
  for (const ChatPiece& piece : pieces(messages, add_generation_prompt)) {
    if (!piece.from_template) {
      plain += piece.text;
      continue;
    }
    for (const Fragment& fragment : tokenizer.split_special(piece.text, true)) {
      if (fragment.id < 0) {
        plain += fragment.text;
        continue;
      }
      flush();
      ids.push_back(fragment.id);
    }
  }
  flush();
  return ids;
}

}  // namespace expctr
