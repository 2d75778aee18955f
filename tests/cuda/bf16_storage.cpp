// Kernels on bf16 storage against themselves on f32 (tests/ops compares those with float64), of the same values.
#include "base/kernels/arrange.h"
#include "base/kernels/batch_norm.h"
#include "base/kernels/reduce_extreme.h"
#include "base/kernels/segment.h"
#include "base/kernels/select.h"
#include "tests/cuda/stored.h"

using namespace expctr;
using namespace expctr::test;

namespace {

std::vector<float> random_stored(std::int64_t n, std::uint32_t seed) { return rounded_bf16(random_floats(n, seed)); }

const std::vector<std::int32_t> offsets = {0, 3, 3, 30, 41};  // of 44 rows

std::vector<float> as_floats(const DeviceTensor& ids) {
  const std::vector<std::int32_t> values = ids.read<std::int32_t>();
  return {values.begin(), values.end()};
}

}  // namespace

TEST_CASE("batch norm in both storages") {
  for (const std::int64_t width : {40, 33}) {
    const std::int64_t rows = 300;
    const Shape shape{rows, width};
    const std::vector<float> x = random_stored(rows * width, 1), dy = random_stored(rows * width, 2), gain = random_floats(width, 3),
                             bias = random_floats(width, 4), old = random_stored(rows * width, 5),
                             variance = random_floats(width, 6, 0.5, 1.5);
    in_both_storages([&](DType dtype) {
      const DeviceTensor xt = stored(x, shape, dtype), d = stored(dy, shape, dtype), y = DeviceTensor::output(shape, dtype),
                         dx = stored(old, shape, dtype);
      const DeviceTensor g(gain, {width}), b(bias, {width}), rm(bias, {width}), rv(variance, {width}),
          mean = DeviceTensor::output({width}), inverse = DeviceTensor::output({width}), dgain(gain, {width}), dbias(bias, {width});
      launch(BatchNormForward{1e-5, 0.1, true, xt, g, b, rm, rv, y, mean, inverse, {}});
      launch(BatchNormBackward{true, xt, g, mean, inverse, d, dx, dgain, dbias, {}});
      return std::vector<std::vector<float>>{read_stored(y), mean.read(),     inverse.read(), rm.read(),
                                             rv.read(),      read_stored(dx), dgain.read(),   dbias.read()};
    });
  }
}

TEST_CASE("segments in both storages") {
  for (const std::int64_t width : {24, 5}) {
    const std::vector<float> x = random_stored(44 * width, 1), dy = random_stored(4 * width, 2), old = random_stored(44 * width, 3);
    in_both_storages([&](DType dtype) {
      const DeviceTensor xt = stored(x, {44, width}, dtype), d = stored(dy, {4, width}, dtype), ot(offsets, {5}),
                         sum = DeviceTensor::output({4, width}, dtype), most = DeviceTensor::output({4, width}, dtype),
                         argument = DeviceTensor::output({4, width}, DType::i32), dsum = stored(old, {44, width}, dtype),
                         dmost = stored(old, {44, width}, dtype);
      launch(SegmentSumForward{xt, ot, sum});
      launch(SegmentSumBackward{d, ot, dsum});
      launch(SegmentMaxForward{xt, ot, most, argument});
      launch(SegmentMaxBackward{d, argument, dmost});
      return std::vector<std::vector<float>>{read_stored(sum), read_stored(dsum), read_stored(most), as_floats(argument),
                                             read_stored(dmost)};
    });
  }
}

TEST_CASE("extremes along each axis in both storages") {
  for (const Shape& shape : {Shape{5, 200, 1}, Shape{3, 77, 1}, Shape{2, 1500, 1}, Shape{3, 9, 16}, Shape{1, 100, 24}, Shape{1, 100, 7}}) {
    const std::int64_t outputs = shape[0] * shape[2];
    const std::vector<float> x = random_stored(elements(shape), 1), dy = random_stored(outputs, 2), old = random_stored(elements(shape), 3);
    in_both_storages([&](DType dtype) {
      const Shape rest{shape[0], shape[2]};
      const DeviceTensor xt = stored(x, shape, dtype), d = stored(dy, rest, dtype), y = DeviceTensor::output(rest, dtype),
                         index = DeviceTensor::output(rest, DType::i32), dx = stored(old, shape, dtype);
      launch(ExtremeForward{false, xt, y, index, {}});
      launch(ExtremeBackward{d, index, dx});
      return std::vector<std::vector<float>>{read_stored(y), as_floats(index), read_stored(dx)};
    });
  }
}

TEST_CASE("moving elements in both storages") {
  for (const std::int64_t width : {16, 3}) {
    const std::vector<float> x = random_stored(44 * width, 1), old = random_stored(4 * 10 * width, 2);
    const std::vector<std::int32_t> index = random_ids(2 * 9, 3, -2, 22);
    in_both_storages([&](DType dtype) {
      const DeviceTensor xt = stored(x, {44, width}, dtype), x3 = stored(x, {2, 22, width}, dtype), it(index, {2, 9}), ot(offsets, {5}),
                         copied = stored(old, {2, 20, width}, dtype), taken = DeviceTensor::output({2, 9, width}, dtype),
                         dx = stored(x, {2, 22, width}, dtype), padded = stored(old, {4, 10, width}, dtype),
                         packed = DeviceTensor::output({44, width}, dtype);
      launch(CopyAxis{7, 3, 11, true, x3, copied});
      launch(TakeAlong{false, x3, it, taken});
      launch(TakeAlongBackward{taken, it, dx});
      launch(PadRows{true, true, xt, ot, padded});
      launch(PackRows{true, false, padded, ot, packed});
      return std::vector<std::vector<float>>{read_stored(copied), read_stored(taken), read_stored(padded), read_stored(packed)};
    });
  }
}

TEST_CASE("the best entries in both storages") {
  for (const std::int64_t columns : {4096, 1683}) {
    const std::vector<float> x = random_stored(2 * columns, 1), dy = random_stored(2 * 30, 2),
                             old(static_cast<std::size_t>(2 * columns), 0.0f);
    in_both_storages([&](DType dtype) {
      const DeviceTensor xt = stored(x, {2, columns}, dtype), d = stored(dy, {2, 30}, dtype), values = DeviceTensor::output({2, 30}, dtype),
                         indices = DeviceTensor::output({2, 30}, DType::i32), dx = stored(old, {2, columns}, dtype);
      launch(TopK{xt, {}, {}, values, indices, {}});
      launch(TopKBackward{d, indices, dx});
      return std::vector<std::vector<float>>{read_stored(values), as_floats(indices), read_stored(dx)};
    });
  }
}
