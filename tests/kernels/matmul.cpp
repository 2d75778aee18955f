#include "base/kernels/matmul.h"

#include <doctest/doctest.h>

#include "support.h"

using namespace expctr;
using namespace expctr::test;

namespace {

struct Shape {
  std::int64_t batch, m, n, k;
};

/// The rule itself: products added along k in ascending order with fused multiply-add.
template <class T>
void reference(const MatMul& args, Shape s, T* c) {
  const T* a = args.a.as<T>();
  const T* b = args.b.as<T>();
  for (std::int64_t batch = 0; batch < s.batch; ++batch)
    for (std::int64_t m = 0; m < s.m; ++m)
      for (std::int64_t n = 0; n < s.n; ++n) {
        T& element = c[(batch * s.m + m) * s.n + n];
        T sum = args.accumulate ? element : T(0);
        for (std::int64_t k = 0; k < s.k; ++k) {
          const T left = a[batch * s.m * s.k + (args.transpose_a ? k * s.m + m : m * s.k + k)];
          const T right = b[batch * s.k * s.n + (args.transpose_b ? n * s.k + k : k * s.n + n)];
          sum = std::fma(left * static_cast<T>(args.alpha), right, sum);
        }
        element = sum;
      }
}

template <class T>
void compare(Shape s, bool transpose_a, bool transpose_b, bool accumulate, double alpha) {
  Array<T> a({s.batch, transpose_a ? s.k : s.m, transpose_a ? s.m : s.k}), b({s.batch, transpose_b ? s.n : s.k, transpose_b ? s.k : s.n});
  Array<T> c({s.batch, s.m, s.n}), expected({s.batch, s.m, s.n});
  a.random(1);
  b.random(2);
  c.random(3);
  expected.random(3);
  const MatMul args{alpha, transpose_a, transpose_b, accumulate, a.view(), b.view(), c.view()};
  reference(args, s, expected.data());
  cpu::run(args, Stream{});
  CAPTURE(s.batch);
  CAPTURE(s.m);
  CAPTURE(s.n);
  CAPTURE(s.k);
  CAPTURE(transpose_a);
  CAPTURE(transpose_b);
  CHECK(same_bits(c, expected));
  CHECK(c.intact());
}

}  // namespace

TEST_CASE("matmul adds along k in ascending order, whatever the shape, threads and instruction set") {
  const Shape shapes[] = {{1, 1, 1, 1},    {2, 1, 33, 7},     {1, 3, 5, 0},    {0, 2, 2, 2},    {1, 6, 16, 9},
                          {3, 13, 31, 40}, {1, 25, 65, 1100}, {2, 100, 8, 64}, {300, 3, 5, 70}, {1, 200, 40, 17}};
  for_each_setting([&] {
    for (const Shape& s : shapes)
      for (int flags = 0; flags < 8; ++flags) {
        compare<float>(s, flags & 1, flags & 2, flags & 4, flags & 4 ? 1.0 : 0.3);
        if (s.k < 100) compare<double>(s, flags & 1, flags & 2, flags & 4, flags & 4 ? 1.0 : 0.3);
      }
  });
}

TEST_CASE("matmul refuses operands that do not fit and names them") {
  Array<float> a({2, 3}), b({4, 5}), c({2, 5});
  CHECK_THROWS_WITH(cpu::run(MatMul{1, false, false, false, a.view(), b.view(), c.view()}, Stream{}),
                    doctest::Contains("MatMul: op(a) has as many columns as op(b) rows; got a f32 [2, 3], b f32 [4, 5], c f32 [2, 5]"));
  Array<double> d({2, 5});
  CHECK_THROWS(cpu::run(MatMul{1, false, false, false, a.view(), b.view(), d.view()}, Stream{}));
}
