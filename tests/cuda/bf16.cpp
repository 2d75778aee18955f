// Activations stored in bf16: the kernels compute in float, so a result is that of the f32 kernel on the same (representable) values,
// rounded once. Sizes with whole 16-byte packets and without, rows held in registers and not.
#include <doctest/doctest.h>

#include "base/blocks.h"
#include "base/kernels/elementwise.h"
#include "base/kernels/embedding.h"
#include "base/kernels/loss.h"
#include "base/kernels/norm.h"
#include "base/kernels/reduce.h"
#include "base/kernels/rotary.h"
#include "base/kernels/sampling.h"
#include "tests/cuda/device_tensor.h"

using namespace expctr;
using namespace expctr::test;

namespace {

std::vector<float> representable(std::vector<float> values) {
  for (float& value : values) value = float_of_bf16(bf16_of_float(value));
  return values;
}

/// The same values in both storages.
struct Activation {
  DeviceTensor f32, bf16;

  Activation(const Shape& shape, std::uint32_t seed, float low = -1, float high = 1)
      : Activation(shape, representable(random_floats(elements(shape), seed, low, high))) {}
  Activation(const Shape& shape, const std::vector<float>& values)
      : f32(values, shape), bf16(DType::bf16, shape, halves(values).data()), shape_(shape) {}

  /// The results agree: one rounding to eight bits, and what another order of adding `terms` terms leaves in float. Then both go on from
  /// the f32 one, rounded.
  void check(double terms = 1) {
    const std::vector<float> wanted = f32.read();
    const std::vector<std::uint16_t> bits = bf16.read<std::uint16_t>();
    double largest = 1;
    for (const float value : wanted) largest = std::max(largest, std::fabs(static_cast<double>(value)));
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      const double got = float_of_bf16(bits[i]), want = wanted[i];
      const bool close = std::fabs(got - want) <= 0x1p-8 * std::fabs(want) + 0x1p-23 * largest * (4 + 2 * std::sqrt(terms));
      if (!close && !(std::isnan(got) && std::isnan(want)) && wrong++ == 0) CAPTURE(i);
    }
    CHECK(wrong == 0);
    *this = Activation(shape_, representable(wanted));
  }

 private:
  Shape shape_;

  static std::vector<std::uint16_t> halves(const std::vector<float>& values) {
    std::vector<std::uint16_t> result;
    for (const float value : values) result.push_back(bf16_of_float(value));
    result.push_back(0);  // so that data() is there for no values
    return result;
  }
};

/// Calls op with a function that gives an activation's view, in f32 and then in bf16.
template <class Op>
void in_both(Op op) {
  op([](const Activation& a) { return a.f32.view(); });
  op([](const Activation& a) { return a.bf16.view(); });
}

/// f32 parameters and statistics, one copy a storage.
struct Floats {
  DeviceTensor of_f32, of_bf16;
  Floats(const Shape& shape, std::uint32_t seed, float low = -1, float high = 1)
      : of_f32(random_floats(elements(shape), seed, low, high), shape), of_bf16(random_floats(elements(shape), seed, low, high), shape) {}
  void check(double terms = 1) const {
    const std::vector<float> wanted = of_f32.read();
    check_close(of_bf16.read(), {wanted.begin(), wanted.end()}, terms);
  }
  View view(DType storage) const { return storage == DType::bf16 ? of_bf16.view() : of_f32.view(); }
};

struct Size {
  std::int64_t rows, width;
};
const std::vector<Size> sizes = {{0, 8}, {1, 1}, {3, 7}, {5, 64}, {40, 33}, {300, 16}, {70, 576}, {2, 1096}, {3, 2049}, {2, 8200}};

}  // namespace

TEST_CASE("bf16: elementwise functions") {
  for (const std::int64_t n : {0, 1, 1023, 4096 + 8}) {
    Activation x({n}, 1, -3, 3), other({n}, 2, 0.5f, 2), dy({n}, 3), y({n}, 4), da({n}, 5), db({n}, 6), mask({n}, 7, 0, 1);
    in_both([&](auto of) {
      launch(UnaryForward{Unary::gelu, of(x), of(y)});
      launch(UnaryBackward{Unary::elu, of(x), of(dy), of(da), {1.5, 0}});
      launch(BinaryForward{Binary::divide, of(x), of(other), of(db)});
    });
    y.check();
    da.check();
    db.check();
    in_both([&](auto of) {
      launch(Affine{1.5, -2, of(x), of(y)});
      launch(Axpy{0.75, of(x), of(da)});
      launch(BinaryBackward{Binary::power, of(other), of(other), of(dy), of(db), {}, {}});
    });
    y.check();
    da.check();
    db.check(4);
    in_both([&](auto of) {
      launch(SwigluForward{of(x), of(other), of(y)});
      launch(SwigluBackward{of(x), of(other), of(dy), of(da), of(db)});
    });
    y.check();
    da.check(4);
    db.check(4);
    in_both([&](auto of) {
      launch(SwigluBackward{of(x), of(other), of(dy), of(da), {}});
      launch(SwigluBackward{of(x), of(other), of(dy), {}, of(db)});
      launch(WhereForward{of(mask), of(x), of(other), of(y)});
    });
    y.check();
    da.check(4);
    db.check(4);
    in_both([&](auto of) { launch(Fill{-2.5, of(y)}); });
    y.check();
  }
}

TEST_CASE("bf16: axpy between storages") {
  for (const std::int64_t n : {1, 1023, 4096}) {
    Activation x({n}, 1), y({n}, 2);
    launch(Axpy{0.75, x.f32, y.bf16});
    launch(Axpy{0.75, x.bf16, y.f32});
    y.check();
  }
}

TEST_CASE("bf16: broadcasting and its gradients") {
  struct Case {
    Shape a, b, y;
  };
  const std::vector<Case> cases = {{{7, 16}, {16}, {7, 16}},     {{7, 13}, {13}, {7, 13}},
                                   {{7, 16}, {7, 1}, {7, 16}},   {{2, 5, 8}, {2, 1, 8}, {2, 5, 8}},
                                   {{300, 72}, {72}, {300, 72}}, {{6000}, {1}, {6000}},
                                   {{3, 704}, {3, 1}, {3, 704}}, {{2, 1, 4, 1, 8}, {3, 1, 5, 8}, {2, 3, 4, 5, 8}}};
  for (const Case& c : cases)
    for (const Binary function : {Binary::add, Binary::multiply, Binary::divide}) {
      Activation a(c.a, 1, 0.5f, 2), b(c.b, 2, 0.5f, 2), dy(c.y, 3), y(c.y, 4), da(c.a, 5), db(c.b, 6), mask(c.b, 7, 0, 1);
      const double terms = static_cast<double>(elements(c.y));
      in_both([&](auto of) {
        launch(BinaryForward{function, of(a), of(b), of(y)});
        launch(BinaryBackward{function, of(a), of(b), of(dy), of(da), of(db), {}});
      });
      y.check();
      da.check(terms);
      db.check(terms);
      in_both([&](auto of) {
        launch(WhereForward{of(mask), of(a), of(b), of(y)});
        launch(WhereBackward{of(mask), of(a), of(b), of(dy), of(da), of(db), {}});
      });
      y.check();
      da.check(terms);
      db.check(terms);
    }
}

TEST_CASE("bf16: dropout keeps the elements that it keeps in f32") {
  for (const Size& size : sizes) {
    Activation x({size.rows, size.width}, 1, 1, 2), y({size.rows, size.width}, 2), sum({size.rows, size.width}, 3);
    const DeviceTensor sample(random_ids(size.rows, 3, 0, 1000), {size.rows});
    in_both([&](auto of) {
      launch(Dropout{0.3f, 11, 22, 5, 6, false, of(x), sample, of(y)});
      launch(Dropout{0.3f, 11, 22, 5, 6, true, of(x), sample, of(sum)});
    });
    y.check();
    sum.check();
  }
}

TEST_CASE("bf16: rms_norm and layer_norm") {
  for (const Size& size : sizes) {
    const auto [rows, width] = size;
    const Shape shape = {rows, width};
    Activation x(shape, 1), y(shape, 2), dy(shape, 3), dx(shape, 4);
    const Floats gain({width}, 5), bias({width}, 6), mean({rows}, 7), inverse({rows}, 8), dgain({width}, 9), dbias({width}, 10);
    in_both([&](auto of) {
      const DType storage = of(x).dtype;
      launch(RmsNormForward{1e-5, of(x), gain.view(storage), of(y), inverse.view(storage)});
      launch(RmsNormBackward{of(x), gain.view(storage), inverse.view(storage), of(dy), of(dx), dgain.view(storage), {}});
    });
    y.check(static_cast<double>(width));
    dx.check(static_cast<double>(width));
    inverse.check(static_cast<double>(width) * 16);
    dgain.check(static_cast<double>(rows) * 16);
    if (width == 1) continue;  // the deviation is 0: only epsilon would be seen
    in_both([&](auto of) {
      const DType storage = of(x).dtype;
      launch(LayerNormForward{1e-5, of(x), gain.view(storage), bias.view(storage), of(y), mean.view(storage), inverse.view(storage)});
      launch(LayerNormBackward{of(x),
                               gain.view(storage),
                               mean.view(storage),
                               inverse.view(storage),
                               of(dy),
                               of(dx),
                               dgain.view(storage),
                               dbias.view(storage),
                               {}});
    });
    y.check(static_cast<double>(width));
    dx.check(static_cast<double>(width) * 4);
    mean.check(static_cast<double>(width));
    inverse.check(static_cast<double>(width) * 16);
    dgain.check(static_cast<double>(rows) * 16);
    dbias.check(static_cast<double>(rows) * 16);
  }
}

TEST_CASE("bf16: dice") {
  for (const Size& size : std::vector<Size>{{1, 3}, {5, 7}, {40, 40}, {700, 16}})
    for (const bool training : {true, false}) {
      const auto [rows, width] = size;
      const Shape shape = {rows, width};
      Activation x(shape, 1, -1, 2), y(shape, 2), dy(shape, 3), dx(shape, 4);
      const Floats alpha({width}, 5), running_mean({width}, 6), running_variance({width}, 7, 0.5f, 2), mean({width}, 8),
          inverse({width}, 9), dalpha({width}, 10);
      in_both([&](auto of) {
        const DType storage = of(x).dtype;
        launch(DiceForward{1e-3,
                           0.1,
                           training,
                           of(x),
                           alpha.view(storage),
                           running_mean.view(storage),
                           running_variance.view(storage),
                           of(y),
                           mean.view(storage),
                           inverse.view(storage),
                           {}});
        launch(DiceBackward{
            training, of(x), alpha.view(storage), mean.view(storage), inverse.view(storage), of(dy), of(dx), dalpha.view(storage), {}});
      });
      const double terms = 16.0 * static_cast<double>(rows);
      y.check(terms);
      dx.check(16 * terms);
      mean.check(terms);
      inverse.check(terms);
      running_mean.check(terms);
      running_variance.check(terms);
      dalpha.check(terms);
    }
}

TEST_CASE("bf16: sums, means of segments, squared norm") {
  for (const auto& [outer, n, inner] :
       {std::tuple<std::int64_t, std::int64_t, std::int64_t>{3, 7, 5}, {1, 3000, 16}, {40, 2056, 1}, {2, 3001, 1}, {9, 33, 8}, {0, 4, 8}}) {
    Activation x({outer, n, inner}, 1), y({outer, inner}, 2), dx({outer, n, inner}, 3);
    in_both([&](auto of) { launch(SumForward{0.5, of(x), of(y), {}}); });
    y.check(static_cast<double>(n));
    in_both([&](auto of) { launch(SumBackward{0.5, of(y), of(dx)}); });
    dx.check();
  }
  for (const std::int64_t width : {5, 8, 64}) {
    Activation x({40, width}, 1), y({5, width}, 2), dx({40, width}, 3);
    const DeviceTensor offsets(std::vector<std::int32_t>{1, 1, 4, 30, 38, 38}, {6});
    in_both([&](auto of) { launch(SegmentMeanForward{of(x), offsets, of(y)}); });
    y.check(40);
    in_both([&](auto of) { launch(SegmentMeanBackward{of(y), offsets, of(dx)}); });
    dx.check();
  }
  Activation a({20000}, 1), b({13}, 2);
  const DeviceTensor exact = DeviceTensor::output({1}, DType::f64), mixed = DeviceTensor::output({1}, DType::f64);
  const View floats[] = {a.f32, b.f32}, halves[] = {a.bf16, b.f32};
  launch(SquaredNorm{floats, 2, exact, {}});
  launch(SquaredNorm{halves, 2, mixed, {}});
  CHECK(mixed.read<double>()[0] == doctest::Approx(exact.read<double>()[0]).epsilon(1e-12));
}

TEST_CASE("bf16: gather, its gradient, columns") {
  for (const std::int64_t width : {1, 7, 8, 64, 576}) {
    const std::int64_t rows = 30, n = 100;
    std::vector<std::int32_t> values = random_ids(n, 3, 0, 30);
    for (int i = 20; i < 50; ++i) values[static_cast<std::size_t>(i)] = 17;  // a long run of one id
    values[0] = -1;
    values[1] = 30;
    Activation table({rows, width}, 1), y({n, width}, 2);
    const DeviceTensor ids(values, {n}), widened = DeviceTensor::output({n, width});
    in_both([&](auto of) { launch(Gather{of(table), ids, of(y)}); });
    y.check();
    launch(Gather{table.bf16, ids, widened});
    std::vector<float> wanted = y.f32.read(), got = widened.read();
    std::size_t different = 0;
    for (std::size_t i = 0; i < got.size(); ++i) different += got[i] != wanted[i] && !(std::isnan(got[i]) && std::isnan(wanted[i]));
    CHECK(different == 0);
    Activation dy({n, width}, 4);
    const Floats dtable({rows, width}, 5);
    in_both([&](auto of) { launch(GatherBackward{2, of(dy), ids, dtable.view(of(dy).dtype), {}}); });
    dtable.check();
  }
  Activation x({33, 40}, 1), y({33, 24}, 2);
  in_both([&](auto of) {
    launch(CopyColumns{16, 8, 8, false, of(x), of(y)});
    launch(CopyColumns{8, 32, 0, true, of(x), of(y)});
  });
  y.check();
  in_both([&](auto of) { launch(CopyColumns{3, 5, 1, true, of(x), of(y)}); });
  y.check();
}

TEST_CASE("bf16: losses take logits and values in bf16 and give f32") {
  for (const std::int64_t classes : {1, 7, 64, 1096, 2048}) {
    const std::int64_t rows = 5;
    Activation logits({rows, classes}, 1, -4, 4), dlogits({rows, classes}, 2);
    const Floats probability({rows}, 3), sum({rows}, 4), dprobability({rows}, 5);
    const DeviceTensor targets(random_ids(rows, 6, -1, static_cast<std::int32_t>(classes)), {rows});
    in_both([&](auto of) {
      const DType storage = of(logits).dtype;
      launch(CrossEntropyForward{of(logits), targets, probability.view(storage), sum.view(storage)});
      launch(CrossEntropyBackward{of(logits), targets, sum.view(storage), dprobability.view(storage), of(dlogits)});
    });
    probability.check(static_cast<double>(classes));
    sum.check(static_cast<double>(classes));
    dlogits.check(static_cast<double>(classes));
  }
  for (const std::int64_t n : {1, 1023, 1024}) {
    Activation x({n}, 1, -4, 4), dx({n}, 2);
    const Floats labels({n}, 3, 0, 1), loss({n}, 4), old({n}, 5);
    in_both([&](auto of) {
      const DType storage = of(x).dtype;
      launch(BceForward{of(x), labels.view(storage), loss.view(storage)});
      launch(BceBackward{of(x), labels.view(storage), old.view(storage), of(dx)});
    });
    loss.check();
    dx.check(4);
    in_both([&](auto of) {
      const DType storage = of(x).dtype;
      launch(ValueLossForward{0.2, of(x), old.view(storage), labels.view(storage), loss.view(storage)});
      launch(ValueLossBackward{0.2, of(x), old.view(storage), labels.view(storage), old.view(storage), of(dx)});
    });
    loss.check(16);
    dx.check(16);
  }
}

TEST_CASE("bf16: rotary embedding and sampling") {
  for (const std::int64_t head_dim : {2, 6, 16, 64}) {
    const std::int64_t tokens = 19, heads = 3;
    Activation x({tokens, heads, head_dim}, 1), y({tokens, heads, head_dim}, 2);
    const DeviceTensor table(random_floats(20 * head_dim, 3), {20, head_dim}), positions(random_ids(tokens, 4, 0, 20), {tokens});
    in_both([&](auto of) { launch(Rotary{false, false, of(x), positions, table, of(y)}); });
    y.check(8);
    in_both([&](auto of) { launch(Rotary{true, true, of(x), positions, table, of(y)}); });
    y.check(8);
  }
  const std::int64_t rows = 6, classes = 1003;
  Activation logits({rows, classes}, 1, -4, 4);
  const DeviceTensor u(random_floats(rows, 2, 0, 1), {rows}),
      token = DeviceTensor::output({rows}, DType::i32), probability = DeviceTensor::output({rows}),
      token_of_half = DeviceTensor::output({rows}, DType::i32), probability_of_half = DeviceTensor::output({rows});
  launch(SampleToken{0.8, 0.9, 0.0, 50, logits.f32, u, token, probability, {}});
  launch(SampleToken{0.8, 0.9, 0.0, 50, logits.bf16, u, token_of_half, probability_of_half, {}});
  CHECK(token.read<std::int32_t>() == token_of_half.read<std::int32_t>());
  CHECK(probability.read() == probability_of_half.read());
}
