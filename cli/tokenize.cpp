// tokenize: ids of texts, texts of ids.
#include <CLI/CLI.hpp>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/input_lines.h"
#include "data/fetch.h"
#include "data/tokenizer/tokenizer.h"
#include "engine/log/logger.h"

namespace expctr {

namespace {

struct Options {
  std::string model, input;
  std::vector<std::string> texts;
  bool decode = false, parse_special = false, no_ends = false;
};

std::vector<std::int32_t> encode(const Tokenizer& tokenizer, const InputLine& line, const Options& options) {
  if (has_messages(line)) return ChatTemplate::recognise(tokenizer).encode_chat(tokenizer, messages_of(line), true);
  const std::string text = line.object.contains("text") ? text_of(line, "text") : prompt_of(line);
  return options.no_ends ? tokenizer.encode(text, options.parse_special) : tokenizer.encode_document(text, options.parse_special);
}

std::string decode(const Tokenizer& tokenizer, const InputLine& line, const Options& options) {
  const std::vector<std::int32_t> ids = ids_of(line);
  for (const std::int32_t id : ids)
    if (id < 0 || id >= tokenizer.vocabulary())
      throw InputError(fmt::format("{}: token {} is outside the vocabulary", line.where, id),
                       fmt::format("this model's ids go from 0 to {}", tokenizer.vocabulary() - 1));
  return tokenizer.decode(ids, options.parse_special);
}

void run(const Options& options, const GlobalOptions& global) {
  const std::shared_ptr<const Tokenizer> tokenizer = load_tokenizer(resolve_asset(options.model));
  for (const std::string& note : tokenizer->notes()) log_info("{}: {}", options.model, note);
  std::vector<InputLine> lines;
  for (const std::string& text : options.texts) lines.push_back({{{"text", text}}, "--text"});
  if (lines.empty() || !options.input.empty())
    for (InputLine& line : read_input_lines(options.input)) lines.push_back(std::move(line));
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (options.decode) {
      const std::string text = decode(*tokenizer, lines[i], options);
      if (global.json)
        print_json_line({{"index", i}, {"text", text}});
      else
        print_text(text + "\n");
    } else {
      const std::vector<std::int32_t> ids = encode(*tokenizer, lines[i], options);
      if (global.json)
        print_json_line({{"index", i}, {"ids", ids}});
      else
        print_text(fmt::format("{}\n", fmt::join(ids, " ")));
    }
  }
}

}  // namespace

Command tokenize_command() {
  auto options = std::make_shared<Options>();
  const auto setup = [options](CLI::App& app) {
    app.add_option("--model", options->model, "a .gguf file, a Hugging Face folder, a tokenizer.json, or a name that 'data fetch' knows")
        ->required()
        ->type_name("M");
    CLI::Option* text = app.add_option("--text", options->texts, "a text; may be repeated")->allow_extra_args(false)->type_name("TEXT");
    app.add_option("--input", options->input, R"(JSON lines {"text"}, {"prompt"} or {"messages"}; decoding: {"ids"} (default: stdin))")
        ->type_name("FILE");
    app.add_flag("--decode", options->decode, "texts of ids")->excludes(text);
    app.add_flag("--parse-special", options->parse_special,
                 "text that spells a control token becomes that token; decoding: control tokens are written out (default: left out)");
    app.add_flag("--no-ends", options->no_ends, "without the begin and end tokens that the model's tokeniser asks for");
  };
  return {"tokenize", "ids of texts, texts of ids", setup, [options](const GlobalOptions& global) { run(*options, global); }};
}

}  // namespace expctr
