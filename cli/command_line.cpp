#include "cli/command_line.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <new>

#include "base/error.h"
#include "cli/option_checks.h"
#include "cpu/isa.h"
#include "cpu/thread_pool.h"
#include "engine/config/nearest.h"
#include "engine/log/logger.h"

namespace expctr {

namespace {

constexpr const char* program = "expctr_engine";

struct Parsed {
  GlobalOptions global;
  std::uint64_t seed = 0;
  bool version = false;
};

void add_global_options(CLI::App& app, Parsed& parsed) {
  app.add_flag("--json", parsed.global.json, "results as JSON lines on stdout");
  app.add_option("--threads", parsed.global.threads, "threads to use (default: all)")->check(whole_number(1, 1024))->type_name("N");
  app.add_option("--isa", parsed.global.isa, "instruction set of the CPU kernels (default: the best this processor has)")
      ->type_name("NAME");
  app.add_option("--seed", parsed.seed, "seed of all random numbers")->check(whole_number(0, ~std::uint64_t{0}))->type_name("S");
  app.add_flag("--quiet", parsed.global.quiet, "no progress, warnings and errors only");
  app.add_flag("--version", parsed.version, "version, compiler, backends, instruction sets and libraries");
}

std::string help_hint(const CLI::App& deepest) {
  return deepest.get_parent() == nullptr ? fmt::format("see {} --help", program)
                                         : fmt::format("see {} {} --help", program, deepest.get_name());
}

const CLI::App& deepest_subcommand(const CLI::App& app) {
  const CLI::App* deepest = &app;
  while (!deepest->get_subcommands().empty()) deepest = deepest->get_subcommands().front();
  return *deepest;
}

/// Throws for the words that no command and no option took.
void refuse_unknown_words(const CLI::App& app, const std::vector<Command>& commands) {
  const std::vector<std::string> unknown = app.remaining(true);
  if (unknown.empty()) return;
  const CLI::App& deepest = deepest_subcommand(app);
  const std::string& word = unknown.front();
  if (word.starts_with('-')) {
    std::vector<std::string> known;
    for (const CLI::App* level = &deepest; level != nullptr; level = level->get_parent()) {
      for (const CLI::Option* option : level->get_options()) {
        for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
      }
    }
    const std::string name = word.substr(0, word.find('='));
    const auto nearest = nearest_name(name, known);
    throw UsageError(fmt::format("unknown option '{}'", name), nearest ? fmt::format("did you mean '{}'?", *nearest) : help_hint(deepest));
  }
  std::vector<std::string> names;
  if (deepest.get_parent() == nullptr) {
    for (const Command& command : commands) names.push_back(command.name);
    throw UsageError(fmt::format("unknown command '{}'", word), did_you_mean(word, names));
  }
  for (const CLI::App* child : deepest.get_subcommands([](const CLI::App*) { return true; })) names.push_back(child->get_name());
  throw UsageError(fmt::format("{}: unexpected argument '{}'", deepest.get_name(), word),
                   names.empty() ? help_hint(deepest) : did_you_mean(word, names));
}

void parse_and_run(const std::vector<std::string>& words, const std::vector<Command>& commands) {
  CLI::App app("Trains, explains and evaluates recommenders whose predictions come with reasons.", program);
  Parsed parsed;
  // Inherited by the commands: global options may follow the command, and unknown words are collected for a better message than the
  // parser's.
  app.fallthrough();
  app.allow_extras();
  app.require_subcommand(0, 1);
  add_global_options(app, parsed);
  for (const Command& command : commands) {
    CLI::App* child = app.add_subcommand(command.name, command.summary);
    command.setup(*child);
    child->footer(child->get_footer() + (child->get_footer().empty() ? "" : "\n") +
                  "Also: --json, --threads N, --isa NAME, --seed S, --quiet; see " + program + " --help");
  }
  try {
    app.parse(std::vector<std::string>(words.rbegin(), words.rend()));
  } catch (const CLI::CallForHelp&) {
    std::fputs(app.help().c_str(), stdout);  // of the command that was named, if one was
    return;
  } catch (const CLI::ParseError& error) {
    refuse_unknown_words(app, commands);  // a misspelt option explains a missing one
    throw UsageError(error.what(), help_hint(deepest_subcommand(app)));
  }
  refuse_unknown_words(app, commands);
  if (parsed.version) {
    std::fputs(version_text().c_str(), stdout);
    return;
  }
  if (app.get_subcommands().empty()) throw UsageError("no command is given", help_hint(app));
  if (app.count("--seed") > 0) parsed.global.seed = parsed.seed;
  if (parsed.global.quiet) Logger::instance().set_level(LogLevel::warning);
  if (parsed.global.threads > 0) cpu::set_thread_count(parsed.global.threads);
  if (!parsed.global.isa.empty()) cpu::set_isa(cpu::parse_isa(parsed.global.isa));
  const std::string& name = app.get_subcommands().front()->get_name();
  for (const Command& command : commands) {
    if (command.name == name) command.run(parsed.global);
  }
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0)
    throw ResourceError("cannot write to stdout", "the disk is full or the reader went away");
}

int report(const std::string& message, ExitCode code) {
  Logger::instance().live("");
  const char* kind = code == ExitCode::interrupted ? "interrupted" : "error";
  std::fprintf(stderr, "%s: %s\n", kind, message.c_str());
  return static_cast<int>(code);
}

}  // namespace

int run_command_line(const std::vector<std::string>& words, const std::vector<Command>& commands) {
  try {
    parse_and_run(words, commands);
    return static_cast<int>(ExitCode::done);
  } catch (const Error& error) {
    return report(error.what(), error.code());
  } catch (const std::bad_alloc&) {
    return report("out of memory\nHINT: use a smaller batch or model, or a machine with more memory", ExitCode::no_resources);
  } catch (const std::exception& error) {
    return report(fmt::format("{}\nHINT: this is a fault of the program; please report it with the command line", error.what()),
                  ExitCode::failed);
  }
}

}  // namespace expctr
