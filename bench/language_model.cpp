// Time of the kernels around the matrix products of one SmolLM2-135M layer and of its head: attention, rotary, cross-entropy, sampling.
// usage: bench_language_model [--isa v3|avx512]
#include <fmt/format.h>

#include <chrono>
#include <cstring>
#include <functional>
#include <vector>

#include "base/error.h"
#include "base/kernels/attention.h"
#include "base/kernels/linear.h"
#include "base/kernels/rotary.h"
#include "base/kernels/sampling.h"
#include "base/philox.h"
#include "cpu/isa.h"
#include "cpu/run.h"
#include "cpu/thread_pool.h"

using namespace expctr;

namespace {

template <class T>
struct Buffer {
  std::vector<T> data;
  View view;

  explicit Buffer(std::initializer_list<std::int64_t> shape) {
    view.dtype = DTypeOf<T>::value;
    for (const std::int64_t extent : shape) view.shape[view.rank++] = extent;
    data.resize(view.size());
    view.data = data.data();
  }
  Buffer& random(std::uint32_t seed) {
    for (std::size_t i = 0; i < data.size(); ++i)
      data[i] = static_cast<T>(2 * uniform_float(philox({seed, 0}, {static_cast<std::uint32_t>(i), 0, 0, 0}).word[0]) - 1);
    return *this;
  }
};

void report(const char* name, double operations, const std::function<void()>& call) {
  using Clock = std::chrono::steady_clock;
  double best = 1e30;
  call();
  const auto start = Clock::now();
  do {
    const auto begin = Clock::now();
    call();
    best = std::min(best, std::chrono::duration<double>(Clock::now() - begin).count());
  } while (std::chrono::duration<double>(Clock::now() - start).count() < 0.2);
  fmt::print("{:<52} {:>10.3f} ms", name, 1e3 * best);
  if (operations > 0) fmt::print(" {:>8.1f} GFLOP/s", 1e-9 * operations / best);
  fmt::print("\n");
  std::fflush(stdout);
}

void attention() {
  const AttentionShape shape{9, 3, 64, true, 0.125};
  const std::int64_t sequences = 8, length = 128, tokens = sequences * length;
  Buffer<float> q({tokens, 576}), k({tokens, 192}), v({tokens, 192}), y({tokens, 576}), lse({tokens, 9}), dy({tokens, 576}),
      dq({tokens, 576}), dk({tokens, 192}), dv({tokens, 192});
  Buffer<std::int32_t> offsets({sequences + 1});
  for (std::int64_t s = 0; s <= sequences; ++s) offsets.data[s] = static_cast<std::int32_t>(s * length);
  q.random(1), k.random(2), v.random(3), dy.random(4);
  const double operations = 4.0 * sequences * 9 * 64 * length * (length + 1) / 2;
  report("attention forward, 8 x 128 tokens", operations, [&] {
    cpu::run(AttentionForward{shape, q.view, k.view, v.view, offsets.view, y.view, lse.view}, Stream{});
  });
  report("attention backward, 8 x 128 tokens", 2.5 * operations, [&] {
    cpu::run(AttentionBackward{shape, q.view, k.view, v.view, offsets.view, y.view, lse.view, dy.view, dq.view, dk.view, dv.view, View{}},
             Stream{});
  });

  for (const std::int64_t batch : {1, 16}) {
    const std::int64_t context = 160, pages = context / attention_block;
    Buffer<float> key_pages({batch * pages, attention_block, 192}), value_pages({batch * pages, attention_block, 192});
    Buffer<std::int32_t> query_offsets({batch + 1}), lengths({batch}), table({batch, pages});
    key_pages.random(5), value_pages.random(6);
    for (std::int64_t s = 0; s < batch; ++s) {
      query_offsets.data[s + 1] = static_cast<std::int32_t>(s + 1);
      lengths.data[s] = static_cast<std::int32_t>(context);
      for (std::int64_t p = 0; p < pages; ++p) table.data[s * pages + p] = static_cast<std::int32_t>(s * pages + p);
    }
    View one_q = q.view, one_y = y.view;
    one_q.shape[0] = one_y.shape[0] = batch;
    report(batch == 1 ? "paged attention, 1 token over 160" : "paged attention, 16 x 1 token over 160", 4.0 * batch * 9 * 64 * context,
           [&] {
             cpu::run(PagedAttention{shape, one_q, query_offsets.view, lengths.view, table.view, key_pages.view, value_pages.view, one_y},
                      Stream{});
           });
  }
  Buffer<float> angles({256, 64});
  Buffer<std::int32_t> positions({tokens});
  View heads = q.view, out = y.view;
  heads.rank = out.rank = 3;
  heads.shape[1] = out.shape[1] = 9, heads.shape[2] = out.shape[2] = 64;
  report("rotary, 1,024 tokens x 9 heads", 0, [&] { cpu::run(Rotary{false, false, heads, positions.view, angles.view, out}, Stream{}); });
}

void head() {
  const std::int64_t classes = 49152, inputs = 576;
  PackedWeight weight;
  weight.outputs = classes, weight.inputs = inputs, weight.dtype = DType::q8_0;
  weight.bytes = cpu::packed_weight_bytes(classes, inputs, weight.dtype, weight.mode);
  Buffer<std::uint8_t> file({static_cast<std::int64_t>(classes * dtype_bytes(DType::q8_0, inputs))}),
      packed({static_cast<std::int64_t>(weight.bytes + 64)});
  for (std::size_t i = 0; i < file.data.size(); ++i)
    file.data[i] = i % 34 == 0 ? 0 : i % 34 == 1 ? 0x18 : static_cast<std::uint8_t>(i * 2654435761u >> 24);
  weight.data = packed.data.data() + (64 - reinterpret_cast<std::uintptr_t>(packed.data.data()) % 64);
  View source = file.view;
  source.dtype = DType::q8_0, source.rank = 2, source.shape[0] = classes, source.shape[1] = inputs;
  cpu::run(PackWeight{source, weight}, Stream{});
  for (const std::int64_t rows : {16, 192}) {
    Buffer<float> x({rows, inputs}), log_probability({rows}), lse({rows}), gradient({rows}), dx({rows, inputs});
    Buffer<std::int32_t> targets({rows});
    x.random(1), gradient.random(2);
    LinearCrossEntropyForward forward{weight, 1.0, x.view, targets.view, log_probability.view, lse.view, View{}, View{}};
    Buffer<std::uint8_t> scratch({static_cast<std::int64_t>(cpu::scratch_bytes(forward))});
    forward.scratch = scratch.view;
    const double operations = 2.0 * rows * classes * inputs;
    report(rows == 16 ? "head and cross-entropy forward, 16 rows" : "head and cross-entropy forward, 192 rows", operations,
           [&] { cpu::run(forward, Stream{}); });
    LinearCrossEntropyBackward backward{weight, 1.0, x.view, targets.view, lse.view, gradient.view, dx.view, View{}};
    Buffer<std::uint8_t> more({static_cast<std::int64_t>(cpu::scratch_bytes(backward))});
    backward.scratch = more.view;
    report(rows == 16 ? "head and cross-entropy backward, 16 rows" : "head and cross-entropy backward, 192 rows", 2 * operations,
           [&] { cpu::run(backward, Stream{}); });
  }
  Buffer<float> logits({16, classes}), u({16}), log_probability({16});
  Buffer<std::int32_t> token({16});
  logits.random(3), u.random(4);
  for (float& logit : logits.data) logit *= 8;
  for (float& number : u.data) number = 0.5f + number / 2.001f;
  for (const double top_p : {1.0, 0.95}) {
    SampleToken sample{1.0, top_p, 0.0, 0, logits.view, u.view, token.view, log_probability.view, View{}};
    Buffer<std::uint8_t> scratch({static_cast<std::int64_t>(cpu::scratch_bytes(sample))});
    sample.scratch = scratch.view;
    report(top_p == 1 ? "sampling, 16 rows of 49,152" : "sampling with top_p 0.95, 16 rows of 49,152", 0,
           [&] { cpu::run(sample, Stream{}); });
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc == 3 && std::strcmp(argv[1], "--isa") == 0) cpu::set_isa(cpu::parse_isa(argv[2]));
    fmt::print("instruction set {}, {} threads\n", cpu::isa_name(cpu::active_isa()), cpu::thread_count());
    attention();
    head();
  } catch (const Error& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return static_cast<int>(error.code());
  }
}
