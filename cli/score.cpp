// score: log-probabilities of completions, logits of answers.
#include <CLI/CLI.hpp>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/input_lines.h"
#include "cli/model_options.h"
#include "engine/autograd/tape.h"
#include "engine/ops/embedding.h"
#include "inference/prefix_store.h"

namespace expctr {

namespace {

struct Options {
  ModelOptions model;
  std::string input;
  std::vector<std::string> choices;
  bool chat = false, parse_special = false;
};

struct Row {
  Tokens tokens;           ///< prompt and completion
  std::size_t prompt = 0;  ///< tokens of the prompt
  std::vector<std::int32_t> choices;
};

/// Ids of `text` as it continues `prompt`: what encoding both together adds, or, where that would change the prompt's ids, of the text
/// alone.
Tokens continue_text(const Tokenizer& tokenizer, const Tokens& prompt, const std::string& prompt_text, const std::string& text,
                     bool parse_special) {
  const Tokens joined = tokenizer.with_ends(tokenizer.encode(prompt_text + text, parse_special));
  if (joined.size() > prompt.size() && std::equal(prompt.begin(), prompt.end(), joined.begin()))
    return Tokens(joined.begin() + std::ssize(prompt), joined.end());
  return tokenizer.encode(text, parse_special);
}

Row make_row(const LanguageModel& model, const InputLine& line, const Options& options) {
  Row row;
  std::function<Tokens(const std::string&)> next;
  if (has_messages(line) || options.chat) {
    row.tokens = model.encode_chat(has_messages(line) ? messages_of(line) : std::vector<ChatMessage>{{"user", prompt_of(line)}});
    next = [&](const std::string& text) { return model.tokenizer().encode(text, options.parse_special); };
  } else {
    const std::string prompt = prompt_of(line);
    row.tokens = model.encode_text(prompt, options.parse_special);
    next = [&, prompt, ids = row.tokens](const std::string& text) {
      return continue_text(model.tokenizer(), ids, prompt, text, options.parse_special);
    };
  }
  row.prompt = row.tokens.size();
  if (row.prompt == 0) throw InputError(line.where + ": the prompt has no tokens", "write at least one character");
  for (const std::string& choice : options.choices) {
    const Tokens ids = next(choice);
    if (ids.size() != 1)
      throw UsageError(fmt::format("{}: '{}' behind this prompt is {} tokens", line.where, choice, ids.size()),
                       "give choices that are one token each");
    row.choices.push_back(ids[0]);
  }
  if (options.choices.empty() || line.object.contains("completion")) {
    const Tokens completion = next(text_of(line, "completion"));
    row.tokens.insert(row.tokens.end(), completion.begin(), completion.end());
  }
  const std::int64_t positions = model.decoder().config().positions;
  if (positions > 0 && static_cast<std::int64_t>(row.tokens.size()) > positions)
    throw InputError(fmt::format("{}: {} tokens exceed the model's {} positions", line.where, row.tokens.size(), positions),
                     "shorten the prompt");
  return row;
}

struct Scores {
  std::vector<float> log_probabilities, choice_logits;
};

/// One pass over some rows. The last token of a row is predicted and predicts nothing, unless choices stand behind it.
std::vector<Scores> score_rows(const Decoder& decoder, const AdapterPlan& plan, std::span<const Row> rows) {
  const Device device = decoder.device();
  std::vector<std::int32_t> ids, answer_at, places, targets;
  std::vector<std::int64_t> lengths;
  for (const Row& row : rows) {
    const auto begin = static_cast<std::int32_t>(ids.size());
    const std::size_t length = std::max(row.prompt, row.tokens.size() - 1);
    ids.insert(ids.end(), row.tokens.begin(), row.tokens.begin() + static_cast<std::ptrdiff_t>(length));
    lengths.push_back(static_cast<std::int64_t>(length));
    answer_at.push_back(begin + static_cast<std::int32_t>(row.prompt) - 1);
    for (std::size_t t = row.prompt; t < row.tokens.size(); ++t) {
      places.push_back(begin + static_cast<std::int32_t>(t) - 1);
      targets.push_back(row.tokens[t]);
    }
  }
  const auto tokens = static_cast<std::int64_t>(ids.size());
  const Tensor hidden =
      decoder.blocks(0, decoder.config().layers, decoder.embed(Tensor::of(ids, {tokens}, device)), whole_sequences(lengths, device), plan);
  std::vector<float> log_probabilities;
  if (!places.empty()) {
    const auto n = static_cast<std::int64_t>(places.size());
    const Tensor states = decoder.normalise(gather(hidden, Tensor::of(places, {n}, device)));
    log_probabilities = decoder.score(states, Tensor::of(targets, {n}, device)).log_probability.to_vector<float>();
  }
  std::vector<Scores> result(rows.size());
  std::size_t at = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const std::size_t count = rows[i].tokens.size() - rows[i].prompt;
    result[i].log_probabilities.assign(log_probabilities.begin() + static_cast<std::ptrdiff_t>(at),
                                       log_probabilities.begin() + static_cast<std::ptrdiff_t>(at + count));
    at += count;
    if (rows[i].choices.empty()) continue;
    const Tensor state = decoder.normalise(gather(hidden, Tensor::of(std::vector<std::int32_t>{answer_at[i]}, {1}, device)));
    result[i].choice_logits = decoder.head_rows(rows[i].choices)(state).to_vector<float>();
  }
  return result;
}

void print_scores(std::size_t index, const Row& row, const Scores& scores, const Options& options, bool json) {
  const Tokens completion(row.tokens.begin() + static_cast<std::ptrdiff_t>(row.prompt), row.tokens.end());
  nlohmann::json choices = nlohmann::json::object();
  for (std::size_t c = 0; c < scores.choice_logits.size(); ++c) choices[options.choices[c]] = scores.choice_logits[c];
  if (json) {
    nlohmann::json object = {{"index", index}, {"tokens", completion}, {"logprobs", scores.log_probabilities}};
    if (!choices.empty()) object["choices"] = choices;
    print_json_line(object);
    return;
  }
  std::string text;
  if (!completion.empty()) {
    const double sum = std::accumulate(scores.log_probabilities.begin(), scores.log_probabilities.end(), 0.0);
    text = fmt::format("{} tokens  log-probability {:.4f}  perplexity {:.3f}", completion.size(), sum,
                       std::exp(-sum / static_cast<double>(completion.size())));
  }
  for (std::size_t c = 0; c < scores.choice_logits.size(); ++c)
    text += fmt::format("{}{} {:.4f}", text.empty() ? "" : "  ", options.choices[c], scores.choice_logits[c]);
  print_text(text + "\n");
}

void run(const Options& options, const GlobalOptions& global) {
  const std::vector<InputLine> lines = read_input_lines(options.input);
  const LanguageModel model = load_language_model(options.model);
  const std::optional<LoraAdapter> adapter = load_adapter(options.model, model.decoder());
  std::vector<Row> rows;
  for (const InputLine& line : lines) rows.push_back(make_row(model, line, options));

  const NoGradient no_gradient;
  const AdapterPlan plan(adapter ? &*adapter : nullptr);
  for (std::size_t first = 0; first < rows.size();) {
    std::size_t end = first;
    std::int64_t tokens = 0;
    while (end < rows.size() && (end == first || tokens + static_cast<std::int64_t>(rows[end].tokens.size()) <= forward_token_budget))
      tokens += static_cast<std::int64_t>(rows[end++].tokens.size());
    const std::vector<Scores> scores = score_rows(model.decoder(), plan, std::span(rows).subspan(first, end - first));
    for (std::size_t i = first; i < end; ++i) print_scores(i, rows[i], scores[i - first], options, global.json);
    first = end;
  }
}

}  // namespace

Command score_command() {
  auto options = std::make_shared<Options>();
  const auto setup = [options](CLI::App& app) {
    add_model_options(app, options->model, true);
    app.add_option("--input", options->input, R"(JSON lines {"prompt" or "messages", "completion"} (default: stdin))")->type_name("FILE");
    app.add_option("--choices", options->choices,
                   "answers of one token each, e.g. Yes,No: their logits behind the prompt; a completion may be missing then")
        ->delimiter(',')
        ->allow_extra_args(false)
        ->type_name("A,B,...");
    app.add_flag("--chat", options->chat, "prompts are messages of a user: the model's chat template is put around them");
    app.add_flag("--parse-special", options->parse_special, "text that spells a control token becomes that token");
  };
  return {"score", "log-probabilities of completions", setup, [options](const GlobalOptions& global) { run(*options, global); }};
}

}  // namespace expctr
