#include "base/kernels/linear.h"

#include <doctest/doctest.h>

#include "base/blocks.h"
#include "base/error.h"
#include "tests/cuda/device_tensor.h"

using namespace expctr;
using namespace expctr::test;

namespace {

/// A weight packed on the device; the memory lives as long as the object.
struct Packed {
  cuda::DeviceMemory memory;
  PackedWeight weight;
  Packed(const DeviceTensor& source, ComputeMode mode) {
    const View view = source;
    weight.outputs = view.shape[0];
    weight.inputs = view.shape[1];
    weight.dtype = view.dtype;
    weight.mode = mode;
    weight.bytes = cuda::packed_weight_bytes(weight.outputs, weight.inputs, weight.dtype, mode);
    memory = cuda::DeviceMemory(weight.bytes);
    weight.data = memory.data();
    launch(PackWeight{view, weight});
  }
};

float rounded(float value, ComputeMode mode) { return mode == ComputeMode::bf16 ? float_of_bf16(bf16_of_float(value)) : value; }
std::vector<float> rounded(std::vector<float> values, ComputeMode mode) {
  for (float& value : values) value = rounded(value, mode);
  return values;
}

}  // namespace

TEST_CASE("packing dequantises exactly") {
  std::vector<BlockQ4_1> blocks(3 * 2);
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    blocks[b].d = static_cast<std::uint16_t>(0x2C00 + 3 * b);
    blocks[b].m = static_cast<std::uint16_t>(0xB800 + b);
    for (int i = 0; i < 16; ++i) blocks[b].codes[i] = static_cast<std::uint8_t>(17 * b + 31 * i);
  }
  std::vector<float> expected;
  for (const BlockQ4_1& block : blocks)
    for (int i = 0; i < 32; ++i) expected.push_back(dequantise(block, i));
  const DeviceTensor source(DType::q4_1, {3, 64}, blocks.data());
  for (const ComputeMode mode : {ComputeMode::f32, ComputeMode::bf16}) {
    const Packed packed(source, mode);
    CHECK(packed.weight.bytes == expected.size() * (mode == ComputeMode::f32 ? 4 : 2));
    std::vector<unsigned char> bytes(packed.weight.bytes);
    cuda::copy_to_host(bytes.data(), packed.weight.data, bytes.size(), stream());
    cuda::synchronise(stream());
    bool same = true;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      if (mode == ComputeMode::f32) {
        float value;
        std::memcpy(&value, &bytes[4 * i], 4);
        same = same && value == expected[i];
      } else {
        std::uint16_t value;
        std::memcpy(&value, &bytes[2 * i], 2);
        same = same && value == bf16_of_float(expected[i]);
      }
    }
    CHECK(same);
  }
  CHECK_THROWS_AS(cuda::packed_weight_bytes(3, 64, DType::q4_1, ComputeMode::int8), Error);
}

TEST_CASE("frozen products and their gradient, with and without bias") {
  struct Size {
    std::int64_t rows, inputs, outputs;
  };
  for (const Size& size : std::vector<Size>{{0, 4, 3}, {1, 1, 1}, {1, 64, 40}, {7, 30, 11}, {40, 96, 65}})
    for (const ComputeMode mode : {ComputeMode::f32, ComputeMode::bf16})
      for (const bool with_bias : {false, true}) {
        const auto [rows, inputs, outputs] = size;
        const std::vector<float> w = random_floats(outputs * inputs, 1), x = random_floats(rows * inputs, 2), b = random_floats(outputs, 3),
                                 dy = random_floats(rows * outputs, 4), old = random_floats(rows * inputs, 5), wr = rounded(w, mode),
                                 xr = rounded(x, mode), dr = rounded(dy, mode);
        const Packed packed(DeviceTensor(w, {outputs, inputs}), mode);
        const DeviceTensor xt(x, {rows, inputs}), bt(b, {outputs}), y = DeviceTensor::output({rows, outputs}), g(dy, {rows, outputs}),
                                                                    dx(old, {rows, inputs});
        launch(LinearFrozen{packed.weight, xt, with_bias ? bt.view() : View{}, y});
        launch(LinearFrozenBackward{packed.weight, g, dx, {}});
        std::vector<double> want(rows * outputs), want_dx(old.begin(), old.end());
        for (std::int64_t r = 0; r < rows; ++r)
          for (std::int64_t o = 0; o < outputs; ++o) {
            double sum = with_bias ? b[o] : 0.0;
            for (std::int64_t i = 0; i < inputs; ++i) {
              sum += static_cast<double>(xr[r * inputs + i]) * wr[o * inputs + i];
              want_dx[r * inputs + i] += static_cast<double>(dr[r * outputs + o]) * wr[o * inputs + i];
            }
            want[r * outputs + o] = sum;
          }
        check_close(y.read(), want, static_cast<double>(inputs));
        check_close(dx.read(), want_dx, static_cast<double>(outputs));
      }
}

TEST_CASE("bf16 products in several pieces of the staging memory") {
  // 17 rows of 2^20 elements need more than the 2^24 elements that are staged at a time; small integers, so every sum is exact.
  const std::int64_t rows = 17, wide = std::int64_t{1} << 20;
  std::vector<float> x(rows * wide), w(wide);
  std::vector<double> expected(rows);
  for (std::int64_t i = 0; i < wide; ++i) w[i] = static_cast<float>(i % 3);
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t i = r; i < wide; i += 64) {
      x[r * wide + i] = static_cast<float>(i % 5) - 2;
      expected[r] += static_cast<double>(x[r * wide + i]) * w[i];
    }
  const DeviceTensor xt(x, {rows, wide}), y = DeviceTensor::output({rows, 1}), dx(std::vector<float>(rows), {rows, 1});
  const Packed row(DeviceTensor(w, {1, wide}), ComputeMode::bf16), column(DeviceTensor(w, {wide, 1}), ComputeMode::bf16);
  launch(LinearFrozen{row.weight, xt, {}, y});
  launch(LinearFrozenBackward{column.weight, xt, dx, {}});
  check_close(y.read(), expected, 0);
  CHECK(dx.read() == y.read());
}

TEST_CASE("head and cross-entropy over one and several tiles of classes") {
  struct Size {
    std::int64_t rows, inputs, outputs;
    double temperature;
  };
  for (const Size& size : std::vector<Size>{{0, 4, 3, 1}, {1, 1, 1, 1}, {5, 8, 33, 0.7}, {6, 4, 8200, 1}, {2100, 2, 5, 2}})
    for (const ComputeMode mode : {ComputeMode::f32, ComputeMode::bf16})
      for (const bool with_entropy : {false, true}) {
        const auto [rows, inputs, outputs, temperature] = size;
        std::vector<float> w = random_floats(outputs * inputs, 1, -2, 2);
        for (std::int64_t i = 8192 * inputs; i < outputs * inputs; ++i) w[i] *= 3;  // the maximum lies in the second tile of classes
        const std::vector<float> x = random_floats(rows * inputs, 2, -2, 2), gradient = random_floats(rows, 3),
                                 old = random_floats(rows * inputs, 4), wr = rounded(w, mode), xr = rounded(x, mode);
        std::vector<std::int32_t> targets = random_ids(rows, 5, 0, static_cast<std::int32_t>(outputs));
        if (rows > 2) targets[1] = -1, targets[2] = static_cast<std::int32_t>(outputs) - 1;
        const Packed packed(DeviceTensor(w, {outputs, inputs}), mode);
        const DeviceTensor xt(x, {rows, inputs}), tt(targets, {rows}), p = DeviceTensor::output({rows}), s = DeviceTensor::output({rows}),
                                                                       e = DeviceTensor::output({rows}), g(gradient, {rows}),
                                                                       dx(old, {rows, inputs});
        launch(LinearCrossEntropyForward{packed.weight, temperature, xt, tt, p, s, with_entropy ? e.view() : View{}, {}});
        launch(LinearCrossEntropyBackward{packed.weight, temperature, xt, tt, s, g, dx, {}});
        std::vector<double> want_p(rows), want_s(rows), want_e(rows), want_dx(old.begin(), old.end());
        for (std::int64_t r = 0; r < rows; ++r) {
          std::vector<double> logits(outputs);
          double most = -INFINITY, sum = 0;
          for (std::int64_t o = 0; o < outputs; ++o) {
            for (std::int64_t i = 0; i < inputs; ++i)
              logits[o] += static_cast<double>(xr[r * inputs + i]) * wr[o * inputs + i] / temperature;
            most = std::max(most, logits[o]);
          }
          for (const double logit : logits) sum += std::exp(logit - most);
          want_s[r] = most + std::log(sum);
          if (targets[r] < 0) continue;
          want_p[r] = logits[targets[r]] - want_s[r];
          for (std::int64_t o = 0; o < outputs; ++o) {
            const double q = std::exp(logits[o] - want_s[r]);
            want_e[r] -= q * (logits[o] - want_s[r]);
            double d = gradient[r] * ((o == targets[r] ? 1.0 : 0.0) - q) / temperature;
            for (std::int64_t i = 0; i < inputs; ++i) want_dx[r * inputs + i] += d * wr[o * inputs + i];
          }
        }
        check_close(p.read(), want_p, static_cast<double>(outputs));
        check_close(s.read(), want_s, static_cast<double>(outputs));
        if (with_entropy) check_close(e.read(), want_e, static_cast<double>(outputs));
        // In bf16 mode dlogits are rounded to 8 bits before the second product.
        check_close(dx.read(), want_dx, static_cast<double>(outputs), mode == ComputeMode::bf16 ? 0x1p-9 : 0x1p-22);
      }
}
