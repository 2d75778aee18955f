#include "cli/input_lines.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <iostream>

#include "base/error.h"
#include "engine/io/checked_json.h"

namespace expctr {

namespace {

constexpr int deepest_json = 16;

void read_from(std::istream& stream, const std::string& name, std::vector<InputLine>& lines) {
  std::string text;
  for (std::int64_t number = 1; std::getline(stream, text); ++number) {
    if (text.find_first_not_of(" \t\r") == std::string::npos) continue;
    InputLine line{{}, fmt::format("{}:{}", name, number)};
    line.object = parse_checked_json(text, line.where, deepest_json);
    if (!line.object.is_object())
      throw InputError(line.where + ": not a JSON object", R"(one object a line, e.g. {"prompt": "Once upon a time"})");
    lines.push_back(std::move(line));
  }
  if (stream.bad()) throw InputError(name + ": reading failed", "check the disk, then try again");
}

const nlohmann::json& value_of(const InputLine& line, std::string_view key) {
  const auto found = line.object.find(key);
  if (found == line.object.end()) throw InputError(fmt::format("{}: no \"{}\"", line.where, key), "see --help for what a line must hold");
  return *found;
}

}  // namespace

std::vector<InputLine> read_input_lines(const std::string& path) {
  std::vector<InputLine> lines;
  if (path.empty() || path == "-") {
    if (::isatty(STDIN_FILENO) != 0) throw UsageError("no input", "give --input FILE, or JSON lines on stdin; see --help");
    read_from(std::cin, "stdin", lines);
    return lines;
  }
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) throw InputError(path + ": is a folder", "give a file of JSON lines");
  std::ifstream file(path);
  if (!file) throw InputError(fmt::format("{}: {}", path, std::strerror(errno)), "check the name and the permissions");
  read_from(file, path, lines);
  return lines;
}

std::string text_of(const InputLine& line, std::string_view key) {
  const nlohmann::json& value = value_of(line, key);
  if (!value.is_string()) throw InputError(fmt::format("{}: \"{}\" is no text", line.where, key), "write it as a JSON string");
  return value.get<std::string>();
}

std::string prompt_of(const InputLine& line) {
  return text_of(line, line.object.contains("prompt") || !line.object.contains("text") ? "prompt" : "text");
}

std::vector<std::int32_t> ids_of(const InputLine& line) {
  const nlohmann::json& value = value_of(line, "ids");
  std::vector<std::int32_t> ids;
  bool good = value.is_array();
  for (std::size_t i = 0; good && i < value.size(); ++i) {
    good = value[i].is_number_integer() && value[i] >= std::numeric_limits<std::int32_t>::min() &&
           value[i] <= std::numeric_limits<std::int32_t>::max();
    if (good) ids.push_back(value[i].get<std::int32_t>());
  }
  if (!good) throw InputError(line.where + ": \"ids\" is no list of token ids", R"(write e.g. {"ids": [1, 403, 407]})");
  return ids;
}

bool has_messages(const InputLine& line) { return line.object.contains("messages"); }

std::vector<ChatMessage> messages_of(const InputLine& line) {
  const nlohmann::json& value = value_of(line, "messages");
  std::vector<ChatMessage> messages;
  bool good = value.is_array() && !value.empty();
  for (std::size_t i = 0; good && i < value.size(); ++i) {
    const nlohmann::json& message = value[i];
    good = message.is_object() && message.contains("role") && message["role"].is_string() && message.contains("content") &&
           message["content"].is_string();
    if (good) messages.push_back({message["role"].get<std::string>(), message["content"].get<std::string>()});
  }
  if (!good)
    throw InputError(line.where + ": \"messages\" is no conversation",
                     R"(write e.g. {"messages": [{"role": "user", "content": "Hello"}]})");
  return messages;
}

void print_json_line(const nlohmann::json& object) {
  print_text(object.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

void print_text(std::string_view text) { std::fwrite(text.data(), 1, text.size(), stdout); }

}  // namespace expctr
