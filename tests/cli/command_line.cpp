#include "cli/command_line.h"

#include <doctest/doctest.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <new>

#include "base/error.h"
#include "cli/option_checks.h"
#include "cpu/isa.h"
#include "cpu/thread_pool.h"
#include "engine/log/logger.h"
#include "engine/log/process.h"
#include "tests/support/outcome.h"
#include "tests/support/paths.h"

using namespace expctr;
namespace fs = std::filesystem;

namespace {

/// A job that prints its options as one line.
void print_options(const RunOptions& options) {
  std::printf("job=%s config=%s out=%s resume=%s device=%s threads=%d seed=%s json=%d quiet=%d", options.job.c_str(),
              options.config ? options.config->c_str() : "-", options.out.c_str(), options.resume.c_str(), options.device.c_str(),
              options.threads, options.seed ? std::to_string(*options.seed).c_str() : "-", options.json, options.quiet);
  for (const std::string& assignment : options.overrides) std::printf(" [%s]", assignment.c_str());
  std::printf("\n");
}

std::vector<Job> sample_jobs() {
  return {
      {"sft", "a job", print_options},
      {"stage1", "another", print_options},
      {"stage2", "another", print_options, "other"},
      {"explain", "reasons", print_options},
      {"evaluate", "metrics", print_options},
      {"memory", "", [](const RunOptions&) { throw std::bad_alloc(); }},
      {"fault", "", [](const RunOptions&) { throw std::runtime_error("odd"); }},
      {"input", "", [](const RunOptions&) { throw InputError("x.inter, line 1: no column", "name it"); }},
      {"resources", "", [](const RunOptions&) { throw ResourceError("does not fit", "use batch 4"); }},
      {"failure", "", [](const RunOptions&) { throw Error("it failed"); }},
      {"interrupt", "",
       [](const RunOptions&) {
         ::raise(SIGINT);
         if (interrupt_requested()) throw InterruptedError("a checkpoint was written", "go on with the same command");
       }},
      {"chatty", "", [](const RunOptions&) { log_info("told"), log_warning("warned"); }},
  };
}

Outcome run(const std::vector<std::string>& words) {
  const TemporaryFolder folder;
  return in_child(folder.path(), [&] { return run_command_line(words, all_commands(sample_jobs())); });
}

void check_error(const std::vector<std::string>& words, int code, const std::string& errors) {
  CAPTURE(fmt::format("{}", fmt::join(words, " ")));
  const Outcome outcome = run(words);
  CHECK(outcome.code == code);
  CHECK(outcome.errors == errors);
  CHECK(outcome.output == "");
}

}  // namespace

TEST_CASE("run hands the options to the job") {
  CHECK(run({"run", "sft"}).output == "job=sft config=- out=runs/quickstart resume=auto device= threads=0 seed=- json=0 quiet=0\n");
  CHECK(run({"run", "stage2"}).output == "job=stage2 config=- out=runs/other resume=auto device= threads=0 seed=- json=0 quiet=0\n");
  CHECK(run({"run", "sft", "--config", "configs/a/tiny.yaml", "--set", "a.b=1", "--set", "k=[1, 2]", "--set=t=last 4"}).output ==
        "job=sft config=configs/a/tiny.yaml out=runs/tiny resume=auto device= threads=0 seed=- json=0 quiet=0 [a.b=1] [k=[1, 2]] [t=last "
        "4]\n");
  const char* full = "job=sft config=- out=o resume=never device=cpu threads=3 seed=18446744073709551615 json=1 quiet=1\n";
  CHECK(run({"run", "sft", "--out", "o", "--resume", "never", "--device", "cpu", "--threads", "3", "--seed", "18446744073709551615",
             "--json", "--quiet"})
            .output == full);
  CHECK(run({"--threads", "3", "--seed=18446744073709551615", "--json", "--quiet", "run", "--out", "o", "--resume", "never", "--device",
             "cpu", "sft"})
            .output == full);
  // A job may bear the name of a command.
  CHECK(run({"run", "evaluate"}).output.starts_with("job=evaluate config=- out=runs/quickstart"));
}

TEST_CASE("explain and evaluate start the jobs of their names on a finished run") {
  const TemporaryFolder folder;
  fs::create_directories(folder / "r");
  std::ofstream(folder / "r" / "config.yaml") << "seed: 1\n";
  const auto run_here = [&](const std::vector<std::string>& words) {
    return in_child(folder.path(), [&] { return run_command_line(words, all_commands(sample_jobs())); });
  };
  CHECK(run_here({"explain", "--run", "r", "--user", "196", "--item", "it's: 242", "--set", "x=1"}).output ==
        "job=explain config=r/config.yaml out=r resume=auto device= threads=0 seed=- json=0 quiet=0 [x=1] [explain.user=\"196\"] "
        "[explain.item=\"it's: 242\"]\n");
  CHECK(run_here({"evaluate", "--run", "r", "--json"}).output ==
        "job=evaluate config=r/config.yaml out=r resume=auto device= threads=0 seed=- json=1 quiet=0\n");
  const Outcome missing = run_here({"evaluate", "--run", "."});
  CHECK(missing.code == 2);
  CHECK(missing.errors.starts_with("error: --run .: no run stands there (no config.yaml)\nHINT: "));
  CHECK(run_here({"explain", "--run", "none", "--user", "1", "--item", "2"}).code == 2);
}

TEST_CASE("unknown words name the nearest known one") {
  check_error({"rnu", "sft"}, 2, "error: unknown command 'rnu'\nHINT: did you mean 'run'?\n");
  check_error({"zzzzzz"}, 2, "error: unknown command 'zzzzzz'\nHINT: known: run, explain, evaluate, generate, score, tokenize, embed, data, inspect, bench, doctor\n");
  check_error({"run", "stgae1"}, 2,
              "error: unknown job 'stgae1'\nHINT: did you mean 'stage1'? jobs: sft, stage1, stage2, explain, evaluate, memory, fault, "
              "input, resources, "
              "failure, interrupt, chatty\n");
  check_error({"run", "sft", "--confg", "x"}, 2, "error: unknown option '--confg'\nHINT: did you mean '--config'?\n");
  check_error({"run", "sft", "--sede=3"}, 2, "error: unknown option '--sede'\nHINT: did you mean '--seed'?\n");
  check_error({"explain", "--rnu", "x", "--user", "1"}, 2, "error: unknown option '--rnu'\nHINT: did you mean '--run'?\n");
  check_error({"run", "sft", "--wholly-unknown"}, 2, "error: unknown option '--wholly-unknown'\nHINT: see expctr_engine run --help\n");
  check_error({"run", "sft", "stage1"}, 2, "error: run: unexpected argument 'stage1'\nHINT: see expctr_engine run --help\n");
}

TEST_CASE("wrong usage is exit code 2") {
  check_error({}, 2, "error: no command is given\nHINT: see expctr_engine --help\n");
  check_error({"explain", "--user", "1", "--item", "2"}, 2, "error: --run is required\nHINT: see expctr_engine explain --help\n");
  check_error({"run", "sft", "--threads", "0"}, 2,
              "error: --threads: '0' is not a whole number from 1 to 1024\nHINT: see expctr_engine run --help\n");
  for (const char* seed : {"-1", "x", "1.5", "18446744073709551616", ""}) {
    const Outcome outcome = run({"run", "sft", "--seed", seed});
    CHECK(outcome.code == 2);
    CHECK(outcome.errors.starts_with("error: --seed: "));
  }
  CHECK(run({"run", "sft", "--threads"}).code == 2);
  CHECK(run({"run", "sft", "--set"}).code == 2);
  CHECK(run({"run"}).errors.starts_with("error: run: no job is named\nHINT: jobs: sft, stage1"));
  check_error({"run", "sft", "--device", "tpu"}, 2, "error: --device tpu: no such device\nHINT: write cpu, cuda or cuda:N\n");
  CHECK(run({"run", "sft", "--device", "cuda:"}).code == 2);
  CHECK(run({"run", "sft", "--device", "cuda:x"}).code == 2);
  CHECK(run({"run", "sft", "--isa", "sse"}).code == 2);
}

TEST_CASE("each kind of failure has its exit code and one message") {
  check_error({"run", "memory"}, 4, "error: out of memory\nHINT: use a smaller batch or model, or a machine with more memory\n");
  check_error({"run", "resources"}, 4, "error: does not fit\nHINT: use batch 4\n");
  check_error({"run", "input"}, 3, "error: x.inter, line 1: no column\nHINT: name it\n");
  check_error({"run", "failure"}, 1, "error: it failed\n");
  check_error({"run", "interrupt"}, 130, "interrupted: a checkpoint was written\nHINT: go on with the same command\n");
  const Outcome fault = run({"run", "fault"});
  CHECK(fault.code == 1);
  CHECK(fault.errors.starts_with("error: odd\nHINT: "));
}

TEST_CASE("--quiet keeps warnings, and the log goes to stderr") {
  CHECK(run({"run", "chatty"}).errors == "told\nwarning: warned\n");
  CHECK(run({"run", "chatty", "--quiet"}).errors == "warning: warned\n");
  CHECK(run({"run", "chatty"}).output == "");
}

TEST_CASE("--threads and --isa reach the kernels") {
  const auto report = [](const RunOptions&) { std::printf("%d %s\n", cpu::thread_count(), cpu::isa_name(cpu::active_isa())); };
  const TemporaryFolder folder;
  const auto run_report = [&](const std::vector<std::string>& words) {
    return in_child(folder.path(), [&] { return run_command_line(words, all_commands({{"report", "", report}})); }).output;
  };
  CHECK(run_report({"run", "report", "--threads", "3", "--isa", "v3"}) == "3 v3\n");
  CHECK(run_report({"run", "report", "--threads", "1"}) == fmt::format("1 {}\n", cpu::isa_name(cpu::best_isa())));
}

TEST_CASE("help lists commands, options and jobs") {
  const Outcome general = run({"--help"});
  CHECK(general.code == 0);
  for (const char* word : {"run", "explain", "evaluate", "--json", "--threads", "--isa", "--seed", "--quiet", "--version"}) {
    CHECK(general.output.find(word) != std::string::npos);
  }
  const Outcome command = run({"run", "--help"});
  CHECK(command.code == 0);
  for (const char* word : {"Usage: expctr_engine run", "--config FILE", "--set KEY=VALUE", "--resume", "stage1", "--json"}) {
    CHECK(command.output.find(word) != std::string::npos);
  }
  CHECK(command.errors == "");
}

TEST_CASE("a full disk under stdout is exit code 4") {
  const TemporaryFolder folder;
  const Outcome outcome = in_child(folder.path(), [] {
    if (std::freopen("/dev/full", "w", stdout) == nullptr) return 99;
    return run_command_line({"run", "sft"}, all_commands(sample_jobs()));
  });
  CHECK(outcome.code == 4);
}

TEST_CASE("checks of option values") {
  const CLI::Validator whole = whole_number(2, 10);
  for (const char* good : {"2", "10", "007"}) CHECK(whole(std::string(good)) == "");
  for (const char* wrong : {"", "1", "11", "-3", "3x", "3.0", "0x3", " 3"}) CHECK(whole(std::string(wrong)) != "");
  const CLI::Validator range = number(0, 1);
  for (const char* good : {"0", "1", "0.5", "1e-3"}) CHECK(range(std::string(good)) == "");
  for (const char* wrong : {"", "-0.1", "1.1", "nan", "inf", "x"}) CHECK(range(std::string(wrong)) != "");
}
