// Products with frozen weights against OpenBLAS, oneDNN and BLIS, at the shapes of SmolLM2-135M.
// usage: bench_matmul [--isa NAME] [--threads N] [--seconds S] [--rows M]     S: time per figure; one thread: seconds of the processor
// Below M = 64 a figure walks through copies of the weight that exceed the last-level cache, as decoding walks through the layers of a
// model. Libraries that are not installed are left out.
#include "base/kernels/matmul.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <cstdlib>
#include <ctime>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/kernels/linear.h"
#include "base/philox.h"
#include "cpu/isa.h"
#include "cpu/run.h"
#include "cpu/thread_pool.h"

using namespace expctr;

namespace {

using CblasSgemm = void (*)(int, int, int, int, int, int, float, const float*, int, const float*, int, float, float*, int);
using DnnlSgemm = int (*)(char, char, std::int64_t, std::int64_t, std::int64_t, float, const float*, std::int64_t, const float*,
                          std::int64_t, float, float*, std::int64_t);
using Call = std::function<void(int)>;  ///< one product with copy i of the weight

struct FreeDeleter {
  void operator()(void* memory) const { std::free(memory); }
};
using Memory = std::unique_ptr<void, FreeDeleter>;

Memory allocate(std::size_t bytes) { return Memory(std::aligned_alloc(64, (bytes + 63) / 64 * 64)); }

Memory random_floats(std::int64_t n) {
  Memory memory = allocate(n * sizeof(float));
  for (std::int64_t i = 0; i < n; ++i)
    static_cast<float*>(memory.get())[i] = uniform_float(philox({1, 2}, {static_cast<std::uint32_t>(i), 0, 0, 0}).word[0]) - 0.5f;
  return memory;
}

View matrix(const void* data, DType dtype, std::int64_t rows, std::int64_t width) {
  View view;
  view.data = const_cast<void*>(data);
  view.dtype = dtype;
  view.rank = 2;
  view.shape[0] = rows;
  view.shape[1] = width;
  return view;
}

/// Seconds of the process's processors; on one thread other programs hardly change them. Else by the clock.
double seconds_now(bool processor) {
  timespec time{};
  ::clock_gettime(processor ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

/// Seconds of one call: the fastest of several groups.
double time_of(double seconds, bool processor, const Call& call) {
  double best = 1e30;
  int copy = 0;
  call(copy++);
  const double start = seconds_now(false);
  for (int group = 1; seconds_now(false) - start < seconds; group = std::min(64, 2 * group)) {
    const double begin = seconds_now(processor);
    for (int i = 0; i < group; ++i) call(copy++);
    best = std::min(best, (seconds_now(processor) - begin) / group);
  }
  return best;
}

struct Problem {
  std::int64_t m, n, k;
  const float* x;
  float* y;
  int copies;
};

struct Subject {
  std::string name;
  double bytes_per_weight;
  std::function<Call(const Problem&)> prepare;
};

Subject frozen(const char* name, DType dtype, ComputeMode mode) {
  const double bytes = static_cast<double>(cpu::packed_weight_bytes(32, 256, dtype, mode)) / (32 * 256);
  return {name, bytes, [dtype, mode](const Problem& p) -> Call {
            PackedWeight weight;
            weight.outputs = p.n;
            weight.inputs = p.k;
            weight.dtype = dtype;
            weight.mode = mode;
            weight.bytes = cpu::packed_weight_bytes(p.n, p.k, dtype, mode);
            const std::shared_ptr<void> packed(allocate(weight.bytes * p.copies).release(), FreeDeleter{});
            // Any bytes are blocks; half-precision numbers near 1 keep the results finite.
            const std::size_t file_bytes = p.n * dtype_bytes(dtype, p.k);
            const Memory file = allocate(file_bytes);
            for (std::size_t i = 0; i < file_bytes / 2; ++i)
              static_cast<std::uint16_t*>(file.get())[i] = static_cast<std::uint16_t>(0x3C00 + i % 64);
            for (int i = 0; i < p.copies; ++i) {
              weight.data = static_cast<char*>(packed.get()) + i * weight.bytes;
              cpu::run(PackWeight{matrix(file.get(), dtype, p.n, p.k), weight}, Stream{});
            }
            return [=](int copy) {
              PackedWeight one = weight;
              one.data = static_cast<char*>(packed.get()) + copy % p.copies * one.bytes;
              cpu::run(LinearFrozen{one, matrix(p.x, DType::f32, p.m, p.k), View{}, matrix(p.y, DType::f32, p.m, p.n)}, Stream{});
            };
          }};
}

/// y = x w^T with a plain float weight [n, k].
Subject plain(const char* name, std::function<void(const Problem&, const float*)> multiply) {
  return {name, 4.0, [multiply](const Problem& p) -> Call {
            const std::shared_ptr<void> weights(random_floats(p.n * p.k * p.copies).release(), FreeDeleter{});
            return [=](int copy) { multiply(p, static_cast<const float*>(weights.get()) + copy % p.copies * p.n * p.k); };
          }};
}

template <class Function>
Function find_function(std::initializer_list<const char*> libraries, const char* name) {
  for (const char* library : libraries) {
    void* handle = dlopen(library, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
    if (handle)
      if (void* symbol = dlsym(handle, name)) return reinterpret_cast<Function>(symbol);
  }
  return nullptr;
}

std::vector<Subject> all_subjects() {
  std::vector<Subject> subjects{frozen("f32", DType::f32, ComputeMode::f32),         frozen("bf16", DType::f32, ComputeMode::bf16),
                                frozen("int8", DType::f32, ComputeMode::int8),       frozen("bf16/q4_1", DType::q4_1, ComputeMode::bf16),
                                frozen("int8/q4_1", DType::q4_1, ComputeMode::int8), frozen("q8_0", DType::q8_0, ComputeMode::f32),
                                frozen("q4_1", DType::q4_1, ComputeMode::f32)};
  subjects.push_back(plain("matmul", [](const Problem& p, const float* w) {
    cpu::run(MatMul{1, false, true, false, matrix(p.x, DType::f32, p.m, p.k), matrix(w, DType::f32, p.n, p.k),
                    matrix(p.y, DType::f32, p.m, p.n)},
             Stream{});
  }));
  const auto add_cblas = [&](const char* name, std::initializer_list<const char*> libraries) {
    const auto gemm = find_function<CblasSgemm>(libraries, "cblas_sgemm");
    if (!gemm) return;
    constexpr int row_major = 101, as_is = 111, transposed = 112;
    subjects.push_back(plain(name, [gemm](const Problem& p, const float* w) {
      const int in = static_cast<int>(p.k), out = static_cast<int>(p.n);
      gemm(row_major, as_is, transposed, static_cast<int>(p.m), out, in, 1.0f, p.x, in, w, in, 0.0f, p.y, out);
    }));
  };
  add_cblas("OpenBLAS", {"libopenblas.so.0", "libopenblas.so"});
  if (const auto gemm = find_function<DnnlSgemm>({"libdnnl.so.3", "libdnnl.so.2", "libdnnl.so"}, "dnnl_sgemm"))
    subjects.push_back(plain(
        "oneDNN", [gemm](const Problem& p, const float* w) { gemm('N', 'T', p.m, p.n, p.k, 1.0f, p.x, p.k, w, p.k, 0.0f, p.y, p.n); }));
  add_cblas("BLIS", {"libblis.so.4", "libblis.so"});
  return subjects;
}

int bench(int argc, char** argv) {
  double seconds = 0.1;
  std::vector<std::int64_t> row_counts{1, 4, 16, 64, 1024};
  int threads = cpu::thread_count();
  for (int i = 1; i < argc; i += 2) {
    const std::string option = argv[i];
    if (i + 1 == argc)
      throw UsageError("option " + option + " has no value", "use --isa, --threads, --seconds or --rows, each with a value");
    if (option == "--isa")
      cpu::set_isa(cpu::parse_isa(argv[i + 1]));
    else if (option == "--threads")
      threads = std::stoi(argv[i + 1]);
    else if (option == "--rows")
      row_counts = {std::stoi(argv[i + 1])};
    else if (option == "--seconds")
      seconds = std::stod(argv[i + 1]);
    else
      throw UsageError("unknown option " + option, "use --isa, --threads, --seconds or --rows");
  }
  cpu::set_thread_count(threads);
  for (const char* name : {"OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "BLIS_NUM_THREADS"}) setenv(name, std::to_string(threads).c_str(), 1);

  const std::vector<Subject> subjects = all_subjects();
  fmt::print("instruction set {}, {} threads; GFLOP/s, at M = 1 with GB/s of weight bytes\n{:>5} {:>12}", cpu::isa_name(cpu::active_isa()),
             threads, "M", "N x K");
  for (const Subject& subject : subjects) fmt::print(" {:>13}", subject.name);
  fmt::print("\n");
  const std::pair<std::int64_t, std::int64_t> shapes[] = {{576, 576}, {192, 576}, {1536, 576}, {576, 1536}, {49152, 576}};
  for (const auto& [n, k] : shapes) {
    for (const std::int64_t m : row_counts) {
      const Memory x = random_floats(m * k), y = allocate(m * n * sizeof(float));
      fmt::print("{:>5} {:>12}", m, fmt::format("{} x {}", n, k));
      for (const Subject& subject : subjects) {
        const double weight_bytes = subject.bytes_per_weight * static_cast<double>(n * k);
        const int copies = m >= 64 ? 1 : std::max(1, static_cast<int>(96e6 / weight_bytes));
        const double time = time_of(seconds, threads == 1,
                                    subject.prepare({m, n, k, static_cast<const float*>(x.get()), static_cast<float*>(y.get()), copies}));
        const std::string speed = fmt::format("{:.1f}", 2e-9 * static_cast<double>(m * n * k) / time);
        fmt::print(" {:>13}", m == 1 ? fmt::format("{} ({:.1f})", speed, 1e-9 * weight_bytes / time) : speed);
        std::fflush(stdout);
      }
      fmt::print("\n");
    }
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return bench(argc, argv);
  } catch (const Error& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return static_cast<int>(error.code());
  } catch (const std::exception& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return 1;
  }
}
