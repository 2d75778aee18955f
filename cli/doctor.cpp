// doctor: the machine, what is in the cache, and whether the program computes what it should.
#include <unistd.h>

#include <CLI/CLI.hpp>

#include "base/error.h"
#include "base/philox.h"
#include "bench/suite/op_table.h"
#include "cli/command_line.h"
#include "cli/commands.h"
#include "cli/input_lines.h"
#include "cpu/isa.h"
#include "cpu/thread_pool.h"
#include "data/fetch.h"
#include "data/tokenizer/tokenizer.h"
#include "engine/core/device.h"
#include "engine/log/logger.h"
#include "engine/log/process.h"
#include "engine/ops/linear.h"
#include "engine/ops/matmul.h"

namespace expctr {

namespace {

namespace fs = std::filesystem;

enum class Status { good, note, bad };

struct Finding {
  std::string name;
  Status status = Status::good;
  std::string detail, hint;
};

const char* status_name(Status status) { return status == Status::good ? "ok" : status == Status::note ? "note" : "FAILED"; }

// The value behind "key :" in one of the kernel's text files.
std::string proc_value(const char* path, std::string_view key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(key)) continue;
    const std::size_t colon = line.find(':');
    const std::size_t begin = colon == std::string::npos ? std::string::npos : line.find_first_not_of(" \t", colon + 1);
    if (begin != std::string::npos) return line.substr(begin);
  }
  return "unknown";
}

double gigabytes_of_memory(std::string_view key) {
  double kilobytes = 0;
  std::istringstream(proc_value("/proc/meminfo", key)) >> kilobytes;
  return kilobytes * 1024 / 1e9;
}

Finding machine() {
  return {"processor", Status::good, fmt::format("{}, {} threads in use", proc_value("/proc/cpuinfo", "model name"), cpu::thread_count()),
          ""};
}

Finding instruction_set() {
  return {"instruction set", Status::good,
          fmt::format("{} in use, {} is the best here", cpu::isa_name(cpu::active_isa()), cpu::isa_name(cpu::best_isa())),
          ""};
}

Finding memory() {
  const double available = gigabytes_of_memory("MemAvailable"), total = gigabytes_of_memory("MemTotal");
  Finding finding{"memory", Status::good, fmt::format("{:.1f} of {:.1f} GB available", available, total), ""};
  if (available < 2.0) {
    finding.status = Status::note;
    finding.hint = "the quickstart needs about 2 GB: close other programs, or lower ppo.batch and ppo.micro_batch_tokens";
  }
  return finding;
}

fs::path nearest_existing(fs::path path) {
  std::error_code error;
  while (!path.empty() && !fs::exists(path, error) && path != path.root_path()) path = path.parent_path();
  return path.empty() ? fs::path(".") : path;
}

Finding disk(const std::string& name, const fs::path& place) {
  std::error_code error;
  const fs::space_info space = fs::space(nearest_existing(place), error);
  if (error) return {name, Status::note, fmt::format("{}: {}", place.string(), error.message()), "choose a folder that can be read"};
  Finding finding{name, Status::good, fmt::format("{:.1f} GB free at {}", static_cast<double>(space.available) / 1e9, place.string()), ""};
  if (space.available < 1000000000) {
    finding.status = Status::note;
    finding.hint = "models and checkpoints need about 1 GB: make room, or name another folder (EXPCTR_MODELS, --out)";
  }
  if (::access(nearest_existing(place).c_str(), W_OK) != 0) {
    finding.status = Status::note;
    finding.hint = "nothing can be written there: change its permissions, or name another folder (EXPCTR_MODELS, --out)";
  }
  return finding;
}

Finding asset(const Package& package) {
  if (const auto found = find_asset(package.asset)) return {"asset " + package.asset, Status::good, found->string(), ""};
  return {"asset " + package.asset, Status::note, "not there", "expctr_engine data fetch " + package.asset};
}

Finding random_numbers() {
  // Known answer of Philox4x32-10 for key and counter zero. Source: Random123's kat_vectors.
  const RandomBits bits = philox({0, 0}, {0, 0, 0, 0});
  const std::uint32_t known[] = {0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u};
  if (std::equal(known, known + 4, bits.word)) return {"random numbers", Status::good, "Philox4x32-10 gives its published values", ""};
  return {"random numbers", Status::bad, "Philox4x32-10 does not give its published values",
          "the program was miscompiled: build it again with another compiler"};
}

Finding products(Device device) {
  constexpr std::int64_t m = 33, n = 70, k = 129;
  const auto draw = [](std::uint32_t matrix, std::int64_t count) {
    std::vector<float> values;
    for (std::int64_t i = 0; i < count; ++i)
      values.push_back(uniform_float(philox({1, matrix}, {static_cast<std::uint32_t>(i), 0, 0, 0}).word[0]) - 0.5f);
    return values;
  };
  const std::vector<float> a = draw(1, m * k), b = draw(2, n * k);
  const Tensor x = Tensor::of(a, {m, k}, device), w = Tensor::of(b, {n, k}, device);
  double worst = 0;
  for (const Tensor& y : {matmul(x, w, false, true), linear_frozen(x, FrozenWeight(w))}) {
    const std::vector<float> values = y.to(cpu_device).to_vector<float>();
    for (std::int64_t i = 0; i < m; ++i)
      for (std::int64_t j = 0; j < n; ++j) {
        double exact = 0;
        for (std::int64_t t = 0; t < k; ++t)
          exact +=
              static_cast<double>(a[static_cast<std::size_t>(i * k + t)]) * static_cast<double>(b[static_cast<std::size_t>(j * k + t)]);
        const double error = std::abs(exact - static_cast<double>(values[static_cast<std::size_t>(i * n + j)]));
        worst = std::isfinite(error) ? std::max(worst, error) : std::numeric_limits<double>::infinity();
      }
  }
  const std::string detail =
      fmt::format("{} x {} x {} on {}: largest difference from float64 is {:.1e}", m, n, k, device_name(device), worst);
  // |x w| adds 129 products below 1/4: float32 rounding stays far below 1e-4 (TF32's would not: it is no float32).
  if (worst < 1e-4) return {"matrix products", Status::good, detail, ""};
  return {"matrix products", Status::bad, detail,
          "try another instruction set with --isa v3; if that helps, please report the processor's name"};
}

Finding round_trip() {
  const auto model = find_asset("smollm2");
  if (!model) return {"tokeniser", Status::note, "not checked: smollm2 is not there", "expctr_engine data fetch smollm2"};
  const std::shared_ptr<const Tokenizer> tokenizer = load_tokenizer(*model);
  const std::string text = "Naïve café, 東京 123\n\t\"It's 5 o'clock\" 🎬";
  const auto ids = tokenizer->encode(text, false);
  if (tokenizer->decode(ids) == text) return {"tokeniser", Status::good, fmt::format("{} tokens and back: the same text", ids.size()), ""};
  return {"tokeniser", Status::bad, "decoding the ids of a text does not give the text",
          "fetch the model again: expctr_engine data fetch smollm2"};
}

// A check that throws has failed, and its error says why.
Finding guarded(const std::string& name, const std::function<Finding()>& check) {
  try {
    return check();
  } catch (const std::exception& error) {
    const std::string text = error.what();
    const std::size_t hint = text.find("\nHINT: ");
    return {name, Status::bad, text.substr(0, hint), hint == std::string::npos ? "please report this" : text.substr(hint + 7)};
  }
}

std::vector<Finding> examine(const std::string& device_text) {
  std::vector<Finding> findings = {machine(), instruction_set(), memory(), disk("disk, here", fs::current_path())};
  findings.push_back(guarded("disk, cache", [] { return disk("disk, cache", cache_root()); }));
  for (const Package& package : packages()) findings.push_back(guarded("asset " + package.asset, [&] { return asset(package); }));
  findings.push_back(random_numbers());
  std::optional<Device> device;
  findings.push_back(guarded("device", [&]() -> Finding {
    device = parse_device(device_text);
    return {"device", Status::good, device_name(*device), ""};
  }));
  if (device) findings.push_back(guarded("matrix products", [&] { return products(*device); }));
  findings.push_back(guarded("tokeniser", round_trip));
  return findings;
}

std::string milliseconds(double seconds) { return seconds > 0 ? fmt::format("{:.3f}", 1e3 * seconds) : "-"; }

// Measured time over the least that the device allows; a time below a microsecond's clock is not judged.
std::string times_bound(double seconds, double bound) { return seconds > 0 && bound > 0 ? fmt::format("{:.1f}", seconds / bound) : "-"; }

void print_verdict(const OpVerdict& verdict) {
  if (!verdict.problem.empty()) {
    print_text(fmt::format("{:<22} {:<5} FAILED: {}\n", verdict.op, verdict.dtype, verdict.problem));
    return;
  }
  print_text(fmt::format("{:<22} {:<5} {:<30} {:>8.1e} {:>9} {:>9} {:>6} {:>9} {:>9} {:>6}\n", verdict.op, verdict.dtype, verdict.shape,
                         verdict.error, milliseconds(verdict.seconds), milliseconds(verdict.bound),
                         times_bound(verdict.seconds, verdict.bound), milliseconds(verdict.backward_seconds),
                         milliseconds(verdict.backward_bound), times_bound(verdict.backward_seconds, verdict.backward_bound)));
  std::fflush(stdout);
}

nlohmann::json as_json(const OpVerdict& verdict) {
  const auto or_null = [&](double value) { return verdict.timed && value > 0 ? nlohmann::json(value) : nlohmann::json(); };
  return {{"op", verdict.op},
          {"dtype", verdict.dtype},
          {"shape", verdict.shape},
          {"error", verdict.error},
          {"tolerance", verdict.tolerance},
          {"seconds", or_null(verdict.seconds)},
          {"bound", or_null(verdict.bound)},
          {"backward_seconds", or_null(verdict.backward_seconds)},
          {"backward_bound", or_null(verdict.backward_bound)},
          {"problem", verdict.problem}};
}

/// The op table on one device: f32, and bf16 storage on CUDA. `report` sees each verdict as it comes.
std::vector<OpVerdict> examine_ops(Device device, bool quick, const std::function<void(const OpVerdict&)>& report) {
  const DeviceCeilings ceilings = quick ? DeviceCeilings{1, 1, 1} : measure_device_ceilings(device);
  if (!quick)
    log_info("measured here: {:.0f} GB/s, {:.1f} TFLOP/s in f32, {:.1f} TFLOP/s in bf16", 1e-9 * ceilings.bytes_per_second,
             1e-12 * ceilings.f32_flops, 1e-12 * ceilings.bf16_flops);
  std::vector<OpVerdict> verdicts;
  for (const OpEntry& entry : op_table())
    for (const DType dtype : {DType::f32, DType::bf16}) {
      if (dtype == DType::bf16 && (!device.is_cuda() || !entry.bf16)) continue;
      if (interrupt_requested()) throw InterruptedError(fmt::format("stopped before {}", entry.op), "doctor --quick takes seconds");
      verdicts.push_back(examine_op(entry, {device, dtype, quick ? 1.0 / 64 : 1.0}, ceilings, !quick));
      report(verdicts.back());
    }
  return verdicts;
}

struct Options {
  std::string device = "cpu";
  bool quick = false;
};

void diagnose(const Options& options, const GlobalOptions& global) {
  install_interrupt_handler();
  const std::vector<Finding> findings = examine(options.device);
  auto failed = std::count_if(findings.begin(), findings.end(), [](const Finding& finding) { return finding.status == Status::bad; });
  std::optional<Device> device;
  for (const Finding& finding : findings)
    if (finding.name == "device" && finding.status == Status::good) device = parse_device(options.device);
  std::size_t count = findings.size();
  const auto count_ops = [&](const std::vector<OpVerdict>& verdicts) {
    count += verdicts.size();
    failed += std::count_if(verdicts.begin(), verdicts.end(), [](const OpVerdict& verdict) { return !verdict.problem.empty(); });
  };
  if (global.json) {
    nlohmann::json checks = nlohmann::json::array(), ops = nlohmann::json::array();
    for (const Finding& finding : findings)
      checks.push_back(
          {{"name", finding.name}, {"status", status_name(finding.status)}, {"detail", finding.detail}, {"hint", finding.hint}});
    if (device) count_ops(examine_ops(*device, options.quick, [&](const OpVerdict& verdict) { ops.push_back(as_json(verdict)); }));
    print_json_line({{"version", version_text()}, {"checks", checks}, {"ops", ops}, {"failed", failed}});
  } else {
    print_text(version_text());
    for (const Finding& finding : findings) {
      print_text(fmt::format("{:<7} {:<16} {}\n", status_name(finding.status), finding.name, finding.detail));
      if (!finding.hint.empty()) print_text(fmt::format("{:<24} HINT: {}\n", "", finding.hint));
    }
    if (device) {
      print_text(fmt::format("\n{:<22} {:<5} {:<30} {:>8} {:>9} {:>9} {:>6} {:>9} {:>9} {:>6}\n", "op", "dtype", "shape", "error", "ms",
                             "least", "x", "back ms", "least", "x"));
      count_ops(examine_ops(*device, options.quick, print_verdict));
    }
  }
  if (failed > 0)
    throw Error(fmt::format("doctor: {} of {} checks failed", failed, count),
                "do what the hints of these checks say; an op that differs is a fault of the program or the device: please report it");
}

}  // namespace

Command doctor_command() {
  auto options = std::make_shared<Options>();
  const auto setup = [options](CLI::App& app) {
    app.add_option("--device", options->device, "cpu, cuda or cuda:N: where the self-test computes")
        ->type_name("DEVICE")
        ->capture_default_str();
    app.add_flag("--quick", options->quick, "every op compared at small extents, nothing timed");
    app.footer(
        "Each op is compared with a second way to compute it (float64 where there is one, else the CPU) and timed. 'least' is the larger "
        "of its "
        "bytes\nover the device's copy bandwidth and its FLOPs over the device's matrix peak, both measured in the same run; 'x' is how "
        "far the "
        "op is from it.");
  };
  return {"doctor", "the machine, the cache and every op on the device, and what to do about what failed", setup,
          [options](const GlobalOptions& global) { diagnose(*options, global); }};
}

}  // namespace expctr
