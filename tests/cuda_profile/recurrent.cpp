// Traffic, bank conflicts and tensor work of the recurrent, nearest-code, sparse and Cholesky kernels, as the virtual GPU counts them.
#include "base/kernels/recurrent.h"

#include <doctest/doctest.h>

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
  const Shape steps{size.batch, size.time, size.hidden}, gates{size.batch, size.time, columns}, rows{size.batch, size.hidden},
      scores{size.batch, size.time};
  const bool is_lstm = cell == RecurrentCell::lstm, weighted = cell == RecurrentCell::augru;
  const DeviceTensor projected = stored(1, gates, dtype), attention = stored(2, scores, dtype, 0, 1),
                     weight = stored(3, {columns, size.hidden}, DType::f32, -0.2f, 0.2f), bias = stored(4, {columns}, DType::f32),
                     dstates = stored(5, steps, dtype), dlast = stored(6, rows, dtype);
  const DeviceTensor states = DeviceTensor::output(steps, dtype), last = DeviceTensor::output(rows, dtype),
                     last_cell = DeviceTensor::output(rows, dtype),
                     saved = DeviceTensor::output({size.batch, size.time, 4 * size.hidden}, dtype),
                     cells = DeviceTensor::output(steps, dtype);
  const DeviceTensor dprojected = stored(7, gates, dtype), dweight = stored(8, {columns, size.hidden}, DType::f32),
                     dbias = stored(9, {columns}, DType::f32), dattention = stored(10, scores, dtype);
  const auto maybe = [](bool there, const DeviceTensor& tensor) { return there ? tensor.view() : View{}; };
  launch(RecurrentForward{cell,
                          projected,
                          weight,
                          bias,
                          bias,
                          maybe(weighted, attention),
                          {},
                          {},
                          {},
                          states,
                          last,
                          maybe(is_lstm, last_cell),
                          saved,
                          maybe(is_lstm, cells),
                          {}});
  launch(RecurrentBackward{
      cell,  weight, maybe(weighted, attention),  {}, {}, {}, states, saved, maybe(is_lstm, cells), dstates, dlast, {}, dprojected, dweight,
      dbias, dbias,  maybe(weighted, dattention), {}, {}, {}});
}

}  // namespace

TEST_CASE("recurrent kernels: the bytes of their headers, whole sectors, no bank conflicts, no wasted tensor work") {
  for (const int capability : {80, 90}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (const RecurrentCell cell : {RecurrentCell::gru, RecurrentCell::augru, RecurrentCell::lstm}) {
        const LayerSize size{64, 4, 64};
        const LaunchProfile profile = profile_launches(capability, [&] { run_layer(cell, dtype, size); }, {.checks = "none"});
        if (!profile.here) return skip_test(no_launch_profile);
        const bool half = dtype == DType::bf16, is_lstm = cell == RecurrentCell::lstm;
        const KernelLaunch forward = profile.only(half ? "recurrent_forward_bf16_kernel" : "recurrent_forward_kernel"),
                           backward = profile.only(half ? "recurrent_backward_bf16_kernel" : "recurrent_backward_kernel");
        const double value = half ? 2 : 4, steps = static_cast<double>(size.batch * size.time), hidden = static_cast<double>(size.hidden),
                     gates = recurrent_gates(cell);
        const double weights = value * gates * hidden * hidden, rows = value * static_cast<double>(size.batch) * hidden;
        // A lane reads its row's score itself: once a unit in the worst case.
        const double scores = cell == RecurrentCell::augru ? 4 * steps * hidden : 0;
        CHECK(static_cast<double>(forward.requested_bytes()) <= value * steps * hidden * (gates + (is_lstm ? 6 : 5)) +
                                                                    static_cast<double>(forward.blocks) * (weights + 8 * gates * hidden) +
                                                                    2 * rows + scores);
        CHECK(static_cast<double>(backward.requested_bytes()) <=
              value * steps * hidden * (is_lstm ? 21 : 17) + static_cast<double>(backward.blocks) * weights + rows + scores);
        for (const KernelLaunch& kernel : {forward, backward}) {
          CHECK(kernel.sector_efficiency() >= 0.9);
          CHECK(kernel.bank_conflict_share() < 0.05);
          CHECK(kernel.atomics == 0);
          CHECK(static_cast<double>(kernel.tensor_flops) <= (half ? 1.15 : 0.0) * 2 * steps * gates * hidden * hidden);
          if (half) CHECK(static_cast<double>(kernel.tensor_flops) >= 2 * steps * gates * hidden * hidden);
        }
        CHECK(profile.library_calls.size() == (is_lstm ? 3 : 4));  // the weight's gradient, and sums of columns for the biases
      }
    }
  }
}

TEST_CASE("nearest codes: the bytes of the header, no bank conflicts, no wasted tensor work") {
  const std::int64_t rows = 128, codes = 512, width = 64;
  for (const int capability : {80, 90}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const LaunchProfile profile = profile_launches(capability,
                                                     [&] {
                                                       const DeviceTensor x = stored(1, {rows, width}, dtype),
                                                                          codebook = stored(2, {codes, width}, dtype),
                                                                          indices = DeviceTensor::output({rows, 16}, DType::i32),
                                                                          distances = DeviceTensor::output({rows, 16});
                                                       launch(NearestCodes{x, codebook, indices, distances, {}});
                                                     },
                                                     {.checks = "none"});
      if (!profile.here) return skip_test(no_launch_profile);
      const bool half = dtype == DType::bf16;
      const KernelLaunch kernel = profile.only(half ? "nearest_bf16_kernel" : "nearest_f32_kernel");
      const double value = half ? 2 : 4, blocks = static_cast<double>(rows / 64), tiles = static_cast<double>(codes / 64),
                   block = value * 64 * static_cast<double>(width);
      const double code_lengths = blocks * static_cast<double>(codes) * 4 * 8, results = static_cast<double>(rows) * 16 * 8;
      CHECK(static_cast<double>(kernel.requested_bytes()) <=
            blocks * tiles * block * (half ? 1 : 2) + 2 * blocks * block + code_lengths + results);
      CHECK(kernel.bank_conflict_share() < 0.05);
      CHECK(kernel.atomics == 0);
      CHECK(kernel.tensor_flops == (half ? static_cast<std::uint64_t>(2 * rows * codes * width) : 0u));
    }
  }
}

TEST_CASE("sparse products and Cholesky factors: no atomics, no bank conflicts") {
  for (const int capability : {80, 90}) {
    const LaunchProfile profile = profile_launches(
        capability,
        [&] {
          std::vector<std::int32_t> offsets = {0};
          for (int r = 0; r < 128; ++r) offsets.push_back(offsets.back() + (r == 5 ? 600 : r % 9));
          const DeviceTensor starts(offsets, {129}), columns(random_ids(offsets.back(), 3, 0, 512), {offsets.back()}),
              values = stored(4, {offsets.back()}, DType::f32), x = stored(2, {512, 64}, DType::f32), y = DeviceTensor::output({128, 64});
          launch(SparseMatMul{false, starts, columns, values, x, y});
          std::vector<float> a(96 * 96);
          for (int i = 0; i < 96; ++i) a[static_cast<std::size_t>(i * 97)] = 2;
          const DeviceTensor matrix(a, {1, 96, 96}), factor = DeviceTensor::output({1, 96, 96}),
                                                     status = DeviceTensor::output({1}, DType::i32), b = stored(5, {1, 96, 64}, DType::f32),
                                                     solution = DeviceTensor::output({1, 96, 64});
          launch(Cholesky{matrix, factor, status});
          launch(CholeskySolve{false, factor, b, solution});
        },
        {.checks = "none"});
    if (!profile.here) return skip_test(no_launch_profile);
    for (const char* name : {"sparse_matmul_kernel", "cholesky_kernel", "cholesky_solve_kernel"}) {
      CAPTURE(name);
      const KernelLaunch kernel = profile.only(name);
      CHECK(kernel.atomics == 0);
      CHECK(kernel.bank_conflict_share() < 0.05);
    }
  }
}
