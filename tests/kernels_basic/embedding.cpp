#include "base/kernels/embedding.h"

#include "guarded.h"

using namespace expctr;
using namespace expctr::kernel_test;

TEST_CASE_TEMPLATE("gather and its gradient", T, float, double) {
  struct Shape {
    std::int64_t rows, width, n;
  };
  for (const auto [rows, width, n] : {Shape{1, 1, 1}, Shape{5, 3, 0}, Shape{7, 5, 40}, Shape{101, 17, 3001}}) {
    const std::int64_t r = rows, w = width, count = n;
    const std::vector<T> table = values<T>(r * w, 1), dy = values<T>(count * w, 2), d0 = values<T>(r * w, 3);
    const std::vector<std::int32_t> id = ids(count, 4, -1, static_cast<int>(r));
    for (const std::int64_t frozen : {-1, 0}) {
      const auto results = on_one_and_two_threads([&] {
        Guarded<T> vt({r, w}, table), vy({count, w}, std::vector<T>(dy.size(), T(9))), vdy({count, w}, dy), dt({r, w}, d0);
        Guarded<std::int32_t> vi({count}, id);
        cpu::run(Gather{vt.view(), vi.view(), vy.view()}, {});
        const GatherBackward args{frozen, vdy.view(), vi.view(), dt.view(), {}};
        CHECK(cpu::scratch_bytes(args) == 0);
        cpu::run(args, {});
        return Outputs<T>{vy.values(), dt.values()};
      });
      std::vector<double> y;
      std::vector<T> dt = d0;  // in T and in ascending order: the same bits
      for (std::size_t i = 0; i < id.size(); ++i) {
        for (std::int64_t c = 0; c < w; ++c) {
          const std::size_t at = static_cast<std::size_t>(id[i] * w + c);
          y.push_back(id[i] < 0 ? 0.0 : static_cast<double>(table[at]));
          if (id[i] >= 0 && id[i] != frozen) dt[at] += dy[i * static_cast<std::size_t>(w) + static_cast<std::size_t>(c)];
        }
      }
      CHECK(in_double(results[0]) == y);
      CHECK(results[1] == dt);
    }
  }
}

TEST_CASE("gather reads half precision and blocks") {
  Guarded<std::uint8_t> halves({8}, {0x80, 0x3F, 0x00, 0x40, 0x40, 0x40, 0x80, 0x40});  // bf16 1, 2 | 3, 4
  View table = halves.view(DType::bf16);
  table.rank = 2;
  table.shape[0] = table.shape[1] = 2;
  Guarded<std::int32_t> id({3}, {1, -1, 0});
  Guarded<float> y({3, 2}, std::vector<float>(6, 9.0f));
  cpu::run(Gather{table, id.view(), y.view()}, {});
  CHECK(y.values() == std::vector<float>{3, 4, 0, 0, 1, 2});

  std::vector<std::uint8_t> bytes;
  for (int row = 0; row < 2; ++row) {  // q8_0, d = 1 and 2
    bytes.push_back(0x00);
    bytes.push_back(row == 0 ? 0x3C : 0x40);
    for (int j = 0; j < 32; ++j) bytes.push_back(static_cast<std::uint8_t>(j));
  }
  Guarded<std::uint8_t> blocks({68}, bytes);
  View quantised = blocks.view(DType::q8_0);
  quantised.rank = 2;
  quantised.shape[0] = 2;
  quantised.shape[1] = 32;
  Guarded<float> z({3, 32}, std::vector<float>(96));
  cpu::run(Gather{quantised, id.view(), z.view()}, {});
  CHECK(z.values()[5] == 10.0f);
  CHECK(z.values()[32 + 5] == 0.0f);
  CHECK(z.values()[64 + 5] == 5.0f);
}

TEST_CASE_TEMPLATE("copy of a block of columns", T, float, double) {
  const std::int64_t rows = 700, from = 41, to = 37, columns = 29;
  const std::vector<T> x = values<T>(rows * from, 1), y0 = values<T>(rows * to, 2);
  for (const bool accumulate : {false, true}) {
    const auto results = on_one_and_two_threads([&] {
      Guarded<T> vx({rows, from}, x), vy({rows, to}, y0);
      cpu::run(CopyColumns{columns, 3, 8, accumulate, vx.view(), vy.view()}, {});
      return Outputs<T>{vy.values()};
    });
    std::vector<T> y = y0;
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t c = 0; c < columns; ++c) {
        T& at = y[static_cast<std::size_t>(r * to + 8 + c)];
        at = (accumulate ? at : T(0)) + x[static_cast<std::size_t>(r * from + 3 + c)];
      }
    }
    CHECK(results[0] == y);
  }
}

TEST_CASE("look-up errors name the op, the id and the shapes") {
  Guarded<float> table({3, 2}, values<float>(6, 1)), y({2, 2}, values<float>(4, 2)), wide({2, 5}, values<float>(10, 3));
  Guarded<std::int32_t> good({2}, {0, 2}), bad({2}, {0, 3}), many({3}, {0, 1, 2});
  CHECK(contains(message_of([&] {
                   cpu::run(Gather{table.view(), bad.view(), y.view()}, {});
                 }),
                 "gather: ids holds 3, but must stay below 3"));
  CHECK(contains(message_of([&] {
                   cpu::run(GatherBackward{-1, y.view(), bad.view(), table.view(), {}}, {});
                 }),
                 "gather backward: ids holds 3"));
  CHECK(contains(message_of([&] { cpu::run(Gather{table.view(), many.view(), y.view()}, {}); }), "ids must be i32 with 2 elements"));
  CHECK(contains(message_of([&] { cpu::run(Gather{table.view(), good.view(), wide.view()}, {}); }), "y f32 [2, 5]"));
  CHECK(contains(message_of([&] { cpu::run(CopyColumns{2, 1, 0, false, y.view(), wide.view()}, {}); }), "copy_columns: "));
  CHECK(contains(message_of([&] { cpu::run(CopyColumns{2, 0, 4, false, y.view(), wide.view()}, {}); }), "copy_columns: "));
}
