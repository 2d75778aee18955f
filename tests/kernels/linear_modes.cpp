// Products with frozen weights in bf16 and int8, in every instruction set, against double on the rounded operands.
#include <doctest/doctest.h>

#include "base/kernels/linear.h"
#include "frozen.h"

using namespace expctr;
using namespace expctr::test;

namespace {

double in_bf16(float x) { return float_of_bf16(bf16_of_float(x)); }

/// The rule of 8-bit rows, in plain steps: blocks of 32 along a row share the scale largest |x| / 127.
std::vector<double> in_int8(const float* x, std::int64_t width) {
  std::vector<double> result(static_cast<std::size_t>(width));
  for (std::int64_t b = 0; b < width; b += 32) {
    const std::int64_t end = std::min(width, b + 32);
    float largest = 0;
    for (std::int64_t i = b; i < end; ++i) largest = std::max(largest, std::abs(x[i]));
    for (std::int64_t i = b; i < end; ++i)
      result[static_cast<std::size_t>(i)] =
          largest == 0 ? 0.0 : static_cast<double>(largest / 127.0f) * static_cast<double>(std::nearbyint(x[i] * (127.0f / largest)));
  }
  return result;
}

/// What the products of a mode multiply: rows of x, and the weight (forward; the backward product of int8 takes its bf16 rounding).
std::vector<double> rows_of(ComputeMode mode, const Array<float>& x, std::int64_t rows) {
  std::vector<double> result;
  const std::int64_t width = x.size() / rows;
  for (std::int64_t r = 0; r < rows; ++r) {
    if (mode == ComputeMode::int8) {
      for (const double value : in_int8(x.data() + r * width, width)) result.push_back(value);
    } else {
      for (std::int64_t i = 0; i < width; ++i) result.push_back(in_bf16(x[r * width + i]));
    }
  }
  return result;
}
std::vector<double> weight_of(const Frozen& weight) {
  if (weight.packed.mode == ComputeMode::bf16 || !is_quantised(weight.packed.dtype))
    return rows_of(weight.packed.mode, weight.values, weight.packed.outputs);
  return {weight.values.data(), weight.values.data() + weight.values.size()};
}

struct Exact {
  double value = 0, magnitude = 0;  ///< sum of products, and of their absolute values
  void add(double a, double b) {
    value += a * b;
    magnitude += std::abs(a * b);
  }
};

/// Rounding of a float32 sum of `terms` products, each product rounded once more.
double allowed(const Exact& exact, std::int64_t terms) { return (static_cast<double>(terms) + 2) * 0x1p-24 * exact.magnitude + 1e-30; }

template <class Body>
void for_each_isa(const Body& body) {
  for (const cpu::Isa isa : cpu::all_isas) {
    if (isa > cpu::best_isa()) continue;
    for (const int threads : {1, 2}) {
      cpu::set_isa(isa);
      cpu::set_thread_count(threads);
      CAPTURE(cpu::isa_name(isa));
      body(isa, threads);
    }
  }
  cpu::set_isa(cpu::best_isa());
}

Array<float> row_of(const Array<float>& x, std::int64_t row, std::int64_t width) {
  Array<float> result({1, width});
  std::copy_n(x.data() + row * width, width, result.data());
  return result;
}

Array<float> forward(const Frozen& weight, const Array<float>& x, std::int64_t rows, const Array<float>& bias) {
  Array<float> y({rows, weight.packed.outputs});
  cpu::run(LinearFrozen{weight.packed, x.view(), bias.view(), y.view()}, Stream{});
  CHECK(y.intact());
  return y;
}

Array<float> backward(const Frozen& weight, const Array<float>& dy, std::int64_t rows) {
  Array<float> dx({rows, weight.packed.inputs});
  LinearFrozenBackward args{weight.packed, dy.view(), dx.view(), View{}};
  auto scratch = scratch_for(cpu::scratch_bytes(args));
  args.scratch = scratch.view();
  cpu::run(args, Stream{});
  CHECK(dx.intact());
  CHECK(scratch.intact());
  return dx;
}

}  // namespace

TEST_CASE("bf16 and int8 products are those of the rounded operands, and a row's do not depend on its company") {
  for (const ComputeMode mode : {ComputeMode::bf16, ComputeMode::int8}) {
    for (const DType dtype : weight_types) {
      for (const auto& [outputs, inputs] : {std::pair<std::int64_t, std::int64_t>{1, 32}, {45, 96}, {33, 45}, {70, 512}}) {
        if (inputs % dtype_traits(dtype).block_elements != 0) continue;
        CAPTURE(dtype_name(dtype));
        CAPTURE(inputs);
        const Frozen weight(dtype, outputs, inputs, 5, mode);
        const std::vector<double> w = weight_of(weight);
        constexpr std::int64_t rows = 15;
        Array<float> bias({outputs}), x({rows, inputs}), dy({rows, outputs});
        bias.random(8);
        x.random(6);
        dy.random(11);
        for (std::int64_t i = 0; i < std::min<std::int64_t>(inputs, 40); ++i) x[inputs + i] = 0;  // a block without a scale
        const std::vector<double> a = rows_of(mode, x, rows);
        Array<float> first_y({1}), first_dx({1});
        for_each_isa([&](cpu::Isa isa, int threads) {
          const Array<float> y = forward(weight, x, rows, bias), dx = backward(weight, dy, rows);
          if (threads == 1) {
            for (std::int64_t r = 0; r < rows; ++r) {
              bool right = true;
              for (std::int64_t n = 0; n < outputs; ++n) {
                Exact exact;
                for (std::int64_t k = 0; k < inputs; ++k) exact.add(a[r * inputs + k], w[n * inputs + k]);
                exact.add(1.0, bias[n]);
                // A minimum's share is summed apart from the codes' and may cancel them.
                if (mode == ComputeMode::int8) exact.magnitude += static_cast<double>(inputs);
                right = right && std::abs(y[r * outputs + n] - exact.value) <= allowed(exact, inputs);
              }
              for (std::int64_t k = 0; k < inputs; ++k) {
                Exact exact;
                for (std::int64_t n = 0; n < outputs; ++n)
                  exact.add(in_bf16(dy[r * outputs + n]), in_bf16(static_cast<float>(w[n * inputs + k])));
                right = right && std::abs(dx[r * inputs + k] - exact.value) <= allowed(exact, outputs);
              }
              CHECK(right);
            }
            for (const std::int64_t r : {0, 1, 7, 14}) {
              const Array<float> alone = forward(weight, row_of(x, r, inputs), 1, bias), back = backward(weight, row_of(dy, r, outputs), 1);
              CHECK(std::memcmp(alone.data(), y.data() + r * outputs, static_cast<std::size_t>(outputs) * sizeof(float)) == 0);
              CHECK(std::memcmp(back.data(), dx.data() + r * inputs, static_cast<std::size_t>(inputs) * sizeof(float)) == 0);
            }
          }
          // int8 sums are exact, bf16 ones without the instruction are float32 products: the same everywhere.
          if (isa == cpu::Isa::v3 && threads == 1) {
            first_y = y;
            first_dx = dx;
          }
          const bool pairs = isa == cpu::Isa::avx512bf16;
          if (mode == ComputeMode::int8 || !pairs) CHECK(same_bits(y, first_y));
          if (!pairs) CHECK(same_bits(dx, first_dx));
          if (pairs && threads == 2) {
            cpu::set_thread_count(1);
            CHECK(same_bits(y, forward(weight, x, rows, bias)));
            CHECK(same_bits(dx, backward(weight, dy, rows)));
          }
        });
      }
    }
  }
}

TEST_CASE("bytes at the ends of their range do not overflow, and numbers that are none show") {
  for (const DType dtype : {DType::q8_0, DType::f32}) {
    Frozen weight(dtype, 40, 64, 3, ComputeMode::int8);
    Array<float> x({2, 64}), no_bias({40});
    for (std::int64_t i = 0; i < 64; ++i) x[i] = i % 2 ? -1.0f : 1.0f;
    for (std::int64_t i = 0; i < 64; ++i) x[64 + i] = 0.5f;
    if (dtype == DType::q8_0) {
      auto* blocks = reinterpret_cast<BlockQ8_0*>(weight.file.data());
      for (int b = 0; b < 80; ++b) {
        blocks[b].d = 0x3C00;  // 1
        for (int i = 0; i < 32; ++i) blocks[b].codes[i] = static_cast<std::int8_t>(i % 2 ? 127 : -128);
      }
      View source;
      source.data = weight.file.data();
      source.dtype = dtype;
      source.rank = 2;
      source.shape[0] = 40;
      source.shape[1] = 64;
      cpu::run(PackWeight{source, weight.packed}, Stream{});
      for_each_isa([&](cpu::Isa, int) {
        const Array<float> y = forward(weight, x, 2, no_bias);
        CHECK(y[0] == doctest::Approx(-64 * 127.5).epsilon(1e-6));
        CHECK(y[40] == doctest::Approx(-0.5 * 32).epsilon(1e-6));
      });
    }
    for (const float bad : {INFINITY, NAN}) {
      x[3] = bad;
      for_each_isa([&](cpu::Isa, int) {
        const Array<float> y = forward(weight, x, 2, no_bias);
        CHECK(std::isnan(y[0]));
        CHECK(!std::isnan(y[40]));
      });
    }
  }
}

TEST_CASE("the fused head in bf16 and int8 is a softmax over the products of the rounded operands") {
  constexpr std::int64_t rows = 101, classes = 2100, inputs = 256;
  constexpr double temperature = 0.7;
  for (const ComputeMode mode : {ComputeMode::bf16, ComputeMode::int8}) {
    for (const DType dtype : {DType::q8_0, DType::q6_k, DType::bf16}) {
      CAPTURE(dtype_name(dtype));
      const Frozen weight(dtype, classes, inputs, 21, mode);
      Array<float> x({rows, inputs}), gradient({rows}), start({rows, inputs});
      Array<std::int32_t> targets({rows});
      x.random(22, 0.5);
      gradient.random(23);
      start.random(77);
      for (std::int64_t r = 0; r < rows; ++r) targets[r] = r % 5 == 3 ? -100 : static_cast<std::int32_t>((r * 7919) % classes);
      const std::vector<double> w = weight_of(weight), a = rows_of(mode, x, rows);
      for_each_isa([&](cpu::Isa, int threads) {
        const HeadResult result = run_head(weight, x, targets, gradient, 0, rows, temperature);
        if (threads > 1) {
          cpu::set_thread_count(1);
          const HeadResult one = run_head(weight, x, targets, gradient, 0, rows, temperature);
          CHECK(same_bits(one.log_probability, result.log_probability));
          CHECK(same_bits(one.dx, result.dx));
          return;
        }
        for (const std::int64_t r : {0, 3, 100}) {
          std::vector<double> logits(classes);
          double largest = -INFINITY, sum = 0;
          for (std::int64_t n = 0; n < classes; ++n) {
            Exact exact;
            for (std::int64_t k = 0; k < inputs; ++k) exact.add(a[r * inputs + k], w[n * inputs + k]);
            logits[n] = exact.value / temperature;
            largest = std::max(largest, logits[n]);
          }
          for (const double l : logits) sum += std::exp(l - largest);
          const double log_sum_exp = largest + std::log(sum);
          const bool skipped = targets[r] < 0;
          CHECK(std::abs(result.log_sum_exp[r] - log_sum_exp) < 5e-5);
          CHECK(std::abs(result.log_probability[r] - (skipped ? 0.0 : logits[targets[r]] - log_sum_exp)) < 5e-5);
          // The gradient of the logits is rounded to bf16: 2^-8 of each product at most.
          for (std::int64_t k = 0; k < inputs; k += 17) {
            Exact exact;
            for (std::int64_t n = 0; n < classes && !skipped; ++n)
              exact.add(gradient[r] * ((n == targets[r]) - std::exp(logits[n] - log_sum_exp)) / temperature,
                        in_bf16(static_cast<float>(w[n * inputs + k])));
            CHECK(std::abs(result.dx[r * inputs + k] - start[r * inputs + k] - exact.value) <= 0x1p-8 * exact.magnitude + 1e-6);
          }
          const HeadResult alone = run_head(weight, x, targets, gradient, r, 1, temperature);
          CHECK(alone.log_probability[0] == result.log_probability[r]);
          CHECK(alone.log_sum_exp[0] == result.log_sum_exp[r]);
        }
      });
    }
  }
}
