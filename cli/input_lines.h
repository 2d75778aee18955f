// JSON lines as commands read them: from a file or from stdin.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer/chat_template.h"

namespace expctr {

/// One object of the input and where it stands ("rows.jsonl:3"), for messages.
struct InputLine {
  nlohmann::json object;
  std::string where;
};

/// All objects of the file, or of stdin when `path` is empty or "-". Blank lines are passed over. Throws InputError for a file that cannot
/// be read and for a line that is no JSON object, UsageError when stdin is a terminal.
std::vector<InputLine> read_input_lines(const std::string& path);

/// The string under this key. Throws InputError naming the line when it is missing or no string.
std::string text_of(const InputLine& line, std::string_view key);
/// The string under "prompt", or, for files of plain texts, "text".
std::string prompt_of(const InputLine& line);
/// The token ids under "ids". Throws InputError.
std::vector<std::int32_t> ids_of(const InputLine& line);

/// {"messages": [{"role", "content"}, ...]}.
bool has_messages(const InputLine& line);
std::vector<ChatMessage> messages_of(const InputLine& line);

/// One JSON object as one line on stdout. Bytes that are no UTF-8 become U+FFFD.
void print_json_line(const nlohmann::json& object);
/// Text on stdout as it is.
void print_text(std::string_view text);

}  // namespace expctr
