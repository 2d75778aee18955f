// embed: sentence embeddings.
#include <CLI/CLI.hpp>
#include <chrono>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/input_lines.h"
#include "cli/model_options.h"
#include "cli/option_checks.h"
#include "data/fetch.h"
#include "engine/io/durable_file.h"
#include "engine/io/npy.h"
#include "engine/log/logger.h"
#include "engine/log/process.h"
#include "inference/embedder.h"

namespace expctr {

namespace {

struct Options {
  ModelOptions model;
  std::string input, output, pooling = "mean";
  EmbedOptions embed;
};

void run(Options options, const GlobalOptions& global) {
  options.embed.pooling = parse_pooling(options.pooling);
  if (options.output.empty() && !global.json)
    throw UsageError("nowhere to put the vectors", "give --output FILE.npy, or --json for JSON lines");
  std::vector<std::string> texts;
  for (const InputLine& line : read_input_lines(options.input))
    texts.push_back(line.object.contains("text") ? text_of(line, "text") : prompt_of(line));
  const Embedder embedder(resolve_asset(options.model.model), parse_device(options.model.device),
                          parse_compute_mode(options.model.compute));
  const auto start = std::chrono::steady_clock::now();
  const Tensor vectors = embedder(texts, options.embed);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (options.output.empty()) {
    const std::vector<float> values = vectors.to_vector<float>();
    for (std::size_t i = 0; i < texts.size(); ++i) {
      const auto* row = values.data() + static_cast<std::ptrdiff_t>(i) * embedder.width();
      print_json_line({{"index", i}, {"embedding", std::vector<float>(row, row + embedder.width())}});
    }
    return;
  }
  const std::int64_t shape[] = {static_cast<std::int64_t>(texts.size()), embedder.width()};
  write_file_atomically(options.output, serialise_npy(DType::f32, shape, vectors.data()));
  if (global.json) {
    print_json_line(
        {{"rows", shape[0]}, {"width", shape[1]}, {"output", options.output}, {"seconds", seconds}, {"peak_bytes", peak_memory_bytes()}});
  } else {
    log_info("{}: {} vectors of width {}, {:.1f} sentences/s", options.output, shape[0], shape[1],
             static_cast<double>(shape[0]) / std::max(seconds, 1e-9));
  }
}

}  // namespace

Command embed_command() {
  auto options = std::make_shared<Options>();
  const auto setup = [options](CLI::App& app) {
    add_model_options(app, options->model, false);
    app.add_option("--input", options->input, R"(JSON lines {"text"} (default: stdin))")->type_name("FILE");
    app.add_option("--output", options->output, "NumPy file [texts, width], f32")->type_name("FILE.npy");
    app.add_option("--pooling", options->pooling, "mean of all word pieces, or the first one's vector (cls)")
        ->type_name("mean|cls")
        ->capture_default_str();
    app.add_flag("--normalize", options->embed.normalise, "vectors of length 1");
    app.add_option("--max-tokens", options->embed.max_pieces, "word pieces of a text that count, [CLS] and [SEP] included")
        ->check(whole_number(2, 1u << 20))
        ->type_name("N")
        ->capture_default_str();
  };
  return {"embed", "sentence embeddings", setup, [options](const GlobalOptions& global) { run(*options, global); }};
}

}  // namespace expctr
