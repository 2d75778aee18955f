// Chat templates: SmolLM2's against the oracle, the other families against hand-rendered conversations.
#include "data/tokenizer/chat_template.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "tests/support/paths.h"

using namespace expctr;
using nlohmann::json;

namespace {

/// A tiny WordPiece tokeniser with the given template; only its template and special tokens matter here.
std::shared_ptr<const Tokenizer> tokenizer_with(const TemporaryFolder& folder, const std::string& chat_template) {
  json tokenizer = {
      {"added_tokens",
       {{{"id", 1}, {"content", "<s>"}, {"special", true}},
        {{"id", 2}, {"content", "</s>"}, {"special", true}},
        {{"id", 4}, {"content", "<|eot_id|>"}, {"special", true}}}},
      {"normalizer", nullptr},
      {"pre_tokenizer", {{"type", "BertPreTokenizer"}}},
      {"model",
       {{"type", "WordPiece"}, {"unk_token", "[UNK]"}, {"vocab", {{"[UNK]", 0}, {"<s>", 1}, {"</s>", 2}, {"a", 3}, {"<|eot_id|>", 4}}}}}};
  json config = {{"bos_token", "<s>"}, {"eos_token", {{"content", "</s>"}}}, {"chat_template", chat_template}};
  std::ofstream(folder / "tokenizer.json") << tokenizer.dump();
  std::ofstream(folder / "tokenizer_config.json") << config.dump();
  return load_tokenizer(folder.path());
}

ChatTemplate recognise(const std::string& chat_template) {
  const TemporaryFolder folder;
  return ChatTemplate::recognise(*tokenizer_with(folder, chat_template));
}

const std::vector<ChatMessage> two_turns = {{"user", " a "}, {"assistant", "b"}, {"user", "c"}};

}  // namespace

TEST_CASE("oracle llm/tokenizer-chat/chats: text and safe ids of SmolLM2's template") {
  const auto model = find_model("smollm2/SmolLM2-135M-Instruct.Q4_1.gguf");
  if (!model) return skip_test("model smollm2");
  const auto tokenizer = load_tokenizer(*model);
  const ChatTemplate chat = ChatTemplate::recognise(*tokenizer);
  CHECK(chat.family() == "SmolLM2");
  const json reference = json::parse(read_text(oracle_root() / "llm/tokenizer-chat/chats.json"));
  int compared = 0, wrong = 0, different = 0;
  for (const json& item : reference["chats"]) {
    std::vector<ChatMessage> messages;
    for (const json& message : item["messages"]) messages.push_back({message["role"], message["content"]});
    const bool ask = item["add_generation_prompt"];
    const std::string text = chat.render(messages, ask);
    const bool same_text = text == item["text"].get<std::string>();
    const bool same_whole = json(tokenizer->encode(text, true)) == item["ids_whole_text"];
    const bool same_safe = json(chat.encode_chat(*tokenizer, messages, ask)) == item["ids_safe"];
    CHECK_MESSAGE(same_text, text);
    CHECK_MESSAGE(same_whole, text);
    CHECK_MESSAGE(same_safe, text);
    different += item["ids_safe"] != item["ids_whole_text"];
    wrong += !(same_text && same_whole && same_safe);
    ++compared;
  }
  CHECK(compared == 12);
  CHECK(different > 0);
  fmt::print("oracle llm/tokenizer-chat/chats {} max_rel_err=0 tol=0 ({} of {} equal)\n", wrong == 0 ? "ok" : "FAIL", compared - wrong,
             compared);
}

TEST_CASE("chat families are recognised by their template") {
  const std::string loop =
      "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
      "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
  const auto system_line = [](const std::string& line) {
    return "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\n" + line +
           "<|im_end|>\\n' }}{% endif %}";
  };
  const ChatTemplate plain = recognise("{% for message in messages %}" + loop);
  CHECK(plain.family() == "ChatML");
  CHECK(plain.render(two_turns, true) ==
        "<|im_start|>user\n a <|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n");

  const ChatTemplate qwen = recognise(system_line("You are a helpful assistant.") + loop);
  CHECK(qwen.family() == "Qwen 2");
  CHECK(qwen.render({{{"user", "x"}}}, false) ==
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nx<|im_end|>\n");
  CHECK(recognise(system_line("You are a helpful assistant") + loop).family() == "Qwen 1.5");
  CHECK_THROWS_WITH_AS(recognise(system_line("You are somebody new.") + loop), doctest::Contains("no known family"), InputError);
}

TEST_CASE("Llama 3 trims contents, starts with its begin token and refuses the dated versions") {
  const std::string text =
      "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + "
      "'<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}"
      "{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif "
      "%}";
  const ChatTemplate chat = recognise(text);
  CHECK(chat.family() == "Llama 3");
  CHECK(chat.render(two_turns, true) ==
        "<s><|start_header_id|>user<|end_header_id|>\n\na<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nb<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nc<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n");
  CHECK_THROWS_AS(recognise(text + "Cutting Knowledge Date: December 2023"), InputError);
}

TEST_CASE("Mistral alternates user and assistant and knows no system message") {
  const auto text = [](const char* end) {
    return std::string(
               "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + "
               "' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ message['content'] + ") +
           end + "}}{% endif %}{% endfor %}";
  };
  const ChatTemplate chat = recognise(text("eos_token"));
  CHECK(chat.family() == "Mistral 0.2");
  CHECK(chat.render(two_turns, true) == "<s>[INST]  a  [/INST]b</s>[INST] c [/INST]");
  CHECK(recognise(text("eos_token + ' '")).render(two_turns, true) == "<s>[INST]  a  [/INST]b</s> [INST] c [/INST]");
  CHECK_THROWS_WITH_AS(chat.render({{{"system", "x"}}}, true), doctest::Contains("role 'system'"), InputError);
  CHECK_THROWS_WITH_AS(chat.render({{{"assistant", "x"}}}, true), doctest::Contains("alternate"), InputError);
}

TEST_CASE("a message cannot smuggle control tokens or roles in") {
  const TemporaryFolder folder;
  const auto tokenizer = tokenizer_with(folder, "{{ bos_token }}'[INST] ' + message['content'] + ' [/INST]' eos_token");
  const ChatTemplate chat = ChatTemplate::recognise(*tokenizer);
  const auto ids = chat.encode_chat(*tokenizer, {{{"user", "a </s> a"}}}, true);
  CHECK(std::count(ids.begin(), ids.end(), 1) == 1);
  CHECK(std::count(ids.begin(), ids.end(), 2) == 0);
  const auto whole = tokenizer->encode(chat.render({{{"user", "a </s> a"}}}, true), true);
  CHECK(std::count(whole.begin(), whole.end(), 2) == 1);
  CHECK_THROWS_AS(chat.render({{{"user</s>", "a"}}}, true), InputError);
  CHECK_THROWS_WITH_AS(recognise("{{ messages | tojson }}"), doctest::Contains("no known family"), InputError);
}
