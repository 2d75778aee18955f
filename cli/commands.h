// The commands of the program.
//
// To add one: write cli/<command>.cpp with a function `Command <command>_command()`, declare it here, and give it a line in all_commands()
// (commands.cpp). The function makes a Command whose two members share the command's own options:
//
//   Command tokenize_command() {
//     struct Options { std::string model; bool decode = false; };
//     auto options = std::make_shared<Options>();
//     return {"tokenize", "ids of texts, texts of ids",
//             [options](CLI::App& app) {                                // <CLI/CLI.hpp>
//               app.add_option("--model", options->model, "a .gguf file or a Hugging Face folder")->required();
//               app.add_flag("--decode", options->decode, "texts of ids");
//             },
//             [options](const GlobalOptions& global) { ... }};          // results on stdout, as JSON lines when global.json
//   }
//
// Ranges of numbers are checked with cli/option_checks.h. Subcommands (`data fetch`) are app.add_subcommand(...) inside setup. Options that
// every command has are in GlobalOptions and may stand before or after the command's name. Errors are thrown (base/error.h);
// command_line.cpp prints them and makes the exit code of them. Unknown options, missing values and --help are handled there too.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "trainers/run_options.h"

namespace CLI {
class App;
}

namespace expctr {

/// Options that every command takes.
struct GlobalOptions {
  bool json = false;                  ///< JSON lines on stdout and nothing else there
  bool quiet = false;                 ///< warnings and errors only
  int threads = 0;                    ///< 0: all that the machine has
  std::string isa;                    ///< "": the best that the machine has
  std::optional<std::uint64_t> seed;  ///< none: the command's default
};

struct Command {
  std::string name;
  std::string summary;
  std::function<void(CLI::App&)> setup;
  std::function<void(const GlobalOptions&)> run;
};

Command run_command(const std::vector<Job>& jobs);
Command explain_command(const std::vector<Job>& jobs);
Command evaluate_command(const std::vector<Job>& jobs);
Command generate_command();
Command score_command();
Command tokenize_command();
Command embed_command();
Command data_command();
Command inspect_command();
Command bench_command();
Command doctor_command();

/// All commands in the order in which --help lists them.
std::vector<Command> all_commands(const std::vector<Job>& jobs);

}  // namespace expctr
