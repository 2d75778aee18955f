#include "base/kernels/reduce.h"

#include "guarded.h"

using namespace expctr;
using namespace expctr::kernel_test;

TEST_CASE_TEMPLATE("sum over the middle axis, forward and backward", T, float, double) {
  struct Shape {
    std::int64_t outer, n, inner;
  };
  for (const auto [outer, n, inner] : {Shape{1, 1, 1}, Shape{0, 3, 2}, Shape{2, 0, 3}, Shape{3, 5, 7}, Shape{5, 37, 1}, Shape{1, 1001, 65},
                                       Shape{1, 10001, 1}, Shape{2, 9001, 3}, Shape{1, 4097, 70}, Shape{4000, 9, 1}}) {
    CAPTURE(outer);
    CAPTURE(n);
    CAPTURE(inner);
    const std::vector<T> x = values<T>(outer * n * inner, 1), dy = values<T>(outer * inner, 2), dx0 = values<T>(outer * n * inner, 3);
    const auto results = on_one_and_two_threads([&] {
      Guarded<T> vx({outer, n, inner}, x), vy({outer, inner}, std::vector<T>(dy.size(), T(9))), vdy({outer, inner}, dy),
          vdx({outer, n, inner}, dx0);
      SumForward args{0.25, vx.view(), vy.view(), {}};
      const std::int64_t scratch = static_cast<std::int64_t>(cpu::scratch_bytes(args) / sizeof(double));
      Guarded<double> memory({scratch}, std::vector<double>(static_cast<std::size_t>(scratch), 1e9));
      args.scratch = memory.view();
      cpu::run(args, {});
      cpu::run(SumBackward{0.25, vdy.view(), vdx.view()}, {});
      return Outputs<T>{vy.values(), vdx.values()};
    });
    std::vector<double> y(dy.size()), dx = in_double(dx0);
    for (std::int64_t o = 0; o < outer; ++o) {
      for (std::int64_t i = 0; i < n; ++i) {
        for (std::int64_t j = 0; j < inner; ++j) {
          y[static_cast<std::size_t>(o * inner + j)] += 0.25 * static_cast<double>(x[static_cast<std::size_t>((o * n + i) * inner + j)]);
          dx[static_cast<std::size_t>((o * n + i) * inner + j)] += 0.25 * static_cast<double>(dy[static_cast<std::size_t>(o * inner + j)]);
        }
      }
    }
    check_close(results[0], y, 2);
    check_close(results[1], dx);
  }
}

TEST_CASE_TEMPLATE("mean of segments, forward and backward", T, float, double) {
  for (const std::int64_t width : {1, 5, 130}) {
    const std::vector<std::int32_t> offsets = {2, 2, 3, 40, 40, 199, 203};  // rows 0, 1 and 203 belong to no segment
    const std::int64_t segments = 6, rows = 204;
    const std::vector<T> x = values<T>(rows * width, 1), dy = values<T>(segments * width, 2), dx0 = values<T>(rows * width, 3);
    const auto results = on_one_and_two_threads([&] {
      Guarded<T> vx({rows, width}, x), vy({segments, width}, std::vector<T>(dy.size(), T(9))), vdy({segments, width}, dy),
          vdx({rows, width}, dx0);
      Guarded<std::int32_t> vo({segments + 1}, offsets);
      cpu::run(SegmentMeanForward{vx.view(), vo.view(), vy.view()}, {});
      cpu::run(SegmentMeanBackward{vdy.view(), vo.view(), vdx.view()}, {});
      return Outputs<T>{vy.values(), vdx.values()};
    });
    std::vector<double> y(dy.size()), dx = in_double(dx0);
    for (std::size_t s = 0; s < 6; ++s) {
      for (std::int64_t r = offsets[s]; r < offsets[s + 1]; ++r) {
        for (std::int64_t c = 0; c < width; ++c) {
          const std::size_t from = static_cast<std::size_t>(r * width + c),
                            to = s * static_cast<std::size_t>(width) + static_cast<std::size_t>(c);
          y[to] += static_cast<double>(x[from]) / (offsets[s + 1] - offsets[s]);
          dx[from] += static_cast<double>(dy[to]) / (offsets[s + 1] - offsets[s]);
        }
      }
    }
    check_close(results[0], y);
    check_close(results[1], dx);
  }
}

TEST_CASE("sum of squares over tensors") {
  const std::vector<float> a = values<float>(10007, 1);
  const std::vector<double> b = values<double>(3, 2);
  const auto results = on_one_and_two_threads([&] {
    Guarded<float> va({10007}, a);
    Guarded<double> vb({3}, b), nothing({0}, {}), total({1}, {9.0});
    const View tensors[] = {va.view(), nothing.view(), vb.view()};
    SquaredNorm args{tensors, 3, total.view(), {}};
    const std::int64_t scratch = static_cast<std::int64_t>(cpu::scratch_bytes(args) / sizeof(double));
    Guarded<double> memory({scratch}, std::vector<double>(static_cast<std::size_t>(scratch), 1e9));
    CHECK(contains(message_of([&] { cpu::run(args, {}); }), "scratch needs"));
    args.scratch = memory.view();
    cpu::run(args, {});
    return Outputs<double>{total.values()};
  });
  double expected = 0;
  for (const float value : a) expected += static_cast<double>(value) * static_cast<double>(value);
  for (const double value : b) expected += value * value;
  CHECK(results[0][0] == doctest::Approx(expected).epsilon(1e-13));
  Guarded<double> total({1}, {9.0});
  cpu::run(SquaredNorm{nullptr, 0, total.view(), {}}, {});
  CHECK(total.values()[0] == 0.0);
}

TEST_CASE("reduction errors name the op and the shapes") {
  Guarded<float> x({2, 3, 4}, values<float>(24, 1)), y({2, 3}, values<float>(6, 2)), flat({6, 4}, values<float>(24, 1)),
      means({2, 4}, values<float>(8, 3));
  CHECK(contains(message_of([&] { cpu::run(SumForward{1, x.view(), y.view(), {}}, {}); }), "sum: x must be [outer, n, inner]"));
  CHECK(contains(message_of([&] { cpu::run(SumBackward{1, y.view(), x.view()}, {}); }), "dx f32 [2, 3, 4]"));
  for (const std::vector<std::int32_t>& bad : {std::vector<std::int32_t>{0, 5, 7}, {0, 4, 3}, {-1, 2, 3}}) {
    Guarded<std::int32_t> offsets({3}, bad);
    CHECK(contains(message_of([&] {
                     cpu::run(SegmentMeanForward{flat.view(), offsets.view(), means.view()}, {});
                   }),
                   "offsets must ascend within [0, 6]"));
    CHECK(contains(message_of([&] {
                     cpu::run(SegmentMeanBackward{means.view(), offsets.view(), flat.view()}, {});
                   }),
                   "offsets must ascend"));
  }
}
