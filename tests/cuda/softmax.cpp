#include "base/kernels/softmax.h"

#include "tests/cuda/stored.h"

using namespace expctr;
using namespace expctr::test;

namespace {

struct Reference {
  std::vector<double> y, dx;
};

Reference plain(const std::vector<float>& x, const std::vector<float>& dy, const std::vector<float>& old, std::int64_t rows,
                std::int64_t columns, const std::vector<std::uint8_t>& mask, double scale, bool logarithm) {
  Reference result{std::vector<double>(x.size()), {old.begin(), old.end()}};
  for (std::int64_t r = 0; r < rows; ++r) {
    const auto counts = [&](std::int64_t c) { return mask.empty() || mask[static_cast<std::size_t>(c)] != 0; };
    const std::int64_t row = r * columns;
    double most = -INFINITY, sum = 0, total = 0;
    for (std::int64_t c = 0; c < columns; ++c)
      if (counts(c)) most = std::max(most, scale * x[row + c]);
    for (std::int64_t c = 0; c < columns; ++c)
      if (counts(c)) sum += std::exp(scale * x[row + c] - most);
    for (std::int64_t c = 0; c < columns; ++c) {
      if (!counts(c)) continue;
      const double shifted = scale * x[row + c] - most, p = std::exp(shifted) / sum;
      result.y[row + c] = logarithm ? shifted - std::log(sum) : p;
      total += logarithm ? dy[row + c] : dy[row + c] * p;
    }
    for (std::int64_t c = 0; c < columns; ++c) {
      if (!counts(c)) continue;
      const double p = logarithm ? std::exp(result.y[row + c]) : result.y[row + c];
      result.dx[row + c] += scale * (logarithm ? dy[row + c] - p * total : p * (dy[row + c] - total));
    }
  }
  return result;
}

}  // namespace

TEST_CASE("softmax: every way to hold a row, in both storages, aligned or not, masked or not") {
  struct Case {
    std::int64_t rows, columns;
    std::size_t shift;
    bool masked, logarithm;
  };
  // A warp, a block, registers of a wide block, shared memory, read again; rows that are not whole packets.
  for (const Case& c : {Case{9, 24, 0, false, false}, Case{3, 1000, 0, true, true}, Case{2, 8192, 0, false, true},
                        Case{1, 20480, 0, true, false}, Case{1, 49152, 0, false, false}, Case{1, 98304, 0, true, true},
                        Case{5, 77, 0, true, false}, Case{2, 2051, 0, false, true}, Case{3, 128, 4, false, false}}) {
    CAPTURE(c.columns);
    CAPTURE(c.shift);
    const std::int64_t n = c.rows * c.columns;
    const std::vector<float> x = rounded_bf16(random_floats(n, 1, -4, 4)), dy = rounded_bf16(random_floats(n, 2)),
                             old = rounded_bf16(random_floats(n, 3));
    std::vector<std::uint8_t> mask;
    for (std::int64_t i = 0; c.masked && i < c.columns; ++i) mask.push_back(i % 5 != 2);
    const Shape shape{c.rows, c.columns};
    std::vector<std::vector<float>> outputs;
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const DeviceTensor xt = stored(x, shape, dtype, c.shift), d = stored(dy, shape, dtype), dx = stored(old, shape, dtype),
                         y = DeviceTensor::output(shape, dtype);
      const DeviceTensor mt(mask, {c.masked ? 1 : 0, c.columns});
      const View mask_view = c.masked ? mt.view() : View{};
      launch(SoftmaxForward{0.5, c.logarithm, xt, mask_view, {}, y});
      launch(SoftmaxBackward{0.5, c.logarithm, y, mask_view, {}, d, dx});
      outputs.push_back(read_stored(y));
      outputs.push_back(read_stored(dx));
    }
    const Reference want = plain(x, dy, old, c.rows, c.columns, mask, 0.5, c.logarithm);
    check_close(outputs[0], want.y, static_cast<double>(c.columns));
    check_close(outputs[1], want.dx, static_cast<double>(c.columns));
    check_rounded(outputs[2], outputs[0]);
    // dx comes from a y that has been rounded: of the logarithm up to 2^-9 of 15.
    check_close(outputs[3], want.dx, 1, c.logarithm ? 0x1p-8 * 15 / 6 : 0x1p-8);
  }
}
