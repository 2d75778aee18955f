// doctor: the machine, what is in the cache, and whether the program computes what it should.
#include <unistd.h>

#include <CLI/CLI.hpp>

#include "base/error.h"
#include "base/philox.h"
#include "cli/command_line.h"
#include "cli/commands.h"
#include "cli/input_lines.h"
#include "cpu/isa.h"
#include "cpu/thread_pool.h"
#include "data/fetch.h"
#include "data/tokenizer/tokenizer.h"
#include "engine/core/device.h"
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

}  // namespace

Command doctor_command() {
  auto device = std::make_shared<std::string>("cpu");
  const auto setup = [device](CLI::App& app) {
    app.add_option("--device", *device, "cpu, cuda or cuda:N: where the self-test computes")->type_name("DEVICE")->capture_default_str();
  };
  const auto run = [device](const GlobalOptions& global) {
    const std::vector<Finding> findings = examine(*device);
    const auto failed =
        std::count_if(findings.begin(), findings.end(), [](const Finding& finding) { return finding.status == Status::bad; });
    if (global.json) {
      nlohmann::json checks = nlohmann::json::array();
      for (const Finding& finding : findings)
        checks.push_back(
            {{"name", finding.name}, {"status", status_name(finding.status)}, {"detail", finding.detail}, {"hint", finding.hint}});
      print_json_line({{"version", version_text()}, {"checks", checks}, {"failed", failed}});
    } else {
      print_text(version_text());
      for (const Finding& finding : findings) {
        print_text(fmt::format("{:<7} {:<16} {}\n", status_name(finding.status), finding.name, finding.detail));
        if (!finding.hint.empty()) print_text(fmt::format("{:<24} HINT: {}\n", "", finding.hint));
      }
    }
    if (failed > 0)
      throw Error(fmt::format("doctor: {} of {} checks failed", failed, findings.size()), "do what the hints of these checks say");
  };
  return {"doctor", "the machine, the cache and a self-test, and what to do about what failed", setup, run};
}

}  // namespace expctr
