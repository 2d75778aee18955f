#include "base/kernels/elementwise.h"

#include <doctest/doctest.h>

#include "base/blocks.h"
#include "base/scalar_math.h"
#include "tests/cuda/device_tensor.h"

using namespace expctr;
using namespace expctr::test;

namespace {

const std::vector<std::int64_t> sizes = {0, 1, 3, 4, 1023, 1025, 5000};

/// Offset of the element with y's linear index i in an operand of `shape`, by the definition of broadcasting.
std::int64_t broadcast_offset(std::int64_t i, const Shape& y, const Shape& shape) {
  std::int64_t offset = 0, stride = 1;
  for (int axis = static_cast<int>(y.size()) - 1; axis >= 0; --axis) {
    const std::int64_t place = i % y[axis];
    i /= y[axis];
    const int own = axis - static_cast<int>(y.size() - shape.size());
    if (own < 0) continue;
    if (shape[own] != 1) offset += place * stride;
    stride *= shape[own];
  }
  return offset;
}

}  // namespace

TEST_CASE("unary functions and their gradients, aligned and not") {
  const UnaryParameters parameters{0.5, 1.5};
  for (int f = 0; f <= static_cast<int>(Unary::elu); ++f)
    for (const std::int64_t n : {0, 1, 1023, 1028}) {
      const auto function = static_cast<Unary>(f);
      const bool positive = function == Unary::log || function == Unary::sqrt || function == Unary::rsqrt ||
                            function == Unary::reciprocal || function == Unary::log1p;
      const std::vector<float> x = random_floats(n, 1, positive ? 0.25f : -4.0f, 4), dy = random_floats(n, 2), old = random_floats(n, 3);
      for (const std::size_t shift : {0u, 4u}) {
        const DeviceTensor dx_x(x, {n}, shift), y = DeviceTensor::output({n}, DType::f32, shift), g(dy, {n}), dx(old, {n});
        launch(UnaryForward{function, dx_x, y, parameters});
        launch(UnaryBackward{function, dx_x, g, dx, parameters});
        const scalar::Parameters<double> exact(parameters);
        std::vector<double> value, gradient;
        for (std::int64_t i = 0; i < n; ++i) {
          value.push_back(scalar::evaluate(function, static_cast<double>(x[i]), exact));
          gradient.push_back(old[i] + dy[i] * scalar::derivative(function, static_cast<double>(x[i]), exact));
        }
        check_close(y.read(), value);
        check_close(dx.read(), gradient, 4);
      }
    }
}

TEST_CASE("extreme arguments neither overflow nor give NaN") {
  const std::vector<float> x = {-200, -90, 0, 90, 200};
  for (const Unary function : {Unary::sigmoid, Unary::silu, Unary::softplus, Unary::gelu, Unary::gelu_tanh, Unary::tanh}) {
    const DeviceTensor input(x, {5}), y = DeviceTensor::output({5});
    launch(UnaryForward{function, input, y});
    for (const float value : y.read()) CHECK(std::isfinite(value));
  }
}

TEST_CASE("binary operations broadcast") {
  struct Case {
    Shape a, b, y;
  };
  const std::vector<Case> cases = {{{5}, {5}, {5}},
                                   {{0, 3}, {3}, {0, 3}},
                                   {{1}, {1}, {1}},
                                   {{7, 12}, {12}, {7, 12}},
                                   {{7, 13}, {13}, {7, 13}},
                                   {{7, 12}, {7, 1}, {7, 12}},
                                   {{12}, {7, 1}, {7, 12}},
                                   {{2, 1, 4, 1, 8}, {3, 1, 5, 8}, {2, 3, 4, 5, 8}},
                                   {{2, 3, 4}, {1}, {2, 3, 4}},
                                   {{2, 1, 3}, {2, 5, 3}, {2, 5, 3}},
                                   {{300, 70}, {70}, {300, 70}},
                                   {{6000}, {1}, {6000}},
                                   {{2, 300, 8}, {2, 1, 8}, {2, 300, 8}},
                                   {{1400, 200}, {200}, {1400, 200}},
                                   {{3, 700}, {3, 1}, {3, 700}}};
  for (const Case& c : cases)
    for (const Binary function :
         {Binary::add, Binary::subtract, Binary::multiply, Binary::divide, Binary::maximum, Binary::minimum, Binary::power, Binary::less})
      for (const std::size_t shift : {0u, 4u}) {
        if (elements(c.y) > 100000 && function != Binary::add && function != Binary::divide) continue;
        const bool positive = function == Binary::divide || function == Binary::power;
        const float low = positive ? 0.5f : -1.0f, high = positive ? 2.0f : 1.0f;
        const std::vector<float> a = random_floats(elements(c.a), 1, low, high), b = random_floats(elements(c.b), 2, low, high),
                                 dy = random_floats(elements(c.y), 3), old_a = random_floats(elements(c.a), 4),
                                 old_b = random_floats(elements(c.b), 5);
        const DeviceTensor at(a, c.a, shift), bt(b, c.b), y = DeviceTensor::output(c.y), g(dy, c.y), da(old_a, c.a), db(old_b, c.b),
                                                          only(old_b, c.b);
        launch(BinaryForward{function, at, bt, y});
        launch(BinaryBackward{function, at, bt, g, da, db, {}});
        launch(BinaryBackward{function, at, bt, g, {}, only, {}});
        std::vector<double> value, want_a(old_a.begin(), old_a.end()), want_b(old_b.begin(), old_b.end());
        for (std::int64_t i = 0; i < elements(c.y); ++i) {
          const std::int64_t ia = broadcast_offset(i, c.y, c.a), ib = broadcast_offset(i, c.y, c.b);
          const double p = a[ia], q = b[ib], d = dy[i];
          double of_a = 0, of_b = 0;
          switch (function) {
            case Binary::add:
              value.push_back(p + q);
              of_a = of_b = 1;
              break;
            case Binary::subtract:
              value.push_back(p - q);
              of_a = 1;
              of_b = -1;
              break;
            case Binary::multiply:
              value.push_back(p * q);
              of_a = q;
              of_b = p;
              break;
            case Binary::divide:
              value.push_back(p / q);
              of_a = 1 / q;
              of_b = -p / q / q;
              break;
            case Binary::maximum:
              value.push_back(p > q ? p : q);
              of_a = p > q ? 1 : 0;
              of_b = 1 - of_a;
              break;
            case Binary::minimum:
              value.push_back(p < q ? p : q);
              of_a = p < q ? 1 : 0;
              of_b = 1 - of_a;
              break;
            case Binary::power:
              value.push_back(std::exp(q * std::log(p)));
              of_a = q / p * value.back();
              of_b = std::log(p) * value.back();
              break;
            default:
              value.push_back(p < q ? 1 : 0);
          }
          want_a[ia] += d * of_a;
          want_b[ib] += d * of_b;
        }
        const double terms_a = a.empty() ? 1 : static_cast<double>(dy.size()) / a.size(),
                     terms_b = b.empty() ? 1 : static_cast<double>(dy.size()) / b.size();
        check_close(y.read(), value, 4);
        check_close(da.read(), want_a, 16 * terms_a);
        check_close(db.read(), want_b, 16 * terms_b);
        check_close(only.read(), want_b, 16 * terms_b);
      }
}

TEST_CASE("broadcast gradients have the same bits every time") {
  const std::vector<float> a = random_floats(300 * 70, 1), b = random_floats(70, 2), dy = random_floats(300 * 70, 3), zero(70);
  const DeviceTensor at(a, {300, 70}), bt(b, {70}), g(dy, {300, 70}), first(zero, {70}), second(zero, {70});
  launch(BinaryBackward{Binary::multiply, at, bt, g, {}, first, {}});
  launch(BinaryBackward{Binary::multiply, at, bt, g, {}, second, {}});
  CHECK(first.read() == second.read());
}

TEST_CASE("affine, axpy and fill") {
  for (const std::int64_t n : sizes) {
    const std::vector<float> x = random_floats(n, 1), old = random_floats(n, 2);
    const DeviceTensor xt(x, {n}), y = DeviceTensor::output({n}), sum(old, {n}, 4), constant = DeviceTensor::output({n}),
                                   ids = DeviceTensor::output({n}, DType::i32), shifted = DeviceTensor::output({n}, DType::f32, 4),
                                   mask = DeviceTensor::output({n}, DType::u8);
    launch(Affine{2.5, -1, xt, y});
    launch(Axpy{-0.5, xt, sum});
    launch(Fill{3.25, constant});
    launch(Fill{-7, ids});
    launch(Fill{3.25, shifted});
    launch(Fill{1, mask});
    CHECK(shifted.read() == constant.read());
    CHECK(mask.read<std::uint8_t>() == std::vector<std::uint8_t>(static_cast<std::size_t>(n), 1));
    std::vector<double> affine, axpy;
    for (std::int64_t i = 0; i < n; ++i) {
      affine.push_back(2.5 * x[i] - 1);
      axpy.push_back(old[i] - 0.5 * x[i]);
    }
    check_close(y.read(), affine);
    check_close(sum.read(), axpy);
    check_close(constant.read(), std::vector<double>(static_cast<std::size_t>(n), 3.25), 0);
    CHECK(ids.read<std::int32_t>() == std::vector<std::int32_t>(static_cast<std::size_t>(n), -7));
  }
}

TEST_CASE("convert between float formats is exact or rounds to nearest") {
  for (const std::int64_t n : {0, 1, 1502}) {
    const std::vector<float> x = random_floats(n, 1, -100, 100);
    const DeviceTensor xt(x, {n}), d = DeviceTensor::output({n}, DType::f64), h = DeviceTensor::output({n}, DType::bf16),
                                   shifted = DeviceTensor::output({n}, DType::bf16, 4), back = DeviceTensor::output({n}),
                                   half_back = DeviceTensor::output({n});
    launch(Convert{xt, d});
    launch(Convert{d, back});
    launch(Convert{xt, h});
    launch(Convert{xt, shifted});
    CHECK(shifted.read<std::uint16_t>() == h.read<std::uint16_t>());
    launch(Convert{h, half_back});
    CHECK(back.read() == x);
    std::vector<float> rounded;
    for (const float value : x) rounded.push_back(float_of_bf16(bf16_of_float(value)));
    CHECK(half_back.read() == rounded);
  }
}

TEST_CASE("convert dequantises with the bits of base/blocks.h") {
  constexpr int blocks = 9;
  std::vector<std::int32_t> raw = random_ids(blocks * 210 + 64, 5, 0, 256);
  std::vector<unsigned char> bytes(raw.begin(), raw.end());
  const auto check = [&](DType dtype, auto block_example, int per_block) {
    using Block = decltype(block_example);
    std::vector<Block> data(blocks);
    std::memcpy(data.data(), bytes.data(), blocks * sizeof(Block));
    std::vector<float> expected;
    for (const Block& block : data)
      for (int i = 0; i < per_block; ++i) expected.push_back(dequantise(block, i));
    const DeviceTensor x(dtype, {blocks * per_block}, data.data()), y = DeviceTensor::output({blocks * per_block});
    launch(Convert{x, y});
    const std::vector<float> actual = y.read();
    bool same = true;
    for (std::size_t i = 0; i < expected.size(); ++i)
      same = same && (bits_of_float(actual[i]) == bits_of_float(expected[i]) || (std::isnan(actual[i]) && std::isnan(expected[i])));
    CHECK_MESSAGE(same, dtype_name(dtype));
  };
  check(DType::q4_0, BlockQ4_0{}, 32);
  check(DType::q4_1, BlockQ4_1{}, 32);
  check(DType::q5_0, BlockQ5_0{}, 32);
  check(DType::q5_1, BlockQ5_1{}, 32);
  check(DType::q8_0, BlockQ8_0{}, 32);
  check(DType::q4_k, BlockQ4_K{}, 256);
  check(DType::q5_k, BlockQ5_K{}, 256);
  check(DType::q6_k, BlockQ6_K{}, 256);
}

TEST_CASE("swiglu and its gradients") {
  for (const std::int64_t n : sizes) {
    const std::vector<float> gate = random_floats(n, 1, -3, 3), up = random_floats(n, 2), dy = random_floats(n, 3),
                             og = random_floats(n, 4), ou = random_floats(n, 5);
    const DeviceTensor gt(gate, {n}), ut(up, {n}), y = DeviceTensor::output({n}), d(dy, {n}), dg(og, {n}), du(ou, {n}), alone(ou, {n});
    launch(SwigluForward{gt, ut, y});
    launch(SwigluBackward{gt, ut, d, dg, du});
    launch(SwigluBackward{gt, ut, d, {}, alone});
    std::vector<double> value, want_g, want_u;
    for (std::int64_t i = 0; i < n; ++i) {
      value.push_back(scalar::silu<double>(gate[i]) * up[i]);
      want_g.push_back(og[i] + static_cast<double>(dy[i]) * up[i] * scalar::silu_derivative<double>(gate[i]));
      want_u.push_back(ou[i] + dy[i] * scalar::silu<double>(gate[i]));
    }
    check_close(y.read(), value, 2);
    check_close(dg.read(), want_g, 4);
    check_close(du.read(), want_u, 4);
    check_close(alone.read(), want_u, 4);
  }
}

TEST_CASE("dropout keeps what philox says, by sample id and column") {
  for (const std::int64_t width : {1, 7, 64})
    for (const std::int64_t rows : {0, 1, 9}) {
      const std::vector<float> x = random_floats(rows * width, 1), old = random_floats(rows * width, 2);
      const std::vector<std::int32_t> sample = random_ids(rows, 3, 0, 1000);
      const DeviceTensor xt(x, {rows, width}), st(sample, {rows}), y = DeviceTensor::output({rows, width}), sum(old, {rows, width});
      launch(Dropout{0.3f, 11, 22, 5, 6, false, xt, st, y});
      launch(Dropout{0.3f, 11, 22, 5, 6, true, xt, st, sum});
      std::vector<double> value, accumulated;
      for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t c = 0; c < width; ++c) {
          const RandomBits bits = philox({11, 22}, {5, static_cast<std::uint32_t>(sample[r]), static_cast<std::uint32_t>(c / 4), 6});
          const bool keep = uniform_float(bits.word[c % 4]) >= 0.3f;
          value.push_back(keep ? x[r * width + c] / (1.0 - static_cast<double>(0.3f)) : 0.0);
          accumulated.push_back(old[r * width + c] + value.back());
        }
      check_close(y.read(), value);
      check_close(sum.read(), accumulated);
    }
}
