// Traffic and tensor work of the linear family, against what the headers of its kernel files derive.
#include "base/kernels/linear.h"

#include "base/blocks.h"
#include "tests/cuda/device_tensor.h"
#include "tests/support/launch_profile.h"
#include "tests/support/paths.h"

using namespace expctr;
using namespace expctr::test;

namespace {

/// A packed weight of small random codes: what the counters see does not depend on the values.
struct Packed {
  cuda::DeviceMemory memory;
  PackedWeight weight;
  Packed(DType dtype, std::int64_t outputs, std::int64_t inputs) {
    std::vector<unsigned char> bytes(dtype_bytes(dtype, outputs * inputs), 0x11);
    const DeviceTensor source(dtype, {outputs, inputs}, bytes.data());
    weight.outputs = outputs;
    weight.inputs = inputs;
    weight.dtype = dtype;
    weight.mode = ComputeMode::bf16;
    weight.bytes = cuda::packed_weight_bytes(outputs, inputs, dtype, weight.mode);
    memory = cuda::DeviceMemory(weight.bytes);
    weight.data = memory.data();
    launch(PackWeight{source, weight});
  }
};

DeviceTensor bf16_zeros(Shape shape) {
  const std::vector<std::uint16_t> values(static_cast<std::size_t>(elements(shape)), 0);
  return DeviceTensor(DType::bf16, std::move(shape), values.data());
}

std::int64_t tiles(std::int64_t extent) { return (extent + 127) / 128; }

const ProfileOptions unchecked{"none", 0};

}  // namespace

TEST_CASE("tiled product with packed weights: bytes, tensor work, banks") {
  const std::int64_t rows = 512, inputs = 640, outputs = 640;  // whole tiles: the counters count copies of nothing as 16 bytes too
  for (const DType dtype : {DType::q4_0, DType::q8_0})
    for (const int capability : {80, 90}) {
      const LaunchProfile profile = profile_launches(
          capability,
          [&] {
            const Packed packed(dtype, outputs, inputs);
            const DeviceTensor x = bf16_zeros({rows, inputs}), y = DeviceTensor::output({rows, outputs}, DType::bf16),
                               dx = bf16_zeros({rows, inputs}), dy = bf16_zeros({rows, outputs});
            launch(LinearFrozen{packed.weight, x, {}, y});
            launch(LinearFrozenBackward{packed.weight, dy, dx, {}});
          },
          unchecked);
      if (!profile.here) return skip_test(no_launch_profile);
      CHECK(profile.library_calls.empty());
      const std::vector<KernelLaunch> kernels = profile.of("tile_kernel");
      REQUIRE(kernels.size() == 2);
      const double weight = static_cast<double>(cuda::packed_weight_bytes(outputs, inputs, dtype, ComputeMode::bf16));
      const double forward = 2.0 * rows * inputs * tiles(outputs) + weight * tiles(rows) + 2.0 * rows * outputs,
                   backward = 2.0 * rows * outputs * tiles(inputs) + weight * tiles(rows) + 4.0 * rows * inputs;
      CHECK(kernels[0].requested_bytes() <= forward);
      CHECK(kernels[1].requested_bytes() <= backward);
      for (const KernelLaunch& kernel : kernels) {
        CHECK(kernel.bank_conflict_share() < 0.05);
        CHECK(kernel.sector_efficiency() >= 0.9);
        CHECK(static_cast<double>(kernel.tensor_flops) <= 1.15 * 2.0 * rows * inputs * outputs);
      }
    }
}

TEST_CASE("few rows: the packed weight is read once, in whole sectors") {
  const std::int64_t inputs = 1024, outputs = 3072;
  for (const DType dtype : {DType::q4_0, DType::q4_1, DType::q5_0, DType::q8_0, DType::q4_k, DType::q6_k})
    for (const std::int64_t rows : {1, 16}) {
      const LaunchProfile profile = profile_launches(
          rows == 1 ? 80 : 90,
          [&] {
            const Packed packed(dtype, outputs, inputs);
            const DeviceTensor x = bf16_zeros({rows, inputs}), y = DeviceTensor::output({rows, outputs}, DType::bf16);
            launch(LinearFrozen{packed.weight, x, {}, y});
          },
          unchecked);
      if (!profile.here) return skip_test(no_launch_profile);
      const KernelLaunch kernel = profile.only("decode_kernel");
      const double weight = static_cast<double>(cuda::packed_weight_bytes(outputs, inputs, dtype, ComputeMode::bf16));
      // What 256 elements share is asked for once a unit, q8_0's scales twice a unit.
      const double units = static_cast<double>(outputs) * inputs / 32, shared = dtype == DType::q8_0                           ? 2 * units
                                                                                : dtype == DType::q4_k || dtype == DType::q6_k ? 4 * units
                                                                                                                               : 0;
      CHECK(kernel.requested_bytes() <= 1.05 * weight + shared + 2.0 * rows * (inputs * kernel.blocks + outputs));
      CHECK(kernel.compulsory_bytes() <= 1.02 * weight + 2.0 * rows * (inputs + outputs));
      CHECK(kernel.bank_conflict_share() < 0.05);
      CHECK(kernel.sector_efficiency() >= 0.9);
    }
}

TEST_CASE("fused head and cross-entropy: no logits in memory, bytes as derived, tensor work as the algorithm's") {
  const std::int64_t rows = 1024, inputs = 128, classes = 1536;
  for (const int capability : {80, 90}) {
    const LaunchProfile profile = profile_launches(
        capability,
        [&] {
          const Packed packed(DType::bf16, classes, inputs);
          const DeviceTensor x = bf16_zeros({rows, inputs}), targets(random_ids(rows, 1, 0, static_cast<std::int32_t>(classes)), {rows}),
                             p = DeviceTensor::output({rows}), s = DeviceTensor::output({rows}), e = DeviceTensor::output({rows}),
                             g(std::vector<float>(rows, 1.0f), {rows}), dx = bf16_zeros({rows, inputs});
          launch(LinearCrossEntropyForward{packed.weight, 1.0, x, targets, p, s, e, {}});
          launch(LinearCrossEntropyBackward{packed.weight, 1.0, x, targets, s, g, dx, {}});
        },
        unchecked);
    if (!profile.here) return skip_test(no_launch_profile);
    const std::vector<KernelLaunch> kernels = profile.of("tile_kernel");
    REQUIRE(kernels.size() == 3);
    CHECK(profile.library_calls.empty());
    const double weight = 2.0 * classes * inputs, x = 2.0 * rows * inputs, product = 2.0 * rows * inputs * classes,
                 parts = 12.0 * rows * tiles(classes), logits = 2.0 * rows * classes;
    // Besides the operands: targets, target logits, sums and gradients of the rows, a few bytes a row and tile.
    const double row_values = 16.0 * rows * tiles(classes);
    CHECK(kernels[0].requested_bytes() <= x * tiles(classes) + weight * tiles(rows) + parts + row_values);
    CHECK(profile.only("finish_kernel").requested_bytes() <= parts + 24.0 * rows);
    CHECK(kernels[1].requested_bytes() <= x * tiles(classes) + weight * tiles(rows) + logits + row_values);
    CHECK(kernels[2].requested_bytes() <= logits * tiles(inputs) + weight * tiles(rows) + 2 * x);
    double tensor = 0;
    for (const KernelLaunch& kernel : kernels) {
      CHECK(kernel.bank_conflict_share() < 0.05);
      tensor += static_cast<double>(kernel.tensor_flops);
    }
    CHECK(tensor <= 1.15 * 3 * product);
  }
}
