// generate: text from a language model.
#include <unistd.h>

#include <CLI/CLI.hpp>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/input_lines.h"
#include "cli/model_options.h"
#include "cli/option_checks.h"
#include "engine/log/process.h"
#include "inference/generator.h"

namespace expctr {

namespace {

struct Options {
  ModelOptions model;
  std::string input;
  std::vector<std::string> prompts;
  bool chat = false, parse_special = false;
  std::int64_t max_new_tokens = 64, batch = 16;
  SamplingOptions sampling;
};

Tokens encode(const LanguageModel& model, const InputLine& line, const Options& options) {
  if (has_messages(line)) return model.encode_chat(messages_of(line));
  const std::string prompt = prompt_of(line);
  if (options.chat) return model.encode_chat(std::vector<ChatMessage>{{"user", prompt}});
  return model.encode_text(prompt, options.parse_special);
}

/// What the tokens add to the prompt's text; control tokens are left out.
std::string continuation(const Tokenizer& tokenizer, std::span<const std::int32_t> tokens) {
  std::string text;
  for (const std::int32_t token : tokens)
    if (!tokenizer.is_control(token)) text += tokenizer.token_bytes(token);
  return text;
}

std::vector<GenerationRequest> make_requests(const LanguageModel& model, const std::vector<InputLine>& lines, const Options& options) {
  std::vector<GenerationRequest> requests;
  const std::int64_t positions = model.decoder().config().positions;
  for (const InputLine& line : lines) {
    GenerationRequest request{encode(model, line, options), static_cast<std::uint32_t>(requests.size())};
    const auto length = static_cast<std::int64_t>(request.prompt.size());
    if (length == 0) throw InputError(line.where + ": the prompt has no tokens", "write at least one character");
    if (positions > 0 && length + options.max_new_tokens > positions)
      throw InputError(fmt::format("{}: {} tokens of prompt and {} new ones exceed the model's {} positions", line.where, length,
                                   options.max_new_tokens, positions),
                       "shorten the prompt or lower --max-new-tokens");
    requests.push_back(std::move(request));
  }
  return requests;
}

std::int64_t working_pages(const std::vector<GenerationRequest>& requests, const Options& options) {
  std::int64_t longest = 0;
  for (const GenerationRequest& request : requests) longest = std::max(longest, static_cast<std::int64_t>(request.prompt.size()));
  const std::int64_t rows = std::min<std::int64_t>(options.batch, static_cast<std::int64_t>(requests.size()));
  return (KvCache::pages_for(longest + options.max_new_tokens) + 1) * (rows + 2) + KvCache::pages_for(forward_token_budget) * 2;
}

void run(const Options& options, const GlobalOptions& global) {
  std::vector<InputLine> lines;
  for (const std::string& prompt : options.prompts) lines.push_back({{{"prompt", prompt}}, "--prompt"});
  if (lines.empty()) lines = read_input_lines(options.input);
  const LanguageModel model = load_language_model(options.model);
  const std::optional<LoraAdapter> adapter = load_adapter(options.model, model.decoder());
  const std::vector<GenerationRequest> requests = make_requests(model, lines, options);

  PrefixStore store(model.decoder(), adapter ? adapter->config().first_layer : 0, 0, working_pages(requests, options));
  GenerationOptions generation;
  generation.max_new_tokens = options.max_new_tokens;
  generation.sampling = options.sampling;
  generation.seed = global.seed.value_or(0);
  generation.stop_tokens = model.end_tokens();
  generation.batch = options.batch;
  generation.remember_prompts = false;

  const Tokenizer& tokenizer = model.tokenizer();
  const bool stream = !global.json && requests.size() == 1 && ::isatty(STDOUT_FILENO) != 0;
  std::function<void(std::size_t, std::int32_t)> on_token;
  if (stream) {
    on_token = [&](std::size_t, std::int32_t token) {
      if (tokenizer.is_control(token)) return;
      print_text(tokenizer.token_bytes(token));
      std::fflush(stdout);
    };
  }
  GenerationStatistics statistics;
  const std::vector<Generation> results = generate(store, adapter ? &*adapter : nullptr, requests, generation, &statistics, on_token);
  if (stream) print_text("\n");
  for (std::size_t i = 0; i < results.size(); ++i) {
    const Generation& result = results[i];
    const std::string text = continuation(tokenizer, result.tokens);
    if (global.json) {
      print_json_line({{"index", i},
                       {"prompt_tokens", requests[i].prompt.size()},
                       {"tokens", result.tokens},
                       {"logprobs", result.log_probabilities},
                       {"text", text},
                       {"finish", result.ended ? "eos" : "length"}});
    } else if (!stream) {
      print_text(text + "\n");
    }
  }
  if (global.json) {
    print_json_line({{"summary",
                      {{"prompt_tokens", statistics.prompt_tokens},
                       {"new_tokens", statistics.new_tokens},
                       {"prefill_seconds", statistics.prefill_seconds},
                       {"decode_seconds", statistics.decode_seconds},
                       {"peak_bytes", peak_memory_bytes()}}}});
  }
}

}  // namespace

Command generate_command() {
  auto options = std::make_shared<Options>();
  const auto setup = [options](CLI::App& app) {
    add_model_options(app, options->model, true);
    CLI::Option* prompt =
        app.add_option("--prompt", options->prompts, "a prompt; may be repeated")->allow_extra_args(false)->type_name("TEXT");
    app.add_option("--input", options->input, R"(JSON lines {"prompt"}, {"text"} or {"messages":[{"role","content"}]} (default: stdin))")
        ->type_name("FILE")
        ->excludes(prompt);
    app.add_flag("--chat", options->chat, "prompts are messages of a user: the model's chat template is put around them");
    app.add_flag("--parse-special", options->parse_special, "text that spells a control token becomes that token (not with --chat)");
    app.add_option("--max-new-tokens", options->max_new_tokens, "most tokens of an answer")
        ->check(whole_number(1, 1u << 20))
        ->type_name("N")
        ->capture_default_str();
    app.add_option("--temperature", options->sampling.temperature, "divides the logits; 0: always the likeliest token (greedy)")
        ->check(number(0, 100))
        ->type_name("T")
        ->capture_default_str();
    app.add_option("--top-k", options->sampling.top_k, "only the K likeliest tokens; 0: off")
        ->check(whole_number(0, 1u << 30))
        ->type_name("K")
        ->capture_default_str();
    app.add_option("--top-p", options->sampling.top_p, "only the likeliest tokens that together reach P; 1: off")
        ->check(number(1e-9, 1))
        ->type_name("P")
        ->capture_default_str();
    app.add_option("--min-p", options->sampling.min_p, "only tokens with at least P times the largest probability; 0: off")
        ->check(number(0, 1))
        ->type_name("P")
        ->capture_default_str();
    app.add_option("--batch", options->batch, "prompts at a time; changes no token")
        ->check(whole_number(1, 4096))
        ->type_name("B")
        ->capture_default_str();
    app.footer(
        "Draws from the model's own distribution (temperature 1) unless told otherwise; the same --seed (default 0) gives the same text.\n"
        "The logprobs of --json are those of softmax(logits / temperature) before top-k, top-p and min-p.");
  };
  return {"generate", "text from a language model", setup, [options](const GlobalOptions& global) { run(*options, global); }};
}

}  // namespace expctr
