// inspect: what is inside a model, checkpoint, adapter or array file.
#include "cli/inspect.h"

#include <CLI/CLI.hpp>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/input_lines.h"
#include "data/fetch.h"

namespace expctr {

namespace {

std::string shape_text(const nlohmann::json& shape) {
  std::string text;
  for (const auto& extent : shape) text += fmt::format("{}{}", text.empty() ? "" : " x ", extent.get<std::int64_t>());
  return text.empty() ? "scalar" : text;
}

// A table for people: metadata, then tensors.
void print_table(const nlohmann::json& found, std::int64_t most) {
  print_text(fmt::format("{}  {}\n", found.at("kind").get<std::string>(), found.at("path").get<std::string>()));
  for (const auto& [key, value] : found.at("metadata").items()) {
    std::string text = value.is_string() ? value.get<std::string>() : value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    for (char& c : text)
      if (static_cast<unsigned char>(c) < 32 || c == 127) c = ' ';  // nothing in a file may steer the terminal
    if (text.size() > 100) text = fmt::format("{}... ({} bytes)", text.substr(0, 97), text.size());
    print_text(fmt::format("  {:<40} {}\n", key, text));
  }
  std::int64_t shown = 0;
  for (const auto& tensor : found.at("tensors")) {
    if (most > 0 && shown++ == most) {
      print_text(fmt::format("  ... {} more; --all lists them\n", std::ssize(found.at("tensors")) - most));
      break;
    }
    print_text(fmt::format("  {:<56} {:<6} {:>16} {:>14} bytes\n", tensor.at("name").get<std::string>(),
                           tensor.at("dtype").get<std::string>(), shape_text(tensor.at("shape")), tensor.at("bytes").get<std::int64_t>()));
  }
  for (const auto& tensor : found.at("unsupported"))
    print_text(fmt::format("  {:<56} {:<6} not readable by this program\n", tensor.at("name").get<std::string>(),
                           tensor.at("type").get<std::string>()));
  print_text(fmt::format("{} tensors, {} values, {} bytes\n", found.at("tensors").size(), found.at("values").get<std::int64_t>(),
                         found.at("bytes").get<std::int64_t>()));
}

}  // namespace

Command inspect_command() {
  struct Options {
    std::string path;
    bool all = false;
  };
  auto options = std::make_shared<Options>();
  const auto setup = [options](CLI::App& app) {
    app.add_option("path", options->path,
                   "a .gguf, .safetensors or .npy file, a Hugging Face or PEFT folder, a checkpoint (or the folder that holds them), or a "
                   "name that "
                   "'data fetch' knows")
        ->required();
    app.add_flag("--all", options->all, "all tensors (default: the first 40)");
  };
  const auto run = [options](const GlobalOptions& global) {
    const nlohmann::json found = inspect_path(resolve_asset(options->path));
    if (global.json)
      print_json_line(found);
    else
      print_table(found, options->all ? 0 : 40);
  };
  return {"inspect", "what is inside a model, checkpoint or array file", setup, run};
}

}  // namespace expctr
