#include "base/kernels/elementwise.h"

#include "base/blocks.h"
#include "base/philox.h"
#include "base/scalar_math.h"
#include "cpu/float_math.h"
#include "guarded.h"

using namespace expctr;
using namespace expctr::kernel_test;

namespace {

/// Of clamp, leaky_relu and elu.
constexpr UnaryParameters parameters{0.5, 1.5};

double naive(Unary function, double x) {
  switch (function) {
    case Unary::relu:
      return std::max(0.0, x);
    case Unary::sigmoid:
      return 1 / (1 + std::exp(-x));
    case Unary::tanh:
      return (std::exp(2 * x) - 1) / (std::exp(2 * x) + 1);
    case Unary::silu:
      return x / (1 + std::exp(-x));
    case Unary::gelu:
      return x * 0.5 * std::erfc(-x / std::sqrt(2.0));
    case Unary::gelu_tanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Unary::exp:
      return std::exp(x);
    case Unary::log:
      return std::log(x);
    case Unary::square:
      return x * x;
    case Unary::softplus:
      return std::log(1 + std::exp(x));
    case Unary::sqrt:
      return std::exp(0.5 * std::log(x));
    case Unary::rsqrt:
      return std::exp(-0.5 * std::log(x));
    case Unary::absolute:
      return std::max(x, -x);
    case Unary::negate:
      return 0 - x;
    case Unary::reciprocal:
      return std::exp(-std::log(x));
    case Unary::log1p:
      return std::log(1 + x);
    case Unary::softsign:
      return x / (1 + std::max(x, -x));
    case Unary::clamp:
      return std::min(std::max(x, parameters.a), parameters.b);
    case Unary::leaky_relu:
      return std::max(0.0, x) + parameters.a * std::min(0.0, x);
    case Unary::elu:
      return x > 0 ? x : parameters.a * (std::exp(x) - 1);
  }
  return 0;
}

/// Fourth-order difference, good to about 1e-11; from one side where the function has a corner nearby.
double naive_slope(Unary function, double x) {
  const double h = 1e-4;
  const auto corner_near = [&](double corner) { return std::abs(x - corner) < 3 * h; };
  double at = x;
  switch (function) {
    case Unary::relu:
    case Unary::absolute:
    case Unary::leaky_relu:
      if (corner_near(0)) at = x > 0 ? 1 : -1;
      break;
    case Unary::clamp:
      if (corner_near(parameters.a)) at = x < parameters.a ? parameters.a - 1 : parameters.a + 1;
      if (corner_near(parameters.b)) at = x > parameters.b ? parameters.b + 1 : parameters.b - 1;
      break;
    case Unary::elu:
      if (corner_near(0)) return x > 0 ? 1 : parameters.a * std::exp(x);
      break;
    case Unary::softsign:
      if (corner_near(0)) return 1 / ((1 + std::abs(x)) * (1 + std::abs(x)));
      break;
    default:
      break;
  }
  return (8 * (naive(function, at + h) - naive(function, at - h)) - (naive(function, at + 2 * h) - naive(function, at - 2 * h))) / (12 * h);
}

/// Least argument that a function is tried at.
double lowest(Unary function) {
  switch (function) {
    case Unary::log:
    case Unary::sqrt:
    case Unary::rsqrt:
    case Unary::reciprocal:
      return 0.2;
    case Unary::log1p:
      return -0.8;
    default:
      return -4;
  }
}

std::vector<std::int64_t> aligned(const std::vector<std::int64_t>& shape) {
  std::vector<std::int64_t> result(5, 1);
  std::copy(shape.begin(), shape.end(), result.end() - static_cast<std::ptrdiff_t>(shape.size()));
  return result;
}

/// Place in an operand of `shape` of the element of y at `index`.
std::size_t operand_place(const std::vector<std::int64_t>& shape, const std::int64_t* index) {
  const std::vector<std::int64_t> extents = aligned(shape);
  std::int64_t place = 0;
  for (std::size_t i = 0; i < 5; ++i) place = place * extents[i] + (extents[i] == 1 ? 0 : index[i]);
  return static_cast<std::size_t>(place);
}

template <class Visit>
void for_every_index(const std::vector<std::int64_t>& shape, Visit visit) {
  const std::vector<std::int64_t> e = aligned(shape);
  std::int64_t i[5];
  for (i[0] = 0; i[0] < e[0]; ++i[0])
    for (i[1] = 0; i[1] < e[1]; ++i[1])
      for (i[2] = 0; i[2] < e[2]; ++i[2])
        for (i[3] = 0; i[3] < e[3]; ++i[3])
          for (i[4] = 0; i[4] < e[4]; ++i[4]) visit(i);
}

std::int64_t product(const std::vector<std::int64_t>& shape) {
  std::int64_t n = 1;
  for (const std::int64_t extent : shape) n *= extent;
  return n;
}

View shaped(View view, const std::vector<std::int64_t>& shape) {
  view.rank = static_cast<int>(shape.size());
  std::copy(shape.begin(), shape.end(), view.shape);
  return view;
}

}  // namespace

TEST_CASE_TEMPLATE("unary functions and their derivatives", T, float, double) {
  for (int f = 0; f <= static_cast<int>(Unary::elu); ++f) {
    const auto function = static_cast<Unary>(f);
    for (const std::int64_t n : {0, 1, 7, 33, 9001}) {
      CAPTURE(static_cast<int>(function));
      CAPTURE(n);
      const std::vector<T> x = values<T>(n, 1, lowest(function), 4), dy = values<T>(n, 2), dx0 = values<T>(n, 3);
      const auto results = on_one_and_two_threads([&] {
        Guarded<T> vx({n}, x), vy({n}, std::vector<T>(x.size())), vdy({n}, dy), vdx({n}, dx0);
        cpu::run(UnaryForward{function, vx.view(), vy.view(), parameters}, {});
        cpu::run(UnaryBackward{function, vx.view(), vdy.view(), vdx.view(), parameters}, {});
        CHECK(vx.values() == x);
        return Outputs<T>{vy.values(), vdx.values()};
      });
      std::vector<double> y, dx;
      for (std::size_t i = 0; i < x.size(); ++i) {
        const double at = static_cast<double>(x[i]);
        y.push_back(naive(function, at));
        const double slope = naive_slope(function, at);
        dx.push_back(static_cast<double>(dx0[i]) + static_cast<double>(dy[i]) * slope);
      }
      check_close(results[0], y, 4);
      check_close(results[1], dx, sizeof(T) == 4 ? 4 : 1e3);
    }
  }
}

TEST_CASE("float exp is within 2 ulp, erf within 3, tanh and sigmoid within 4") {
  const auto ulps = [](float a, double exact) {
    const float rounded = static_cast<float>(exact), unit = std::nextafter(std::abs(rounded), INFINITY) - std::abs(rounded);
    return std::abs(static_cast<double>(a) - exact) / static_cast<double>(unit);
  };
  double worst_exp = 0, worst_tanh = 0, worst_erf = 0, worst_sigmoid = 0;
  for (int i = 0; i <= 2000000; ++i) {
    const float x = -86.0f + 174.0f * static_cast<float>(i) / 2e6f;
    worst_exp = std::max(worst_exp, ulps(cpu::float_math::exp(x), std::exp(static_cast<double>(x))));
    const float t = x * 0.12f;
    worst_tanh = std::max(worst_tanh, ulps(cpu::float_math::tanh(t), std::tanh(static_cast<double>(t))));
    worst_erf = std::max(worst_erf, ulps(cpu::float_math::erf(t), std::erf(static_cast<double>(t))));
    worst_sigmoid = std::max(worst_sigmoid, ulps(cpu::float_math::sigmoid(t), 1 / (1 + std::exp(-static_cast<double>(t)))));
  }
  CHECK(worst_exp <= 2);
  CHECK(worst_tanh <= 4);
  CHECK(worst_erf <= 3);
  CHECK(worst_sigmoid <= 4);
  CHECK(cpu::float_math::exp(0.0f) == 1.0f);
  CHECK(cpu::float_math::exp(-INFINITY) == 0.0f);
  CHECK(cpu::float_math::exp(INFINITY) == INFINITY);
  CHECK(cpu::float_math::exp(89.0f) == INFINITY);
  CHECK(cpu::float_math::exp(88.7f) == doctest::Approx(std::exp(88.7f)).epsilon(1e-6));
  CHECK(cpu::float_math::exp(-100.0f) == doctest::Approx(std::exp(-100.0f)).epsilon(0.1));
  CHECK(std::isnan(cpu::float_math::exp(NAN)));
  CHECK(std::isnan(cpu::float_math::tanh(NAN)));
  CHECK(cpu::float_math::tanh(INFINITY) == 1.0f);
  CHECK(cpu::float_math::tanh(-INFINITY) == -1.0f);
  CHECK(std::isnan(cpu::float_math::erf(NAN)));
  CHECK(cpu::float_math::erf(INFINITY) == 1.0f);
  CHECK(cpu::float_math::erf(-INFINITY) == -1.0f);
  CHECK(cpu::float_math::sigmoid(-1000.0f) == 0.0f);
  CHECK(cpu::float_math::sigmoid(1000.0f) == 1.0f);
}

TEST_CASE("an element's bits do not depend on its place") {
  const std::vector<float> x = values<float>(203, 5, -6, 6);
  for (int f = 0; f <= static_cast<int>(Unary::elu); ++f) {
    const auto function = static_cast<Unary>(f);
    Guarded<float> vx({203}, x), vy({203}, std::vector<float>(203));
    cpu::run(UnaryForward{function, vx.view(), vy.view(), parameters}, {});
    for (std::size_t i : {0u, 8u, 100u, 199u, 202u}) {
      Guarded<float> one({1}, {x[i]}), alone({1}, {0.0f});
      cpu::run(UnaryForward{function, one.view(), alone.view(), parameters}, {});
      const float here = vy.values()[i], there = alone.values()[0];
      CHECK(std::memcmp(&here, &there, sizeof here) == 0);
    }
  }
}

TEST_CASE_TEMPLATE("binary functions broadcast, forward and backward", T, float, double) {
  using Shape = std::vector<std::int64_t>;
  const std::vector<std::array<Shape, 3>> cases = {
      {Shape{}, Shape{}, Shape{}},
      {Shape{1}, Shape{1}, Shape{1}},
      {Shape{7}, Shape{7}, Shape{7}},
      {Shape{0, 3}, Shape{3}, Shape{0, 3}},
      {Shape{5, 3}, Shape{3}, Shape{5, 3}},
      {Shape{3}, Shape{5, 3}, Shape{5, 3}},
      {Shape{5, 1}, Shape{5, 3}, Shape{5, 3}},
      {Shape{5, 3}, Shape{}, Shape{5, 3}},
      {Shape{5, 1}, Shape{1, 3}, Shape{5, 3}},
      {Shape{2, 1, 4, 1}, Shape{3, 1, 5}, Shape{2, 3, 4, 5}},
      {Shape{2, 3, 2, 3, 2}, Shape{1, 3, 1, 3, 1}, Shape{2, 3, 2, 3, 2}},
      {Shape{1, 3, 1, 3, 2}, Shape{2, 1, 2, 1, 2}, Shape{2, 3, 2, 3, 2}},
      {Shape{301, 130}, Shape{130}, Shape{301, 130}},
      {Shape{301, 130}, Shape{301, 1}, Shape{301, 130}},
      {Shape{301, 130}, Shape{301, 130}, Shape{301, 130}},
      {Shape{40000}, Shape{1}, Shape{40000}},
  };
  for (const Binary function : {Binary::add, Binary::subtract, Binary::multiply}) {
    for (const auto& [sa, sb, sy] : cases) {
      CAPTURE(static_cast<int>(function));
      CAPTURE(&sa - &cases[0][0]);
      const std::int64_t na = product(sa), nb = product(sb), n = product(sy);
      const std::vector<T> a = values<T>(na, 1), b = values<T>(nb, 2), dy = values<T>(n, 3), da0 = values<T>(na, 4), db0 = values<T>(nb, 5);
      const auto results = on_one_and_two_threads([&] {
        Guarded<T> va({na}, a), vb({nb}, b), vy({n}, std::vector<T>(dy.size())), vdy({n}, dy), vda({na}, da0), vdb({nb}, db0);
        const View wa = shaped(va.view(), sa), wb = shaped(vb.view(), sb), wdy = shaped(vdy.view(), sy);
        cpu::run(BinaryForward{function, wa, wb, shaped(vy.view(), sy)}, {});
        const BinaryBackward both{function, wa, wb, wdy, shaped(vda.view(), sa), shaped(vdb.view(), sb), {}};
        CHECK(cpu::scratch_bytes(both) == 0);
        cpu::run(both, {});
        // One gradient alone: the same bits.
        Guarded<T> only_a({na}, da0), only_b({nb}, db0);
        cpu::run(BinaryBackward{function, wa, wb, wdy, shaped(only_a.view(), sa), {}, {}}, {});
        cpu::run(BinaryBackward{function, wa, wb, wdy, {}, shaped(only_b.view(), sb), {}}, {});
        CHECK(only_a.values() == vda.values());
        CHECK(only_b.values() == vdb.values());
        return Outputs<T>{vy.values(), vda.values(), vdb.values()};
      });
      std::vector<double> y(dy.size()), da = in_double(da0), db = in_double(db0);
      std::size_t at = 0;
      for_every_index(sy, [&](const std::int64_t* index) {
        const std::size_t i = operand_place(sa, index), j = operand_place(sb, index);
        const double p = static_cast<double>(a[i]), q = static_cast<double>(b[j]), d = static_cast<double>(dy[at]);
        y[at++] = function == Binary::add ? p + q : function == Binary::subtract ? p - q : p * q;
        da[i] += function == Binary::multiply ? d * q : d;
        db[j] += function == Binary::multiply ? d * p : function == Binary::subtract ? -d : d;
      });
      check_close(results[0], y);
      check_close(results[1], da, 4);
      check_close(results[2], db, 4);
    }
  }
}

TEST_CASE_TEMPLATE("affine, axpy, fill", T, float, double) {
  for (const std::int64_t n : {0, 1, 13, 40001}) {
    const std::vector<T> x = values<T>(n, 1), y0 = values<T>(n, 2);
    const auto results = on_one_and_two_threads([&] {
      Guarded<T> vx({n}, x), affine({n}, y0), axpy({n}, y0), fill({n}, y0);
      cpu::run(Affine{0.3, -1.7, vx.view(), affine.view()}, {});
      cpu::run(Axpy{-2.5, vx.view(), axpy.view()}, {});
      cpu::run(Fill{0.1, fill.view()}, {});
      return Outputs<T>{affine.values(), axpy.values(), fill.values()};
    });
    std::vector<double> affine, axpy, fill;
    for (std::size_t i = 0; i < x.size(); ++i) {
      affine.push_back(0.3 * static_cast<double>(x[i]) - 1.7);
      axpy.push_back(static_cast<double>(y0[i]) - 2.5 * static_cast<double>(x[i]));
      fill.push_back(0.1);
    }
    check_close(results[0], affine);
    check_close(results[1], axpy);
    check_close(results[2], fill);
  }
}

TEST_CASE("convert between storage types") {
  const std::int64_t n = 20011;
  const std::vector<double> x = values<double>(n, 1, -100, 100);
  Guarded<double> wide({n}, x), wide_again({n}, std::vector<double>(x.size()));
  Guarded<float> narrow({n}, std::vector<float>(x.size()));
  std::vector<std::uint16_t> halves(x.size());
  Guarded<std::uint8_t> storage({2 * n}, std::vector<std::uint8_t>(2 * x.size()));
  View bf16 = storage.view(DType::bf16);
  bf16.shape[0] = n;
  cpu::run(Convert{wide.view(), narrow.view()}, {});
  cpu::run(Convert{narrow.view(), wide_again.view()}, {});
  cpu::run(Convert{narrow.view(), bf16}, {});
  for (std::size_t i = 0; i < x.size(); ++i) {
    REQUIRE(narrow.values()[i] == static_cast<float>(x[i]));
    REQUIRE(wide_again.values()[i] == static_cast<double>(static_cast<float>(x[i])));
    if (i > 300) break;
  }
  cpu::run(Convert{bf16, wide_again.view()}, {});
  for (std::size_t i = 0; i < x.size(); i += 97) REQUIRE(wide_again.values()[i] == doctest::Approx(x[i]).epsilon(1.0 / 256));
  // binary16 by its definition: 1.5, -2, 2^-24, 0.
  Guarded<std::uint8_t> half({8}, {0x00, 0x3E, 0x00, 0xC0, 0x01, 0x00, 0x00, 0x00});
  View f16 = half.view(DType::f16);
  f16.shape[0] = 4;
  Guarded<float> four({4}, std::vector<float>(4));
  cpu::run(Convert{f16, four.view()}, {});
  CHECK(four.values() == std::vector<float>{1.5f, -2.0f, std::ldexp(1.0f, -24), 0.0f});
}

TEST_CASE("convert reads q4_1 and q8_0 blocks") {
  std::vector<std::uint8_t> bytes;
  for (int block = 0; block < 2; ++block) {  // d = 0.5, m = -1
    for (const int byte : {0x00, 0x38, 0x00, 0xBC}) bytes.push_back(static_cast<std::uint8_t>(byte));
    for (int j = 0; j < 16; ++j) bytes.push_back(static_cast<std::uint8_t>(j | ((15 - j) << 4)));
  }
  Guarded<std::uint8_t> blocks({40}, bytes);
  View q4 = shaped(blocks.view(DType::q4_1), {1, 64});
  Guarded<float> y({1, 64}, std::vector<float>(64));
  cpu::run(Convert{q4, y.view()}, {});
  for (int i = 0; i < 64; ++i) {
    const int j = i % 32, code = j < 16 ? j : 31 - j;
    CHECK(y.values()[static_cast<std::size_t>(i)] == 0.5f * static_cast<float>(code) - 1.0f);
  }
  std::vector<std::uint8_t> signed_bytes = {0x00, 0x34};  // d = 0.25
  for (int j = 0; j < 32; ++j) signed_bytes.push_back(static_cast<std::uint8_t>(j * 8 - 128));
  Guarded<std::uint8_t> block({34}, signed_bytes);
  Guarded<double> z({32}, std::vector<double>(32));
  cpu::run(Convert{shaped(block.view(DType::q8_0), {32}), z.view()}, {});
  for (int j = 0; j < 32; ++j) CHECK(z.values()[static_cast<std::size_t>(j)] == 0.25 * (j * 8 - 128));
  CHECK(contains(message_of([&] {
                   cpu::run(Convert{shaped(block.view(DType::q8_0), {31}), shaped(z.view(), {31})}, {});
                 }),
                 "whole blocks"));
}

namespace {

/// Convert and a row-wise look at the blocks agree on random bytes.
template <class Block>
void check_blocks(DType dtype, int length) {
  const std::int64_t rows = 3, blocks = 20;
  std::vector<std::uint8_t> bytes;
  for (const std::int32_t byte : ids(rows * blocks * static_cast<std::int64_t>(sizeof(Block)), 1, 0, 256)) {
    // No exponent of all ones in a binary16 scale, wherever it lies: NaN would equal nothing.
    bytes.push_back(static_cast<std::uint8_t>((byte & 0x7C) == 0x7C ? byte & 0xBF : byte));
  }
  Guarded<std::uint8_t> storage({static_cast<std::int64_t>(bytes.size())}, bytes);
  const std::int64_t n = rows * blocks * length;
  Guarded<float> y({rows, blocks * length}, std::vector<float>(static_cast<std::size_t>(n)));
  cpu::run(Convert{shaped(storage.view(dtype), {rows, blocks * length}), y.view()}, {});
  const std::vector<float> got = y.values();
  for (std::int64_t i = 0; i < n; ++i) {
    Block block;
    std::memcpy(&block, bytes.data() + i / length * static_cast<std::int64_t>(sizeof(Block)), sizeof(Block));
    REQUIRE(got[static_cast<std::size_t>(i)] == dequantise(block, static_cast<int>(i % length)));
  }
}

}  // namespace

TEST_CASE("convert finds every block of every format") {
  check_blocks<BlockQ4_0>(DType::q4_0, 32);
  check_blocks<BlockQ4_1>(DType::q4_1, 32);
  check_blocks<BlockQ5_0>(DType::q5_0, 32);
  check_blocks<BlockQ5_1>(DType::q5_1, 32);
  check_blocks<BlockQ8_0>(DType::q8_0, 32);
  check_blocks<BlockQ4_K>(DType::q4_k, 256);
  check_blocks<BlockQ5_K>(DType::q5_k, 256);
  check_blocks<BlockQ6_K>(DType::q6_k, 256);
}

TEST_CASE_TEMPLATE("swiglu", T, float, double) {
  for (const std::int64_t n : {0, 1, 21, 9001}) {
    const std::vector<T> gate = values<T>(n, 1, -5, 5), up = values<T>(n, 2), dy = values<T>(n, 3), g0 = values<T>(n, 4),
                         u0 = values<T>(n, 5);
    const auto results = on_one_and_two_threads([&] {
      Guarded<T> vg({n}, gate), vu({n}, up), vy({n}, std::vector<T>(gate.size())), vdy({n}, dy), dg({n}, g0), du({n}, u0),
          only_gate({n}, g0);
      cpu::run(SwigluForward{vg.view(), vu.view(), vy.view()}, {});
      cpu::run(SwigluBackward{vg.view(), vu.view(), vdy.view(), dg.view(), du.view()}, {});
      cpu::run(SwigluBackward{vg.view(), vu.view(), vdy.view(), only_gate.view(), {}}, {});
      CHECK(only_gate.values() == dg.values());
      return Outputs<T>{vy.values(), dg.values(), du.values()};
    });
    std::vector<double> y, dg, du;
    for (std::size_t i = 0; i < gate.size(); ++i) {
      const double g = static_cast<double>(gate[i]), u = static_cast<double>(up[i]), d = static_cast<double>(dy[i]),
                   s = 1 / (1 + std::exp(-g));
      y.push_back(g * s * u);
      dg.push_back(static_cast<double>(g0[i]) + d * u * (s + g * s * (1 - s)));
      du.push_back(static_cast<double>(u0[i]) + d * g * s);
    }
    check_close(results[0], y);
    check_close(results[1], dg, 2);
    check_close(results[2], du);
  }
}

TEST_CASE_TEMPLATE("dropout keeps by (step, sample, column), whatever the row", T, float, double) {
  const std::int64_t rows = 301, width = 37;
  const std::vector<T> x = values<T>(rows * width, 1, 1, 2), y0 = values<T>(rows * width, 2);
  const std::vector<std::int32_t> sample = ids(rows, 3, 0, 100000);
  const auto results = on_one_and_two_threads([&] {
    Guarded<T> vx({rows, width}, x), y({rows, width}, y0), sum({rows, width}, y0);
    Guarded<std::int32_t> vs({rows}, sample);
    cpu::run(Dropout{0.3f, 11, 22, 5, 6, false, vx.view(), vs.view(), y.view()}, {});
    cpu::run(Dropout{0.3f, 11, 22, 5, 6, true, vx.view(), vs.view(), sum.view()}, {});
    return Outputs<T>{y.values(), sum.values()};
  });
  std::vector<double> y, sum;
  std::int64_t kept = 0;
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < width; ++c) {
      const std::size_t at = static_cast<std::size_t>(r * width + c);
      const RandomBits bits =
          philox({11, 22}, {5, static_cast<std::uint32_t>(sample[static_cast<std::size_t>(r)]), static_cast<std::uint32_t>(c / 4), 6});
      const bool keep = static_cast<double>(bits.word[c % 4] >> 8) / 16777216.0 >= static_cast<double>(0.3f);
      kept += keep;
      y.push_back(keep ? static_cast<double>(x[at]) / (1 - static_cast<double>(0.3f)) : 0.0);
      sum.push_back(static_cast<double>(y0[at]) + y.back());
    }
  }
  check_close(results[0], y);
  check_close(results[1], sum);
  CHECK(static_cast<double>(kept) / static_cast<double>(rows * width) == doctest::Approx(0.7).epsilon(0.02));
}

TEST_CASE("elementwise errors name the op and the shapes") {
  Guarded<float> a({2, 3}, values<float>(6, 1)), b({2, 4}, values<float>(8, 2)), y({2, 3}, values<float>(6, 3));
  Guarded<double> wide({2, 3}, values<double>(6, 4));
  Guarded<std::int32_t> sample({3}, {0, 1, 2});
  std::string message = message_of([&] { cpu::run(BinaryForward{Binary::add, a.view(), b.view(), y.view()}, {}); });
  CHECK(contains(message, "binary: shapes do not broadcast; a f32 [2, 3], b f32 [2, 4], y f32 [2, 3]"));
  CHECK(contains(message, "HINT: "));
  CHECK(contains(message_of([&] { cpu::run(UnaryForward{Unary::relu, a.view(), wide.view()}, {}); }), "unary: "));
  CHECK(contains(message_of([&] { cpu::run(SwigluForward{a.view(), b.view(), y.view()}, {}); }), "up f32 [2, 4]"));
  CHECK(contains(message_of([&] {
                   cpu::run(Dropout{0.1f, 0, 0, 0, 0, false, a.view(), sample.view(), y.view()}, {});
                 }),
                 "sample must be i32 with 2"));
  CHECK(contains(message_of([&] { cpu::run(Dropout{1.0f, 0, 0, 0, 0, false, a.view(), sample.view(), y.view()}, {}); }), "probability"));
  View missing = a.view();
  missing.data = nullptr;
  CHECK(contains(message_of([&] { cpu::run(Affine{1, 0, missing, y.view()}, {}); }), "no data"));
}
