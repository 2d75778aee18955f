// bench: micro-benchmarks and end-to-end ones.
#include "bench/suite/bench.h"

#include <CLI/CLI.hpp>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/input_lines.h"
#include "cli/model_options.h"
#include "cli/option_checks.h"
#include "engine/log/logger.h"
#include "engine/log/process.h"

namespace expctr {

namespace {

struct Options {
  std::string family = "all", device = "cpu", compute = "f32";
  std::vector<std::string> only;
  bool list = false;
  BenchOptions bench;
};

void print_row(const nlohmann::json& result) {
  const auto number = [&](const char* key, const char* form) {
    return result.at(key).is_null() ? std::string("-") : fmt::format(fmt::runtime(form), result.at(key).get<double>());
  };
  const std::string rate = result.at("rate_unit").is_null() ? "-" : number("rate", "{:.1f} ") + result.at("rate_unit").get<std::string>();
  print_text(fmt::format("{:<30} {:<5} {:>12} {:>24} {:>9} {:>8} {:>6}\n", result.at("name").get<std::string>(),
                         result.at("mode").get<std::string>(), fmt::format("{:.3f} ms", 1e3 * result.at("seconds_median").get<double>()),
                         rate, number("gflops", "{:.1f}"), number("gbps", "{:.1f}"), number("of_ceiling", "{:.2f}")));
  std::fflush(stdout);
}

void run(Options options, const GlobalOptions& global) {
  std::vector<Bench> benches;
  for (const std::string& name : options.only) benches.push_back(bench_named(name));
  if (benches.empty()) benches = benches_of_family(options.family);
  if (options.list) {
    for (const Bench& bench : benches) print_text(fmt::format("{:<10} {}\n", bench.family, bench.name));
    return;
  }
  options.bench.device = parse_device(options.device);
  options.bench.mode = parse_compute_mode(options.compute);
  install_interrupt_handler();
  const Ceilings ceilings = measure_ceilings();
  log_info("ceilings measured now: {:.0f} GFLOP/s in f32, {:.0f} in bf16, {:.0f} in int8; {:.1f} GB/s", ceilings.gflops,
           ceilings.bf16_gflops, ceilings.int8_gflops, ceilings.gbps);
  if (!global.json)
    print_text(fmt::format("{:<30} {:<5} {:>12} {:>24} {:>9} {:>8} {:>6}\n", "name", "mode", "median", "rate", "GFLOP/s", "GB/s", "share"));
  std::size_t measured = 0;
  for (const Bench& bench : benches) {
    if (interrupt_requested()) throw InterruptedError(fmt::format("stopped before {}", bench.name), "bench --only NAME runs one");
    try {
      const nlohmann::json result = run_bench(bench, options.bench, ceilings);
      if (global.json)
        print_json_line(result), std::fflush(stdout);
      else
        print_row(result);
      ++measured;
    } catch (const InputError& error) {
      // Without a model the others can still be measured; alone it is the user's error.
      if (benches.size() == 1) throw;
      log_warning("{} is left out: {}", bench.name, error.what());
    }
  }
  if (measured == 0) throw InputError("nothing could be measured", "fetch what the benchmarks need: expctr_engine data fetch");
}

}  // namespace

Command bench_command() {
  auto options = std::make_shared<Options>();
  const auto setup = [options](CLI::App& app) {
    app.add_option("family", options->family, "all, matmul, norm, optim, attention, loss, llm, ppo, ctr or data")->capture_default_str();
    app.add_option("--only", options->only, "this one, by its full name; may be repeated; matmul/<M>x<N>x<K>/<mode> takes any extents")
        ->allow_extra_args(false)
        ->type_name("NAME");
    app.add_option("--repeats", options->bench.repeats, "timed repeats, after one that is not counted")
        ->check(whole_number(1, 10000))
        ->type_name("N")
        ->capture_default_str();
    app.add_flag("--list", options->list, "names only");
    app.add_option("--device", options->device, "cpu, cuda or cuda:N")->type_name("DEVICE")->capture_default_str();
    app.add_option("--compute", options->compute, "products with frozen weights in f32, bf16 or int8")
        ->type_name("MODE")
        ->capture_default_str();
    app.add_option("--model", options->bench.language_model, "language model of llm/* and ppo/*")->type_name("M")->capture_default_str();
    app.add_option("--text-encoder", options->bench.text_encoder, "encoder of llm/embed_*")->type_name("M")->capture_default_str();
    app.add_option("--data", options->bench.data, "data set of ctr/* and data/*")->type_name("DIR")->capture_default_str();
    app.footer(
        "Each benchmark checks a result before it is timed. 'share' (of_ceiling) relates its GFLOP/s to multiply-adds of its mode on "
        "registers "
        "and its GB/s to\n"
        "the triad, both measured in the same run; the larger share counts. The mode q4_1 means float32 products with weights kept in 4 "
        "bits.");
  };
  return {"bench", "micro-benchmarks and end-to-end ones", setup, [options](const GlobalOptions& global) { run(*options, global); }};
}

}  // namespace expctr
