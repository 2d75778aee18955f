// Planted faults: each check of the op table must notice the fault it is there for.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include "base/error.h"
#include "cpu/thread_pool.h"
#include "cuda/device.h"
#include "engine/autograd/tape.h"
#include "engine/core/build_info.h"
#include "engine/core/run.h"
#include "engine/ops/elementwise.h"
#include "engine/ops/layout.h"
#include "tests/ops/checks.h"

namespace expctr::test {
namespace {

OpCase doubling(Operation run, const Shape& shape = {3, 5}) {
  OpCase c;
  c.op = "planted";
  c.label = "y = 2 x";
  c.operands = {uniform(shape)};
  c.run = std::move(run);
  c.reference = [](std::span<const Operand> in) {
    std::vector<double> y;
    for (const double x : in[0].values) y.push_back(2.0 * x);
    return y;
  };
  return c;
}

Tensor right(std::span<const Tensor> in) { return affine(dense(in[0]), 2.0); }

// y = 2 x with a gradient of another factor.
Tensor with_gradient(const Tensor& x, double factor) {
  const Tensor y = affine(x.detached(), 2.0);
  return record("planted", y, {x}, [=](const Tensor& dy, const GradientSlots& d) { run(x.device(), Axpy{factor, dy, d[0]}); });
}

void write_byte(const Tensor& tensor, std::ptrdiff_t at) {
  auto* byte = static_cast<unsigned char*>(tensor.data()) + at;
  if (!tensor.device().is_cuda()) {
    *byte = 0;
  } else if constexpr (has_cuda) {
    cuda::fill_bytes(byte, 0, 1, tensor.stream());
  }
}

void check_in_all_places(const char* fault, const OpCase& c, Problems (*check)(const OpCase&, const Place&), bool noticed) {
  for (const Place& place : places()) {
    const Problems problems = guarded("planted", [&] { return check(c, place); });
    CHECK_MESSAGE(problems.empty() != noticed, fmt::format("{} on {}: {}", fault, place_name(place), problems.empty() ? "not noticed" : problems[0]));
  }
}

}  // namespace

TEST_CASE("planted: what is right passes every check") {
  const OpCase c = doubling(right);
  check_in_all_places("right", c, check_values, false);
  check_in_all_places("right", c, check_gradients, false);
  check_in_all_places("right", c, check_strided, false);
  CHECK(check_threads(c).empty());
}

TEST_CASE("planted: a value that is wrong by little more than the tolerance is noticed") {
  for (const Place& place : places()) {
    const double factor = 2.0 * (1.0 + 1.5 * tolerance(place, 1) + (place.dtype == DType::bf16 ? 0x1p-8 : 0.0));
    const OpCase c = doubling([factor](std::span<const Tensor> in) { return affine(in[0], factor); });
    CHECK_MESSAGE(check_values(c, place).size() == 1, place_name(place));
  }
  const OpCase one = doubling([](std::span<const Tensor> in) {  // one element of many
    const Tensor y = affine(in[0], 2.0);
    y.slice_rows(2, 1).fill(0.0);
    return y;
  });
  check_in_all_places("one row", one, check_values, true);
  check_in_all_places("shape", doubling([](std::span<const Tensor> in) { return affine(in[0], 2.0).slice_rows(0, 2); }), check_values, true);
}

TEST_CASE("planted: a wrong gradient is noticed in the place where it is wrong") {
  for (const Place& wrong : places()) {
    for (const double factor : {2.1, -2.0, 0.0}) {
      for (const Shape& shape : {Shape{3, 5}, Shape{41, 5}}) {
        const OpCase c = doubling(
            [=](std::span<const Tensor> in) {
              const bool here = in[0].dtype() == wrong.dtype && in[0].device() == wrong.device;
              return with_gradient(in[0], here ? factor : 2.0);
            },
            shape);
        CHECK_MESSAGE(!check_gradients(c, wrong).empty(), fmt::format("factor {} of {} on {}", factor, shape.text(), place_name(wrong)));
        OpCase without_f64 = c;
        without_f64.float64 = false;
        if (wrong.dtype != DType::f64) CHECK_MESSAGE(!check_gradients(without_f64, wrong).empty(), place_name(wrong));
      }
    }
  }
  // The weighted sum of all outputs is right, the Jacobian is not: outputs 0 and 1 have each other's gradient where both weights are equal.
  const OpCase exchanged = doubling([](std::span<const Tensor> in) {
    const Tensor x = in[0], y = affine(x.detached(), 2.0);
    return record("planted", y, {x}, [=](const Tensor& dy, const GradientSlots& d) {
      run(x.device(), Axpy{2.0, dy, d[0]});
      double set = 0.0;
      for (const double v : values_of(dy)) set += v == 0.0 ? 0.0 : 1.0;
      if (set == 1.0) run(x.device(), Axpy{1e-3, dy, d[0]});  // wrong for unit weights only
    });
  });
  CHECK_FALSE(check_gradients(exchanged, {cpu_device, DType::f64}).empty());
}

TEST_CASE("planted: a write outside of the output is noticed, before and behind it, on every device") {
  for (const std::ptrdiff_t beyond : {0, 3, 63}) {
    const OpCase c = doubling([beyond](std::span<const Tensor> in) {
      const Tensor y = affine(in[0], 2.0);
      write_byte(y, static_cast<std::ptrdiff_t>(y.bytes()) + beyond);
      return y;
    });
    check_in_all_places("behind", c, check_values, true);
  }
  for (const std::ptrdiff_t before : {-1, -256}) {
    const OpCase c = doubling([before](std::span<const Tensor> in) {
      const Tensor y = affine(in[0], 2.0);
      write_byte(y, before);
      return y;
    });
    check_in_all_places("before", c, check_values, true);
  }
}

TEST_CASE("planted: an output that is not written, and memory that is read before it was written, are noticed") {
  const OpCase unwritten = doubling([](std::span<const Tensor> in) {
    const Tensor y = in[0].detached().empty_like();
    y.slice_rows(0, 2).copy_from(affine(in[0].slice_rows(0, 2), 2.0));
    return y;
  });
  check_in_all_places("a row is left out", unwritten, check_values, true);
  const OpCase accumulating = doubling([](std::span<const Tensor> in) {  // adds to what was never set
    const Tensor y = in[0].detached().empty_like();
    run(y.device(), Axpy{2.0, in[0], y});
    return y;
  });
  check_in_all_places("accumulation", accumulating, check_values, true);
}

TEST_CASE("planted: an op that takes strided operands for dense ones is noticed") {
  const OpCase ignoring = doubling([](std::span<const Tensor> in) {
    const Tensor y = in[0].detached().empty_like();
    View x = in[0].strided_view();
    fill_dense_strides(x.rank, x.shape, x.stride);
    run(y.device(), Affine{2.0, 0.0, x, y});
    return y;
  });
  check_in_all_places("ignores strides", ignoring, check_strided, true);
  check_in_all_places("refuses strides", doubling([](std::span<const Tensor> in) {
                        const Tensor y = in[0].detached().empty_like();
                        run(y.device(), Affine{2.0, 0.0, in[0], y});
                        return y;
                      }),
                      check_strided, true);
}

TEST_CASE("planted: a result that depends on the number of threads is noticed") {
  const OpCase c = doubling([](std::span<const Tensor> in) { return affine(in[0], cpu::thread_count() == 2 ? 2.0 : 2.0000002); });
  CHECK(check_threads(c).size() >= 1);
}

TEST_CASE("planted: a hole in the support is noticed, forward and backward, and a missing case") {
  const auto refuse = [](const Tensor& x) {
    if (x.dtype() == DType::bf16) throw Error("planted: no bf16");
  };
  const OpCase forward = doubling([refuse](std::span<const Tensor> in) {
    refuse(in[0]);
    return right(in);
  });
  const OpCase backward = doubling([refuse](std::span<const Tensor> in) {
    const Tensor x = in[0], y = affine(x.detached(), 2.0);
    return record("planted", y, {x}, [=](const Tensor& dy, const GradientSlots& d) {
      refuse(dy);
      run(x.device(), Axpy{2.0, dy, d[0]});
    });
  });
  for (const Place& place : places()) {
    const bool hole = place.dtype == DType::bf16;
    CHECK((check_support("planted", {forward}, place).support == Support::hole) == hole);
    CHECK((check_support("planted", {backward}, place).support == Support::hole) == hole);
    CHECK(check_support("planted", {doubling(right)}, place).support == Support::yes);
    CHECK(check_support("planted", {}, place).support == Support::hole);
    OpCase only_f32 = doubling(right);
    only_f32.float64 = only_f32.bf16 = false;
    CHECK((check_support("planted", {only_f32}, place).support == Support::hole) == (place.dtype != DType::f32));
  }
}

}  // namespace expctr::test
