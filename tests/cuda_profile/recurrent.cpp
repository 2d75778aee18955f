// Traffic, bank conflicts and tensor work of the recurrent, nearest-code, sparse and Cholesky kernels, as the virtual GPU counts them.
#include "base/kernels/recurrent.h"

#include <doctest/doctest.h>

#include <cstdio>

#include "base/blocks.h"
#include "base/kernels/cholesky.h"
#include "base/kernels/nearest.h"
#include "base/kernels/sparse_matrix.h"
#include "tests/cuda/device_tensor.h"
#include "tests/support/launch_profile.h"
#include "tests/support/paths.h"

using namespace expctr;
using namespace expctr::test;

namespace {

DeviceTensor stored(std::int64_t seed, const Shape& shape, DType dtype, float low = -1, float high = 1) {
  const std::vector<float> values = random_floats(elements(shape), static_cast<std::uint32_t>(seed), low, high);
  if (dtype == DType::f32) return DeviceTensor(values, shape);
  std::vector<std::uint16_t> halves;
  for (const float value : values) halves.push_back(bf16_of_float(value));
  return DeviceTensor(DType::bf16, shape, halves.data());
}

struct LayerSize {
  std::int64_t batch, time, hidden;
};

/// A forward and a backward pass of full rows.
void run_layer(RecurrentCell cell, DType dtype, const LayerSize& size) {
  const std::int64_t columns = recurrent_gates(cell) * size.hidden;
  const Shape steps{size.batch, size.time, size.hidden}, gates{size.batch, size.time, columns}, rows{size.batch, size.hidden}, scores{size.batch, size.time};
  const bool is_lstm = cell == RecurrentCell::lstm, weighted = cell == RecurrentCell::augru;
  const DeviceTensor projected = stored(1, gates, dtype), attention = stored(2, scores, dtype, 0, 1), weight = stored(3, {columns, size.hidden}, DType::f32, -0.2f, 0.2f),
                     bias = stored(4, {columns}, DType::f32), dstates = stored(5, steps, dtype), dlast = stored(6, rows, dtype);
  const DeviceTensor states = DeviceTensor::output(steps, dtype), last = DeviceTensor::output(rows, dtype), last_cell = DeviceTensor::output(rows, dtype),
                     saved = DeviceTensor::output({size.batch, size.time, 4 * size.hidden}, dtype), cells = DeviceTensor::output(steps, dtype);
  const DeviceTensor dprojected = stored(7, gates, dtype), dweight = stored(8, {columns, size.hidden}, DType::f32), dbias = stored(9, {columns}, DType::f32), dattention = stored(10, scores, dtype);
  const auto maybe = [](bool there, const DeviceTensor& tensor) { return there ? tensor.view() : View{}; };
  launch(RecurrentForward{cell, projected, weight, bias, bias, maybe(weighted, attention), {}, {}, {}, states, last, maybe(is_lstm, last_cell), saved, maybe(is_lstm, cells), {}});
  launch(RecurrentBackward{cell, weight, maybe(weighted, attention), {}, {}, {}, states, saved, maybe(is_lstm, cells), dstates, dlast, {}, dprojected, dweight, dbias, dbias,
                           maybe(weighted, dattention), {}, {}, {}});
}

}  // namespace

TEST_CASE("recurrent kernels: bytes, bank conflicts and tensor work") {
  for (const int capability : {80, 90}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (const RecurrentCell cell : {RecurrentCell::gru, RecurrentCell::lstm}) {
        const LayerSize size{64, 4, 64};
        const LaunchProfile profile = profile_launches(capability, [&] { run_layer(cell, dtype, size); }, {.checks = "none"});
        if (!profile.here) return skip_test(no_launch_profile);
        for (const KernelLaunch& k : profile.launches)
          std::printf("%d %s %-40.40s blocks %ld requested %lu compulsory %lu excess %.3f sectors %.3f conflicts %.4f tensor %lu f32 %lu\n", capability, dtype_name(dtype), k.kernel.c_str(), k.blocks, k.requested_bytes(), k.compulsory_bytes(), k.excess(), k.sector_efficiency(), k.bank_conflict_share(), k.tensor_flops, k.f32_flops);
      }
    }
  }
}

TEST_CASE("nearest codes, sparse products, Cholesky: bytes, bank conflicts and tensor work") {
  for (const int capability : {80, 90}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const LaunchProfile profile = profile_launches(capability, [&] {
        const DeviceTensor x = stored(1, {128, 64}, dtype), codebook = stored(2, {512, 64}, dtype), indices = DeviceTensor::output({128, 16}, DType::i32), distances = DeviceTensor::output({128, 16});
        launch(NearestCodes{x, codebook, indices, distances, {}});
        std::vector<std::int32_t> offsets = {0};
        for (int r = 0; r < 128; ++r) offsets.push_back(offsets.back() + (r == 5 ? 600 : r % 9));
        const DeviceTensor o(offsets, {129}), c(random_ids(offsets.back(), 3, 0, 512), {offsets.back()}), v = stored(4, {offsets.back()}, DType::f32), y = DeviceTensor::output({128, 64}, dtype);
        launch(SparseMatMul{false, o, c, v, codebook, y});
        if (dtype == DType::f32) {
        std::vector<float> a(96 * 96);
        for (int i = 0; i < 96; ++i) a[i * 97] = 2;
        const DeviceTensor at(a, {1, 96, 96}), l = DeviceTensor::output({1, 96, 96}), status = DeviceTensor::output({1}, DType::i32), b = stored(5, {1, 96, 64}, DType::f32), s = DeviceTensor::output({1, 96, 64});
        launch(Cholesky{at, l, status});
        launch(CholeskySolve{false, l, b, s});
        }
      }, {.checks = "none"});
      if (!profile.here) return skip_test(no_launch_profile);
        for (const KernelLaunch& k : profile.launches)
          std::printf("%d %s %-40.40s blocks %ld requested %lu compulsory %lu excess %.3f sectors %.3f conflicts %.4f tensor %lu f32 %lu\n", capability, dtype_name(dtype), k.kernel.c_str(), k.blocks, k.requested_bytes(), k.compulsory_bytes(), k.excess(), k.sector_efficiency(), k.bank_conflict_share(), k.tensor_flops, k.f32_flops);
    }
  }
}
