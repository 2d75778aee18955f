// The bound on memory-bound kernels, continued: softmax, batch normalisation, segments, gradient descent.
#include "base/kernels/batch_norm.h"
#include "base/kernels/optim_tables.h"
#include "base/kernels/segment.h"
#include "base/kernels/softmax.h"
#include "tests/cuda_profile/traffic.h"

using namespace expctr;
using namespace expctr::test;

namespace {

void softmax(DType dtype, std::int64_t rows, std::int64_t columns) {
  const Buffer x({rows, columns}, dtype), y({rows, columns}, dtype), dy({rows, columns}, dtype), dx({rows, columns}, dtype);
  launch(SoftmaxForward{1.0, false, x, {}, {}, y});
  launch(SoftmaxBackward{1.0, false, y, {}, {}, dy, dx});
}

}  // namespace

TEST_CASE("traffic: softmax") {
  check_body(4, [](DType dtype) {
    softmax(dtype, 4096, 576);
    softmax(dtype, 64, 16384);
  });
}

TEST_CASE("traffic: batch_norm") {
  const auto body = [](DType dtype) {
    const std::int64_t rows = 65536, width = 80;
    const Buffer x({rows, width}, dtype), y({rows, width}, dtype), dy({rows, width}, dtype), dx({rows, width}, dtype), gain({width}),
        bias({width}), mean({width}), inverse({width}), running_mean({width}), running_variance({width}), dgain({width}), dbias({width});
    launch(BatchNormForward{1e-5, 0.1, true, x, gain, bias, running_mean, running_variance, y, mean, inverse, {}});
    launch(BatchNormBackward{true, x, gain, mean, inverse, dy, dx, dgain, dbias, {}});
  };
  check_body(6, body);
}

TEST_CASE("traffic: sums of segments, gradient descent") {
  check_body(4, [](DType dtype) {
    const std::int64_t rows = 8192, width = 128, length = 32;
    const Buffer x({rows, width}, dtype), sums({rows / length, width}, dtype),
        offsets = Buffer::ids(every(rows / length + 1, static_cast<std::int32_t>(length))), p({1 << 20}), g({1 << 20}), v({1 << 20});
    launch(SegmentSumForward{x, offsets, sums});
    launch(SegmentSumBackward{sums, offsets, x});
    SgdTensor tensor{p, g, v};
    launch(SgdUpdate{0.1, 0.9, 1e-4, false, {}, &tensor, 1});
    tensor.velocity = {};
    launch(SgdUpdate{0.1, 0.0, 1e-4, false, {}, &tensor, 1});
  });
}
