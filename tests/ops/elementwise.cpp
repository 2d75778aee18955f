#include "engine/ops/elementwise.h"

#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <numbers>

#include "base/philox.h"
#include "engine/autograd/tape.h"
#include "engine/core/build_info.h"
#include "engine/ops/reduce.h"
#include "tests/ops/op_cases.h"

using namespace expctr;
using namespace expctr::test;

namespace {

double plain(Unary function, double x, double a, double b) {
  switch (function) {
    case Unary::relu:
      return x > 0.0 ? x : 0.0;
    case Unary::sigmoid:
      return 1.0 / (1.0 + std::exp(-x));
    case Unary::tanh:
      return std::sinh(x) / std::cosh(x);
    case Unary::silu:
      return x / (1.0 + std::exp(-x));
    case Unary::gelu:
      return 0.5 * x * std::erfc(-x / std::numbers::sqrt2);
    case Unary::gelu_tanh:
      return x / (1.0 + std::exp(-2.0 * std::sqrt(2.0 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
    case Unary::exp:
      return std::exp(x);
    case Unary::log:
      return std::log(x);
    case Unary::square:
      return x * x;
    case Unary::softplus:
      return std::log1p(std::exp(x));
    case Unary::sqrt:
      return std::exp(0.5 * std::log(x));
    case Unary::rsqrt:
      return std::exp(-0.5 * std::log(x));
    case Unary::absolute:
      return x < 0.0 ? -x : x;
    case Unary::negate:
      return 0.0 - x;
    case Unary::reciprocal:
      return 1.0 / x;
    case Unary::log1p:
      return std::log(1.0 + x);
    case Unary::softsign:
      return x < 0.0 ? x / (1.0 - x) : x / (1.0 + x);
    case Unary::clamp:
      return std::min(std::max(x, a), b);
    case Unary::leaky_relu:
      return std::max(x, 0.0) + a * std::min(x, 0.0);
    case Unary::elu:
      return x > 0.0 ? x : a * (std::exp(x) - 1.0);
  }
  return 0.0;
}

std::array<std::int64_t, max_rank> extents_of(const Shape& shape) {
  std::array<std::int64_t, max_rank> extents;
  extents.fill(1);
  for (int i = 0; i < shape.rank(); ++i) extents[max_rank - shape.rank() + i] = shape[i];
  return extents;
}

double plain(Binary function, double p, double q) {
  switch (function) {
    case Binary::add:
      return p + q;
    case Binary::subtract:
      return p - q;
    case Binary::multiply:
      return p * q;
    case Binary::divide:
      return p / q;
    case Binary::maximum:
      return std::max(p, q);
    case Binary::minimum:
      return std::min(p, q);
    case Binary::power:
      return std::exp(q * std::log(p));
    case Binary::less:
      return p < q;
    case Binary::less_equal:
      return !(p > q);
    case Binary::greater:
      return p > q;
    case Binary::greater_equal:
      return !(p < q);
    case Binary::equal:
      return p == q;
    case Binary::not_equal:
      return !(p == q);
  }
  return 0.0;
}

/// Where element `flat` of `y` lies in an operand of `shape`, by the definition of broadcasting.
std::int64_t place_in(std::int64_t flat, const Shape& y, const Shape& shape) {
  std::int64_t place = 0, step = 1;
  for (int axis = y.rank() - 1; axis >= 0; --axis) {
    const std::int64_t at = flat % y[axis];
    flat /= y[axis];
    const int own = axis - (y.rank() - shape.rank());
    if (own < 0) continue;
    if (shape[own] != 1) place += at * step;
    step *= shape[own];
  }
  return place;
}

std::vector<double> plain(Binary function, const Operand& a, const Operand& b) {
  const auto ea = extents_of(a.shape), eb = extents_of(b.shape);
  std::array<std::int64_t, max_rank> ey;
  std::int64_t n = 1;
  for (int i = 0; i < max_rank; ++i) n *= ey[i] = ea[i] == 1 ? eb[i] : ea[i];
  std::vector<double> y;
  for (std::int64_t flat = 0; flat < n; ++flat) {
    std::int64_t rest = flat, ia = 0, ib = 0, step_a = 1, step_b = 1;
    for (int i = max_rank - 1; i >= 0; --i) {
      const std::int64_t at = rest % ey[i];
      rest /= ey[i];
      if (ea[i] != 1) ia += at * step_a;
      if (eb[i] != 1) ib += at * step_b;
      step_a *= ea[i];
      step_b *= eb[i];
    }
    const double p = a.values[ia], q = b.values[ib];
    y.push_back(plain(function, p, q));
  }
  return y;
}

/// The nearest number of eight significant bits, ties to even.
double round_to_bf16(double x) {
  if (x == 0.0) return x;
  int exponent = 0;
  const double fraction = std::frexp(static_cast<double>(static_cast<float>(x)), &exponent);
  return std::ldexp(std::nearbyint(std::ldexp(fraction, 8)), exponent - 8);
}

bool kept(std::int32_t sample, std::int64_t column, const DropoutKey& key, double probability) {
  const RandomBits bits = philox(random_key(key.seed, "dropout"),
                                 {key.step, static_cast<std::uint32_t>(sample), static_cast<std::uint32_t>(column / 4), key.channel});
  return static_cast<double>(bits.word[column % 4] >> 8) >= static_cast<double>(static_cast<float>(probability)) * 16777216.0;
}

}  // namespace

OP_CASES(unary) {
  struct Case {
    Unary function;
    const char* name;
    double low = -4.0;  ///< least argument
    UnaryParameters parameters = {};
  };
  const Case functions[] = {{Unary::relu, "relu"},
                            {Unary::sigmoid, "sigmoid"},
                            {Unary::tanh, "tanh"},
                            {Unary::silu, "silu"},
                            {Unary::gelu, "gelu"},
                            {Unary::gelu_tanh, "gelu_tanh"},
                            {Unary::exp, "exp"},
                            {Unary::log, "log", 0.25},
                            {Unary::square, "square"},
                            {Unary::softplus, "softplus"},
                            {Unary::sqrt, "sqrt", 0.25},
                            {Unary::rsqrt, "rsqrt", 0.25},
                            {Unary::absolute, "absolute"},
                            {Unary::negate, "negate"},
                            {Unary::reciprocal, "reciprocal", 0.25},
                            {Unary::log1p, "log1p", -0.75},
                            {Unary::softsign, "softsign"},
                            {Unary::clamp, "clamp", -4.0, {-1.5, 2.5}},
                            {Unary::leaky_relu, "leaky_relu", -4.0, {0.1, 0.0}},
                            {Unary::elu, "elu", -4.0, {1.5, 0.0}}};
  for (const auto& [function, name, low, parameters] : functions) {
    for (const Shape& shape : {Shape{0, 3}, Shape{1}, Shape{7}, Shape{2, 3, 5}, Shape{3, 1027}}) {
      add_case(
          std::string(name) + " " + shape.text(), {uniform(shape, low, 4.0)},
          [function = function, parameters = parameters](std::span<const Tensor> in) { return unary(function, in[0], parameters); },
          [function = function, parameters = parameters](std::span<const Operand> in) {
            std::vector<double> y;
            for (const double x : in[0].values) y.push_back(plain(function, x, parameters.a, parameters.b));
            return y;
          })
          .magnitude = 1.0;
    }
  }
  add_error([] { relu(Tensor::zeros({2, 3}, DType::i32)); }, "unary: operands must have one shape and one dtype, f32 or f64; x i32 [2, 3]");
  add_error([] { clamp(Tensor::zeros({2}), 1.0, -1.0); }, "clamp: from 1 to -1\nHINT: the lower bound comes first");
}

OP_CASES(binary) {
  struct Case {
    Binary function;
    const char* name;
    double low = -1.0, high = 1.0;
  };
  const Case functions[] = {
      {Binary::add, "add"},         {Binary::subtract, "subtract"}, {Binary::multiply, "multiply"},    {Binary::divide, "divide", 0.5, 2.0},
      {Binary::maximum, "maximum"}, {Binary::minimum, "minimum"},   {Binary::power, "power", 0.5, 2.0}};
  const std::pair<Shape, Shape> shapes[] = {{Shape{}, Shape{}},
                                            {Shape{1}, Shape{1}},
                                            {Shape{7}, Shape{7}},
                                            {Shape{0, 3}, Shape{3}},
                                            {Shape{5, 0}, Shape{5, 1}},
                                            {Shape{5, 3}, Shape{3}},
                                            {Shape{3}, Shape{5, 3}},
                                            {Shape{5, 1}, Shape{5, 3}},
                                            {Shape{5, 3}, Shape{}},
                                            {Shape{5, 1}, Shape{1, 3}},
                                            {Shape{2, 1, 4, 1}, Shape{3, 1, 5}},
                                            {Shape{2, 3, 2, 3, 2}, Shape{1, 3, 1, 3, 1}},
                                            {Shape{4, 9, 8}, Shape{4, 1, 8}},
                                            {Shape{67, 130}, Shape{130}},
                                            {Shape{67, 1}, Shape{67, 130}},
                                            {Shape{1, 130}, Shape{67, 130}},
                                            {Shape{67, 130}, Shape{67, 130}},
                                            {Shape{1}, Shape{3001}}};
  for (const auto& [function, name, low, high] : functions) {
    for (const auto& [a, b] : shapes) {
      add_case(
          std::string(name) + " " + a.text() + " " + b.text(), {uniform(a, low, high), uniform(b, low, high, 2)},
          [function = function](std::span<const Tensor> in) { return binary(function, in[0], in[1]); },
          [function = function](std::span<const Operand> in) { return plain(function, in[0], in[1]); }, std::max(a.size(), b.size()));
    }
  }
  const std::pair<Binary, const char*> comparisons[] = {{Binary::less, "less"},       {Binary::less_equal, "less_equal"},
                                                        {Binary::greater, "greater"}, {Binary::greater_equal, "greater_equal"},
                                                        {Binary::equal, "equal"},     {Binary::not_equal, "not_equal"}};
  // Few different values, so that some are equal.
  const auto coarse = [](const Shape& shape, std::uint64_t seed) {
    Operand operand = constant(uniform(shape, -2.5, 2.5, seed));
    for (double& value : operand.values) value = std::nearbyint(value);
    return operand;
  };
  for (const auto& [function, name] : comparisons) {
    for (const auto& [a, b] : {std::pair{Shape{7}, Shape{7}}, {Shape{5, 3}, Shape{3}}, {Shape{33, 1}, Shape{33, 130}}}) {
      add_case(
          std::string(name) + " " + a.text() + " " + b.text(), {coarse(a, 1), coarse(b, 2)},
          [function = function](std::span<const Tensor> in) { return binary(function, in[0], in[1]); },
          [function = function](std::span<const Operand> in) { return plain(function, in[0], in[1]); });
    }
  }
  add_error([] { add(Tensor::zeros({2, 3}), Tensor::zeros({2, 4})); }, "[2, 3] and [2, 4] do not broadcast\nHINT: ");
  add_error([] { multiply(Tensor::zeros({2, 3}), Tensor::zeros({3}, DType::f64)); }, "f32 on cpu meets f64 on cpu");
}

OP_CASES(where) {
  struct Case {
    Shape mask, a, b, y;
  };
  const Case cases[] = {{Shape{7}, Shape{7}, Shape{7}, Shape{7}},
                        {Shape{0, 3}, Shape{3}, Shape{}, Shape{0, 3}},
                        {Shape{5, 1}, Shape{5, 3}, Shape{3}, Shape{5, 3}},
                        {Shape{3}, Shape{5, 1}, Shape{1, 3}, Shape{5, 3}},
                        {Shape{2, 1, 4, 1}, Shape{3, 1, 5}, Shape{2, 3, 4, 5}, Shape{2, 3, 4, 5}},
                        {Shape{67, 128}, Shape{67, 128}, Shape{1}, Shape{67, 128}},
                        {Shape{67, 1}, Shape{128}, Shape{67, 128}, Shape{67, 128}}};
  for (const Case& c : cases) {
    Operand mask = constant(uniform(c.mask, -1.0, 1.0, 3));
    for (double& value : mask.values) value = value > 0.0 ? 1.0 : 0.0;
    add_case(
        c.mask.text() + " " + c.a.text() + " " + c.b.text(), {mask, uniform(c.a), uniform(c.b, -1.0, 1.0, 2)},
        [](std::span<const Tensor> in) { return where(in[0], in[1], in[2]); },
        [y = c.y](std::span<const Operand> in) {
          std::vector<double> result;
          for (std::int64_t i = 0; i < y.size(); ++i) {
            const bool set = in[0].values[static_cast<std::size_t>(place_in(i, y, in[0].shape))] != 0.0;
            const Operand& from = in[set ? 1 : 2];
            result.push_back(from.values[static_cast<std::size_t>(place_in(i, y, from.shape))]);
          }
          return result;
        },
        c.y.size());
  }
  add_case(
      "what is not chosen may be infinite", {constant(uniform({9}, -1.0, 1.0)), constant(uniform({9}, 1.0, 2.0, 2))},
      [](std::span<const Tensor> in) {
        const Tensor zero = affine(in[0], 0.0), positive = binary(Binary::greater, in[0], zero);
        return where(positive, in[1], divide(in[1], where(positive, zero, in[1])));
      },
      [](std::span<const Operand> in) {
        std::vector<double> y;
        for (std::size_t i = 0; i < in[0].values.size(); ++i) y.push_back(in[0].values[i] > 0.0 ? in[1].values[i] : 1.0);
        return y;
      });
  add_error([] { where(Tensor::zeros({2}), Tensor::zeros({2, 3}), Tensor::zeros({3})); }, "[2, 3] and [2] do not broadcast\nHINT: ");
  add_error([] { where(Tensor::zeros({3}, DType::i32), Tensor::zeros({3}), Tensor::zeros({3})); }, "i32 on cpu meets f32 on cpu");
}

OP_CASES(affine) {
  for (const Shape& shape : {Shape{0}, Shape{1}, Shape{2, 7}, Shape{3, 1027}}) {
    add_case(
        shape.text(), {uniform(shape)}, [](std::span<const Tensor> in) { return affine(in[0], -1.75, 0.5); },
        [](std::span<const Operand> in) {
          std::vector<double> y;
          for (const double x : in[0].values) y.push_back(0.5 - 1.75 * x);
          return y;
        });
  }
  add_error([] { affine(Tensor::zeros({3}, DType::u8), 1.0); }, "affine: operands must have one shape and one dtype, f32 or f64; x u8 [3]");
}

OP_CASES(swiglu) {
  for (const Shape& shape : {Shape{0, 4}, Shape{1, 1}, Shape{3, 7}, Shape{5, 515}}) {
    add_case(
        shape.text(), {uniform(shape, -5.0, 5.0), uniform(shape, -2.0, 2.0, 2)},
        [](std::span<const Tensor> in) { return swiglu(in[0], in[1]); },
        [](std::span<const Operand> in) {
          std::vector<double> y;
          for (std::size_t i = 0; i < in[0].values.size(); ++i)
            y.push_back(in[1].values[i] * in[0].values[i] / (1.0 + std::exp(-in[0].values[i])));
          return y;
        });
  }
  add_case(
      "frozen gate", {constant(uniform({3, 7})), uniform({3, 7}, -2.0, 2.0, 2)},
      [](std::span<const Tensor> in) { return swiglu(in[0], in[1]); },
      [](std::span<const Operand> in) {
        std::vector<double> y;
        for (std::size_t i = 0; i < in[0].values.size(); ++i)
          y.push_back(in[1].values[i] * in[0].values[i] / (1.0 + std::exp(-in[0].values[i])));
        return y;
      });
  add_error([] { swiglu(Tensor::zeros({2, 3}), Tensor::zeros({2, 4})); }, "swiglu: up is [2, 4], expected [2, 3]");
}

OP_CASES(dropout) {
  const DropoutKey key{7, 3, 11};
  for (const double probability : {0.0, 0.25, 0.9}) {
    for (const auto& [rows, width] : {std::pair{1, 1}, {0, 5}, {3, 7}, {33, 130}}) {
      std::vector<std::int32_t> sample;
      for (int r = 0; r < rows; ++r) sample.push_back(1000 - 13 * r);
      add_case(
          "p " + std::to_string(probability) + " " + Shape{rows, width}.text(), {uniform({rows, width}), integers({rows}, sample)},
          [=](std::span<const Tensor> in) { return dropout(in[0], in[1], probability, key); },
          [=](std::span<const Operand> in) {
            const double p = static_cast<float>(probability);
            const std::int64_t columns = in[0].shape[1];
            std::vector<double> y;
            for (std::size_t i = 0; i < in[0].values.size(); ++i) {
              const std::int64_t row = static_cast<std::int64_t>(i) / columns, column = static_cast<std::int64_t>(i) % columns;
              y.push_back(kept(in[1].ids[row], column, key, probability) ? in[0].values[i] / (1.0 - p) : 0.0);
            }
            return y;
          });
    }
  }
  add_error([] { dropout(Tensor::zeros({2, 3}), Tensor::zeros({3}, DType::i32), 0.5, {}); }, "dropout: sample_ids is [3], expected [2]");
  add_error([] { dropout(Tensor::zeros({2, 3}), Tensor::zeros({2}, DType::i32), 1.0, {}); }, "dropout: probability 1");
}

OP_CASES(convert) {
  for (const Shape& shape : {Shape{0, 3}, Shape{1}, Shape{7, 13}, Shape{5, 515}}) {
    add_case(
        "through bf16 " + shape.text(), {constant(uniform(shape, -300.0, 300.0))},
        [](std::span<const Tensor> in) { return convert(convert(in[0], DType::bf16), in[0].dtype()); },
        [](std::span<const Operand> in) {
          std::vector<double> y;
          for (const double x : in[0].values) y.push_back(round_to_bf16(x));
          return y;
        });
    add_case(
        "to f64 and back to f32 " + shape.text(), {constant(uniform(shape, -300.0, 300.0))},
        [](std::span<const Tensor> in) { return convert(convert(in[0], DType::f64), DType::f32); },
        [](std::span<const Operand> in) {
          std::vector<double> y;
          for (const double x : in[0].values) y.push_back(static_cast<double>(static_cast<float>(x)));
          return y;
        });
  }
  add_error(
      [] {
        convert(Tensor::zeros({2, 3}), DType::i32);
      },
      "convert: x (f32, f64, bf16, f16 or block-quantised) and y (f32, f64 or bf16)");
}

TEST_CASE("convert passes gradients on, in the dtype of its operand") {
  std::vector<Device> devices = {cpu_device};
  if constexpr (has_cuda) devices.push_back({DeviceType::cuda, 0});
  for (const Device device : devices) {
    Tensor x = Tensor::of(std::vector<float>{1.0f, -2.0f, 3.0f}, {3}, device);
    x.require_gradient();
    const Tensor w = Tensor::of(std::vector<float>{0.5f, 1.0f + 0x1p-7f, 1.0f + 0x1p-10f}, {3}, device);
    for (int pass = 1; pass <= 2; ++pass) {
      Tape tape;
      tape.backward(sum_all(multiply(convert(convert(x, DType::bf16), DType::f32), w)));
      // The gradient passes through bf16: eight significant bits. The second pass adds to the first.
      const float n = static_cast<float>(pass);
      CHECK(x.gradient().to_vector<float>() == std::vector<float>{0.5f * n, (1.0f + 0x1p-7f) * n, n});
    }
  }
}

OP_CASES(axpy) {
  for (const Shape& shape : {Shape{0}, Shape{1}, Shape{3, 5}, Shape{3, 1027}}) {
    add_case(
        shape.text(), {constant(uniform(shape)), constant(uniform(shape, -1.0, 1.0, 2))},
        [](std::span<const Tensor> in) {
          Tensor y = in[1].clone();
          axpy(-0.75, in[0], y);
          return y;
        },
        [](std::span<const Operand> in) {
          std::vector<double> y;
          for (std::size_t i = 0; i < in[0].values.size(); ++i) y.push_back(in[1].values[i] - 0.75 * in[0].values[i]);
          return y;
        });
  }
  add_error([] { axpy(1.0, Tensor::zeros({2, 3}), Tensor::zeros({3, 2})); }, "axpy: x is [2, 3], expected [3, 2]");
}
