#include "base/kernels/linear.h"

#include <doctest/doctest.h>

#include <array>
#include <cstring>
#include <string>

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

constexpr DType block_formats[] = {DType::q4_0, DType::q4_1, DType::q5_0, DType::q5_1, DType::q8_0, DType::q4_k, DType::q5_k, DType::q6_k};

/// Random blocks with finite scales of both signs: every code occurs.
std::vector<unsigned char> random_blocks(DType dtype, std::int64_t elements, std::uint32_t seed) {
  std::vector<unsigned char> bytes(dtype_bytes(dtype, elements));
  for (std::size_t i = 0; i < bytes.size(); ++i)
    bytes[i] = static_cast<unsigned char>(philox({seed, 3}, {static_cast<std::uint32_t>(i), 0, 0, 0}).word[0]);
  const std::size_t block = static_cast<std::size_t>(dtype_traits(dtype).block_bytes);
  for (std::size_t b = 0; b < bytes.size(); b += block) {
    const auto scale = [&](std::size_t at, int exponent) {  // half precision, magnitude 2^(exponent - 15) times 1 to 2
      bytes[b + at + 1] = static_cast<unsigned char>((bytes[b + at + 1] & 0x83) | exponent << 2);
    };
    const bool k = dtype == DType::q4_k || dtype == DType::q5_k;
    if (dtype == DType::q6_k) {
      scale(208, 4);
    } else {
      scale(0, dtype == DType::q8_0 ? 6 : k ? 5 : 10);
      if (k || dtype == DType::q4_1 || dtype == DType::q5_1) scale(2, k ? 5 : 12);
    }
  }
  return bytes;
}

template <class Block>
void append_values(std::vector<float>& values, const std::vector<unsigned char>& bytes, int elements) {
  for (std::size_t at = 0; at < bytes.size(); at += sizeof(Block)) {
    Block block;
    std::memcpy(&block, &bytes[at], sizeof block);
    for (int i = 0; i < elements; ++i) values.push_back(dequantise(block, i));
  }
}

std::vector<float> block_values(DType dtype, const std::vector<unsigned char>& bytes) {
  std::vector<float> values;
  switch (dtype) {
    case DType::q4_0:
      append_values<BlockQ4_0>(values, bytes, 32);
      break;
    case DType::q4_1:
      append_values<BlockQ4_1>(values, bytes, 32);
      break;
    case DType::q5_0:
      append_values<BlockQ5_0>(values, bytes, 32);
      break;
    case DType::q5_1:
      append_values<BlockQ5_1>(values, bytes, 32);
      break;
    case DType::q8_0:
      append_values<BlockQ8_0>(values, bytes, 32);
      break;
    case DType::q4_k:
      append_values<BlockQ4_K>(values, bytes, 256);
      break;
    case DType::q5_k:
      append_values<BlockQ5_K>(values, bytes, 256);
      break;
    case DType::q6_k:
      append_values<BlockQ6_K>(values, bytes, 256);
      break;
    default:
      FAIL("no block format");
  }
  return values;
}

/// x [rows, width] as the storage type.
DeviceTensor stored(const std::vector<float>& values, Shape shape, DType dtype, std::size_t shift = 0) {
  if (dtype == DType::f32) return DeviceTensor(values, std::move(shape), shift);
  std::vector<std::uint16_t> half;
  for (const float value : values) half.push_back(bf16_of_float(value));
  return DeviceTensor(dtype, std::move(shape), half.data(), shift);
}

std::vector<float> read_as_float(const DeviceTensor& tensor) {
  const View view = tensor;
  if (view.dtype == DType::f32) return tensor.read();
  std::vector<float> values;
  for (const std::uint16_t half : tensor.read<std::uint16_t>()) values.push_back(float_of_bf16(half));
  return values;
}

/// Rounding of the result's storage, in units of check_close.
double epsilon_of(DType dtype) { return dtype == DType::bf16 ? 0x1p-10 : 0x1p-23; }

}  // namespace

TEST_CASE("packed blocks keep their bits: unit vectors read every weight back exactly") {
  for (const DType dtype : block_formats) {
    const std::int64_t inputs = 256, outputs = 21;
    const std::vector<unsigned char> bytes = random_blocks(dtype, outputs * inputs, 17);
    const std::vector<float> w = block_values(dtype, bytes);
    std::vector<float> unit(inputs * inputs, 0.0f), unit_outputs(outputs * outputs, 0.0f);
    for (std::int64_t i = 0; i < inputs; ++i) unit[i * inputs + i] = 1;
    for (std::int64_t i = 0; i < outputs; ++i) unit_outputs[i * outputs + i] = 1;
    for (const ComputeMode mode : {ComputeMode::f32, ComputeMode::bf16}) {
      CAPTURE(dtype_name(dtype));
      const Packed packed(DeviceTensor(dtype, {outputs, inputs}, bytes.data()), mode);
      CHECK(packed.weight.bytes < static_cast<std::size_t>(outputs * inputs) * (dtype == DType::q8_0 ? 3 : 2));
      const DeviceTensor x(unit, {inputs, inputs}), y = DeviceTensor::output({inputs, outputs}), dy(unit_outputs, {outputs, outputs}),
                                                    dx(std::vector<float>(outputs * inputs, 0.0f), {outputs, inputs});
      launch(LinearFrozen{packed.weight, x, {}, y});
      launch(LinearFrozenBackward{packed.weight, dy, dx, {}});
      // Few rows take another kernel.
      const DeviceTensor few(std::vector<float>(unit.begin() + 60 * inputs, unit.begin() + 71 * inputs), {11, inputs}),
          few_y = DeviceTensor::output({11, outputs});
      launch(LinearFrozen{packed.weight, few, {}, few_y});
      const std::vector<float> columns = y.read(), rows = dx.read(), few_columns = few_y.read();
      bool same = true;
      for (std::int64_t o = 0; o < outputs; ++o)
        for (std::int64_t i = 0; i < inputs; ++i) {
          const float value = rounded(w[o * inputs + i], mode);
          same = same && columns[i * outputs + o] == value && rows[o * inputs + i] == value;
          if (i >= 60 && i < 71) same = same && few_columns[(i - 60) * outputs + o] == value;
        }
      CHECK(same);
    }
  }
  CHECK_THROWS_AS(cuda::packed_weight_bytes(3, 64, DType::q4_1, ComputeMode::int8), Error);
}

TEST_CASE("frozen products and their gradient: every weight format, mode and storage of activations") {
  struct Case {
    DType dtype;
    std::int64_t rows, inputs, outputs;
  };
  std::vector<Case> cases;
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
    for (const auto& [rows, inputs, outputs] :
         std::vector<std::array<std::int64_t, 3>>{{0, 4, 3}, {1, 1, 1}, {1, 64, 40}, {7, 30, 11}, {40, 96, 65}})
      cases.push_back({dtype, rows, inputs, outputs});
  for (const DType dtype : block_formats) {
    cases.push_back({dtype, 3, 256, 40});
    cases.push_back({dtype, 150, 256, 137});
  }
  cases.push_back({DType::q4_0, 1, 96, 5});
  cases.push_back({DType::q4_0, 16, 1120, 37});  // two chunks of a in the kernel of few rows
  cases.push_back({DType::q8_0, 9, 2080, 24});
  cases.push_back({DType::q4_1, 17, 32, 200});
  cases.push_back({DType::q8_0, 33, 160, 8});
  for (const Case& c : cases)
    for (const ComputeMode mode : {ComputeMode::f32, ComputeMode::bf16})
      for (const DType storage : {DType::f32, DType::bf16}) {
        const auto [dtype, rows, inputs, outputs] = c;
        const bool with_bias = outputs % 2 == 1;
        const std::string what = std::string(dtype_name(dtype)) + " [" + std::to_string(rows) + ", " + std::to_string(inputs) + "] to " +
                                 std::to_string(outputs) + (mode == ComputeMode::bf16 ? " bf16 " : " f32 ") + dtype_name(storage);
        CAPTURE(what);
        std::vector<unsigned char> bytes;
        std::vector<float> w;
        if (is_quantised(dtype)) {
          bytes = random_blocks(dtype, outputs * inputs, 5);
          w = block_values(dtype, bytes);
        } else {
          for (const float value : random_floats(outputs * inputs, 1)) {
            if (dtype == DType::f32) {
              w.push_back(value);
              bytes.insert(bytes.end(), reinterpret_cast<const unsigned char*>(&value), reinterpret_cast<const unsigned char*>(&value) + 4);
            } else {  // 8 significant bits: exact in both 16-bit types
              const std::uint16_t half = bf16_of_float(value);
              w.push_back(float_of_bf16(half));
              std::uint16_t bits = half;
              if (dtype == DType::f16) {
                const std::uint32_t f = bits_of_float(w.back());
                const int exponent = static_cast<int>((f >> 23) & 255) - 112;
                if (exponent <= 0) w.back() = 0;
                bits = static_cast<std::uint16_t>(
                    (exponent <= 0 ? 0u : (f >> 16 & 0x8000u) | static_cast<std::uint32_t>(exponent) << 10 | (f >> 13 & 0x3FFu)));
              }
              bytes.push_back(static_cast<unsigned char>(bits & 255));
              bytes.push_back(static_cast<unsigned char>(bits >> 8));
            }
          }
        }
        const ComputeMode operand_rounding = storage == DType::bf16 ? ComputeMode::bf16 : mode;
        const std::vector<float> x = random_floats(rows * inputs, 2), dy = random_floats(rows * outputs, 4),
                                 old = rounded(random_floats(rows * inputs, 5),
                                               storage == DType::bf16 ? ComputeMode::bf16 : ComputeMode::f32),
                                 wr = rounded(w, mode), xr = rounded(x, operand_rounding), dr = rounded(dy, operand_rounding),
                                 b = rounded(random_floats(outputs, 3), ComputeMode::bf16);
        const Packed packed(DeviceTensor(dtype, {outputs, inputs}, bytes.data()), mode);
        const DeviceTensor xt = stored(x, {rows, inputs}, storage), bt(b, {outputs}), y = DeviceTensor::output({rows, outputs}, storage),
                           g = stored(dy, {rows, outputs}, storage, rows == 7 ? 2 * dtype_bytes(storage, 1) : 0),
                           dx = stored(old, {rows, inputs}, storage);
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
        check_close(read_as_float(y), want, static_cast<double>(inputs), epsilon_of(storage));
        check_close(read_as_float(dx), want_dx, static_cast<double>(outputs), epsilon_of(storage));
      }
}

TEST_CASE("few rows: a row's product depends neither on the other rows nor on their number") {
  const std::int64_t inputs = 1120, outputs = 48;
  const std::vector<unsigned char> bytes = random_blocks(DType::q4_0, outputs * inputs, 5);
  const Packed packed(DeviceTensor(DType::q4_0, {outputs, inputs}, bytes.data()), ComputeMode::bf16);
  const std::vector<float> x = random_floats(16 * inputs, 2);
  const DeviceTensor all(x, {16, inputs}), y = DeviceTensor::output({16, outputs});
  launch(LinearFrozen{packed.weight, all, {}, y});
  const std::vector<float> together = y.read();
  for (const std::int64_t row : {0, 5, 15}) {
    const DeviceTensor one(std::vector<float>(x.begin() + row * inputs, x.begin() + (row + 1) * inputs), {1, inputs}),
        alone = DeviceTensor::output({1, outputs});
    launch(LinearFrozen{packed.weight, one, {}, alone});
    CHECK(alone.read() == std::vector<float>(together.begin() + row * outputs, together.begin() + (row + 1) * outputs));
  }
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

TEST_CASE("head and cross-entropy: packed weights, trained head and bf16 activations") {
  struct Case {
    DType weight, storage;
    ComputeMode mode;
    std::int64_t rows, inputs, classes;
  };
  for (const Case& c : std::vector<Case>{{DType::f32, DType::bf16, ComputeMode::bf16, 150, 24, 300},
                                         {DType::f32, DType::f32, ComputeMode::f32, 20, 5, 70},
                                         {DType::f32, DType::bf16, ComputeMode::f32, 20, 5, 70},
                                         {DType::q8_0, DType::bf16, ComputeMode::bf16, 17, 64, 131},
                                         {DType::q4_k, DType::f32, ComputeMode::f32, 9, 256, 50},
                                         {DType::q4_1, DType::bf16, ComputeMode::bf16, 3, 32, 8210}}) {
    const auto [dtype, storage, mode, rows, inputs, classes] = c;
    const std::string what = std::string(dtype_name(dtype)) + " " + dtype_name(storage) + (mode == ComputeMode::bf16 ? " bf16 " : " f32 ") +
                             std::to_string(classes);
    CAPTURE(what);
    const bool bf16 = mode == ComputeMode::bf16 || storage == DType::bf16;
    std::vector<float> w;
    std::vector<unsigned char> bytes;
    if (is_quantised(dtype)) {
      bytes = random_blocks(dtype, classes * inputs, 5);
      w = rounded(block_values(dtype, bytes), mode);
    } else {
      w = rounded(random_floats(classes * inputs, 1), bf16 ? ComputeMode::bf16 : mode);
    }
    const Packed packed(is_quantised(dtype) ? DeviceTensor(dtype, {classes, inputs}, bytes.data()) : DeviceTensor(w, {classes, inputs}),
                        mode);
    const std::vector<float> x = rounded(random_floats(rows * inputs, 2), bf16 ? ComputeMode::bf16 : mode),
                             gradient = random_floats(rows, 3),
                             old = rounded(random_floats(rows * inputs, 4), bf16 ? ComputeMode::bf16 : mode),
                             old_w = random_floats(classes * inputs, 6);
    std::vector<std::int32_t> targets = random_ids(rows, 5, 0, static_cast<std::int32_t>(classes));
    targets[1] = -1;
    targets[2] = static_cast<std::int32_t>(classes) - 1;
    const DeviceTensor xt = stored(x, {rows, inputs}, storage), tt(targets, {rows}), p = DeviceTensor::output({rows}),
                       s = DeviceTensor::output({rows}), g(gradient, {rows}), dx = stored(old, {rows, inputs}, storage),
                       dw(old_w, {classes, inputs});
    launch(LinearCrossEntropyForward{packed.weight, 1.25, xt, tt, p, s, {}, {}});
    launch(LinearCrossEntropyBackward{packed.weight, 1.25, xt, tt, s, g, dx, {}, dw});
    std::vector<double> want_p(rows), want_dx(old.begin(), old.end()), want_dw(old_w.begin(), old_w.end());
    for (std::int64_t r = 0; r < rows; ++r) {
      std::vector<double> logits(classes);
      double sum = 0;
      for (std::int64_t o = 0; o < classes; ++o) {
        for (std::int64_t i = 0; i < inputs; ++i) logits[o] += static_cast<double>(x[r * inputs + i]) * w[o * inputs + i] / 1.25;
        sum += std::exp(logits[o]);
      }
      if (targets[r] < 0) continue;
      want_p[r] = logits[targets[r]] - std::log(sum);
      for (std::int64_t o = 0; o < classes; ++o) {
        const double d = gradient[r] * ((o == targets[r] ? 1.0 : 0.0) - std::exp(logits[o]) / sum) / 1.25;
        for (std::int64_t i = 0; i < inputs; ++i) {
          want_dx[r * inputs + i] += d * w[o * inputs + i];
          want_dw[o * inputs + i] += d * x[r * inputs + i];
        }
      }
    }
    check_close(p.read(), want_p, static_cast<double>(classes));
    check_close(read_as_float(dx), want_dx, static_cast<double>(classes), bf16 ? 0x1p-9 : 0x1p-22);
    check_close(dw.read(), want_dw, static_cast<double>(rows), bf16 ? 0x1p-9 : 0x1p-22);
    // Without a gradient of x, that of the weight is the same.
    const DeviceTensor alone(old_w, {classes, inputs});
    launch(LinearCrossEntropyBackward{packed.weight, 1.25, xt, tt, s, g, {}, {}, alone});
    CHECK(alone.read() == dw.read());
  }
}
