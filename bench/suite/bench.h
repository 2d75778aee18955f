// Benchmarks by name: what `expctr_engine bench` measures. Settings: those under which the published figures of other programs were taken.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/kernels/linear.h"
#include "engine/core/device.h"

namespace expctr {

struct BenchOptions {
  Device device;
  ComputeMode mode = ComputeMode::f32;
  int repeats = 5;  ///< timed ones; one more comes before and is not counted
  std::string language_model = "smollm2", text_encoder = "minilm", data = "ml-100k";  ///< paths or assets
};

/// Seconds of one repeat: by the clock, and of all threads of the process together.
struct Elapsed {
  double wall = 0, cpu = 0;
};

/// What a repeat does: enough to make rates of its seconds.
struct Work {
  std::string shape, mode = "f32", dtype = "f32";
  double amount = 0;  ///< tokens, samples, ...; 0: the rate is not shown
  std::string unit;   ///< "tokens/s"
  double flops = 0;   ///< that the result needs, not those that were spent; 0: not counted
  double bytes = 0;   ///< that must come from or go to memory; 0: not counted
};

/// A benchmark that is set up and checked: `once` runs one repeat.
struct ReadyBench {
  Work work;
  std::function<Elapsed()> once;
};

struct Bench {
  std::string name, family;
  /// Loads, allocates, and compares a result with a second way to compute it. Throws Error when they differ, InputError when a model is
  /// missing.
  std::function<ReadyBench(const BenchOptions&)> prepare;
};

/// All benchmarks, in the order in which they run.
std::vector<Bench> all_benches();
/// The benches of a family, or of all ("all"); or those of exactly this name, where "matmul/<M>x<N>x<K>/<mode>" takes any extents.
/// Throws UsageError naming the nearest.
std::vector<Bench> benches_of_family(std::string_view family);
Bench bench_named(std::string_view name);

/// What the machine can do, measured here and now with the threads in use.
struct Ceilings {
  double gflops = 0;       ///< fused multiply-adds on registers in float32
  double bf16_gflops = 0;  ///< products of bf16 pairs by AVX512_BF16; as gflops where the instruction set in use has none
  double int8_gflops = 0;  ///< products of bytes by AVX512_VNNI, else by three instructions; two operations a product
  double gbps = 0;         ///< triad a = b + s c over arrays beyond the last-level cache, three times 4 bytes an element

  double of_mode(std::string_view mode) const { return mode == "bf16" ? bf16_gflops : mode == "int8" ? int8_gflops : gflops; }
};
Ceilings measure_ceilings();

/// Runs a benchmark; the fields of `bench --json` (docs/cli.md) plus cpu_seconds_min. ceiling_gflops (of the mode) and ceiling_gbps are the
/// machine's, of_ceiling is the larger of gflops and gbps as shares of them (null on CUDA, whose ceilings are not measured); peak_bytes is
/// the process's largest resident set since the benchmark began.
nlohmann::json run_bench(const Bench& bench, const BenchOptions& options, const Ceilings& ceilings);

// By file.
std::vector<Bench> kernel_benches();
std::vector<Bench> product_benches();
Bench matmul_bench(std::int64_t m, std::int64_t n, std::int64_t k, ComputeMode mode);
std::vector<Bench> language_model_benches();
std::vector<Bench> ppo_benches();
std::vector<Bench> ctr_benches();

}  // namespace expctr
