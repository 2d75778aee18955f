#include "base/kernels/linear_lora.h"

#include <doctest/doctest.h>

#include <cstring>
#include <string>

#include "base/blocks.h"
#include "tests/cuda/device_tensor.h"

using namespace expctr;
using namespace expctr::test;

namespace {

std::vector<float> rounded(std::vector<float> values) {
  for (float& value : values) value = float_of_bf16(bf16_of_float(value));
  return values;
}

DeviceTensor stored(const std::vector<float>& values, Shape shape, DType dtype) {
  if (dtype == DType::f32) return DeviceTensor(values, std::move(shape));
  std::vector<std::uint16_t> half;
  for (const float value : values) half.push_back(bf16_of_float(value));
  return DeviceTensor(dtype, std::move(shape), half.data());
}

std::vector<float> read_as_float(const DeviceTensor& tensor) {
  const View view = tensor;
  if (view.dtype == DType::f32) return tensor.read();
  std::vector<float> values;
  for (const std::uint16_t half : tensor.read<std::uint16_t>()) values.push_back(float_of_bf16(half));
  return values;
}

/// q8_0 blocks of scale 1/64 and the values they hold, exact in bf16.
std::vector<BlockQ8_0> blocks_of(std::int64_t elements, std::vector<float>& values) {
  std::vector<BlockQ8_0> blocks(static_cast<std::size_t>(elements / 32));
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    blocks[b].d = 0x2400;
    for (int i = 0; i < 32; ++i) {
      blocks[b].codes[i] = static_cast<std::int8_t>(static_cast<int>((b * 37 + static_cast<std::size_t>(i) * 11) % 127) - 63);
      values.push_back(dequantise(blocks[b], i));
    }
  }
  return blocks;
}

}  // namespace

TEST_CASE("adapters beside a packed or dense weight: values and gradients, one and several adapters, dropout, bf16 storage") {
  struct Case {
    DType weight;
    ComputeMode mode;
    DType storage;
    std::int64_t rows, adapters, rank;
    float probability;
  };
  for (const Case& c : std::vector<Case>{{DType::q8_0, ComputeMode::bf16, DType::bf16, 40, 1, 8, 0},  // in the tiled kernel
                                         {DType::q8_0, ComputeMode::bf16, DType::bf16, 140, 3, 4, 0},
                                         {DType::q8_0, ComputeMode::bf16, DType::f32, 40, 2, 3, 0.25f},
                                         {DType::q8_0, ComputeMode::bf16, DType::bf16, 5, 2, 8, 0},      // few rows
                                         {DType::f32, ComputeMode::bf16, DType::bf16, 33, 1, 8, 0.25f},  // the library
                                         {DType::q8_0, ComputeMode::f32, DType::f32, 20, 2, 4, 0.5f},
                                         {DType::q8_0, ComputeMode::f32, DType::bf16, 20, 1, 4, 0}}) {
    const std::int64_t inputs = 64, outputs = 72, rows = c.rows, rank = c.rank;
    const bool bf16 = c.mode == ComputeMode::bf16;
    const std::string what = std::string(dtype_name(c.weight)) + (bf16 ? " bf16 " : " f32 ") + dtype_name(c.storage) + " rows " +
                             std::to_string(rows) + " adapters " + std::to_string(c.adapters);
    CAPTURE(what);
    std::vector<float> w;
    const std::vector<BlockQ8_0> blocks = blocks_of(outputs * inputs, w);
    const DeviceTensor source =
        c.weight == DType::q8_0 ? DeviceTensor(DType::q8_0, {outputs, inputs}, blocks.data()) : DeviceTensor(w, {outputs, inputs});
    PackedWeight weight;
    weight.outputs = outputs;
    weight.inputs = inputs;
    weight.dtype = c.weight;
    weight.mode = c.mode;
    weight.bytes = cuda::packed_weight_bytes(outputs, inputs, c.weight, c.mode);
    const cuda::DeviceMemory memory(weight.bytes);
    weight.data = memory.data();
    launch(PackWeight{source, weight});
    // Values exact in bf16, so that only sums and intermediate results round.
    const std::vector<float> x = rounded(random_floats(rows * inputs, 1)), a = rounded(random_floats(c.adapters * rank * inputs, 2)),
                             b = rounded(random_floats(c.adapters * outputs * rank, 3)), dy = rounded(random_floats(rows * outputs, 4)),
                             old = rounded(random_floats(rows * inputs, 5)), bias = rounded(random_floats(outputs, 6));
    std::vector<std::int32_t> ids = random_ids(rows, 7, -1, static_cast<std::int32_t>(c.adapters)), samples;
    for (std::int64_t r = 0; r < rows; ++r) samples.push_back(static_cast<std::int32_t>(3 * r + 1));
    const bool with_ids = c.adapters > 1;
    if (!with_ids) ids.assign(ids.size(), 0);
    const double scale = 1.5;
    const DeviceTensor xt = stored(x, {rows, inputs}, c.storage), at(a, {c.adapters, rank, inputs}), bt(b, {c.adapters, outputs, rank}),
                       it(ids, {rows}), st(samples, {rows}), biases(bias, {outputs}), y = DeviceTensor::output({rows, outputs}, c.storage),
                       low = DeviceTensor::output({rows, rank}), g = stored(dy, {rows, outputs}, c.storage),
                       dx = stored(old, {rows, inputs}, c.storage), da(std::vector<float>(a.size(), 0.5f), {c.adapters, rank, inputs}),
                       db(std::vector<float>(b.size(), 0.25f), {c.adapters, outputs, rank});
    LoraDropout dropout{c.probability, 11, 22, 3, 4, st};
    const View id_view = with_ids ? it.view() : View{};
    launch(LinearLoraForward{weight, scale, dropout, xt, biases, at, bt, id_view, y, low});
    launch(LinearLoraBackward{weight, scale, dropout, xt, at, bt, id_view, low, g, dx, da, db});
    std::vector<double> want(rows * outputs), want_low(rows * rank), want_dx(old.begin(), old.end()), want_da(a.size(), 0.5),
        want_db(b.size(), 0.25);
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t id = ids[r];
      std::vector<double> mask(inputs, 1.0), input(inputs), du(rank);
      for (std::int64_t i = 0; i < inputs; ++i) {
        if (c.probability > 0) {
          const RandomBits bits = philox({11, 22}, {3, static_cast<std::uint32_t>(samples[r]), static_cast<std::uint32_t>(i / 4), 4});
          mask[i] = uniform_float(bits.word[i % 4]) >= c.probability ? 1.0f / (1.0f - c.probability) : 0.0;
        }
        input[i] = x[r * inputs + i] * mask[i];
      }
      for (std::int64_t j = 0; id >= 0 && j < rank; ++j) {
        for (std::int64_t i = 0; i < inputs; ++i) want_low[r * rank + j] += input[i] * a[(id * rank + j) * inputs + i];
        for (std::int64_t o = 0; o < outputs; ++o) du[j] += scale * dy[r * outputs + o] * b[(id * outputs + o) * rank + j];
        for (std::int64_t i = 0; i < inputs; ++i) {
          want_da[(id * rank + j) * inputs + i] += du[j] * input[i];
          want_dx[r * inputs + i] += mask[i] * du[j] * a[(id * rank + j) * inputs + i];
        }
      }
      for (std::int64_t o = 0; o < outputs; ++o) {
        double sum = bias[o];
        for (std::int64_t i = 0; i < inputs; ++i) {
          sum += static_cast<double>(x[r * inputs + i]) * w[o * inputs + i];
          want_dx[r * inputs + i] += static_cast<double>(dy[r * outputs + o]) * w[o * inputs + i];
        }
        for (std::int64_t j = 0; id >= 0 && j < rank; ++j) {
          sum += scale * want_low[r * rank + j] * b[(id * outputs + o) * rank + j];
          want_db[(id * outputs + o) * rank + j] += scale * dy[r * outputs + o] * want_low[r * rank + j];
        }
        want[r * outputs + o] = sum;
      }
    }
    // bf16 products round low and du (and the dropped input) to 8 bits, and y and dx where they are stored so.
    const double epsilon = bf16 || c.storage == DType::bf16 ? 0x1p-10 : 0x1p-22, sums = static_cast<double>(std::max(rows, outputs));
    check_close(read_as_float(y), want, sums, epsilon);
    check_close(low.read(), want_low, static_cast<double>(inputs), bf16 && c.probability > 0 ? 0x1p-10 : 0x1p-23);
    check_close(read_as_float(dx), want_dx, sums, epsilon);
    check_close(da.read(), want_da, sums, epsilon);
    check_close(db.read(), want_db, sums, epsilon);
  }
}
