#include "bench/suite/bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <fstream>

#include "base/error.h"
#include "bench/suite/measure.h"
#include "cpu/thread_pool.h"
#include "engine/config/nearest.h"
#include "engine/core/allocator.h"
#include "engine/log/process.h"

namespace expctr {

namespace {

// "matmul/1024x576x64/f32" -> extents and mode.
std::optional<Bench> parse_matmul(std::string_view name) {
  constexpr std::string_view prefix = "matmul/";
  if (!name.starts_with(prefix)) return std::nullopt;
  name.remove_prefix(prefix.size());
  std::int64_t extents[3] = {};
  for (int i = 0; i < 3; ++i) {
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), extents[i]);
    if (error != std::errc() || extents[i] < 1 || extents[i] > 1 << 20) return std::nullopt;
    name.remove_prefix(static_cast<std::size_t>(end - name.data()));
    if (!name.starts_with(i < 2 ? 'x' : '/')) return std::nullopt;
    name.remove_prefix(1);
  }
  for (const ComputeMode mode : {ComputeMode::f32, ComputeMode::bf16, ComputeMode::int8})
    if (name == mode_name(mode)) return matmul_bench(extents[0], extents[1], extents[2], mode);
  return std::nullopt;
}

// Largest resident set counts from now on (Linux; elsewhere it goes on counting from the start).
void restart_peak() { std::ofstream("/proc/self/clear_refs") << "5\n"; }

nlohmann::json positive_or_null(double value) { return value > 0 ? nlohmann::json(value) : nlohmann::json(); }

}  // namespace

std::vector<Bench> all_benches() {
  std::vector<Bench> all;
  for (auto part : {product_benches(), kernel_benches(), language_model_benches(), ppo_benches(), ctr_benches()})
    for (Bench& bench : part) all.push_back(std::move(bench));
  return all;
}

std::vector<Bench> benches_of_family(std::string_view family) {
  std::vector<Bench> all = all_benches();
  if (family == "all") return all;
  std::vector<std::string> families = {"all"};
  for (const Bench& bench : all)
    if (std::find(families.begin(), families.end(), bench.family) == families.end()) families.push_back(bench.family);
  std::erase_if(all, [&](const Bench& bench) { return bench.family != family; });
  if (all.empty()) throw UsageError(fmt::format("unknown family of benchmarks '{}'", family), did_you_mean(family, families));
  return all;
}

Bench bench_named(std::string_view name) {
  std::vector<std::string> names;
  for (Bench& bench : all_benches()) {
    if (bench.name == name) return bench;
    names.push_back(bench.name);
  }
  if (auto bench = parse_matmul(name)) return *bench;
  throw UsageError(fmt::format("unknown benchmark '{}'", name), did_you_mean(name, names));
}

nlohmann::json run_bench(const Bench& bench, const BenchOptions& options, const Ceilings& ceilings) {
  restart_peak();
  if (options.device.is_cuda()) reset_peak(options.device);
  const ReadyBench ready = bench.prepare(options);
  ready.once();
  std::vector<double> wall, cpu;
  for (int repeat = 0; repeat < options.repeats; ++repeat) {
    const Elapsed elapsed = ready.once();
    wall.push_back(elapsed.wall);
    cpu.push_back(elapsed.cpu);
  }
  std::sort(wall.begin(), wall.end());
  const std::size_t middle = wall.size() / 2;
  const double median = wall.size() % 2 == 1 ? wall[middle] : 0.5 * (wall[middle - 1] + wall[middle]);
  const Work& work = ready.work;
  const double gflops = 1e-9 * work.flops / median, gbps = 1e-9 * work.bytes / median;
  const bool cpu_device = !options.device.is_cuda();
  const double arithmetic = cpu_device ? ceilings.of_mode(work.mode) : 0.0, memory = cpu_device ? ceilings.gbps : 0.0;
  const double share = cpu_device ? std::max(gflops / arithmetic, gbps / memory) : 0.0;
  nlohmann::json result = {{"name", bench.name},
                           {"mode", work.mode},
                           {"shape", work.shape},
                           {"dtype", work.dtype},
                           {"device", device_name(options.device)},
                           {"threads", cpu::thread_count()},
                           {"repeats", options.repeats},
                           {"seconds_min", wall.front()},
                           {"seconds_median", median},
                           {"seconds_max", wall.back()},
                           {"cpu_seconds_min", *std::min_element(cpu.begin(), cpu.end())},
                           {"rate", positive_or_null(work.amount / median)},
                           {"rate_unit", work.unit.empty() ? nlohmann::json() : nlohmann::json(work.unit)},
                           {"gflops", positive_or_null(gflops)},
                           {"gbps", positive_or_null(gbps)},
                           {"ceiling_gflops", positive_or_null(arithmetic)},
                           {"ceiling_gbps", positive_or_null(memory)},
                           {"of_ceiling", positive_or_null(share)},
                           {"peak_bytes", peak_memory_bytes()}};
  if (options.device.is_cuda()) result["device_peak_bytes"] = memory_statistics(options.device).peak;
  return result;
}

}  // namespace expctr
