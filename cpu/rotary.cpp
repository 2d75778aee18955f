// Rotary position embedding. 12 bytes and 3 operations an element in float: bound by memory.
#include "base/kernels/rotary.h"

#include "cpu/run.h"
#include "cpu/shape_check.h"
#include "cpu/thread_pool.h"

namespace expctr::cpu {
namespace {

template <class T, class Table>
void rotate(const Rotary& args) {
  const std::int64_t tokens = args.x.shape[0], heads = args.x.shape[1], width = args.x.shape[2], half = width / 2;
  const T sign = args.inverse ? T(-1) : T(1);
  parallel_for(tokens, std::max<std::int64_t>(1, 8192 / std::max<std::int64_t>(1, heads * width)),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t t = begin; t < end; ++t) {
                   const Table* angle = args.table.as<Table>() + args.positions.as<std::int32_t>()[t] * width;
                   for (std::int64_t h = 0; h < heads; ++h) {
                     const T* x = args.x.as<T>() + (t * heads + h) * width;
                     T* y = args.y.as<T>() + (t * heads + h) * width;
                     for (std::int64_t i = 0; i < half; ++i) {
                       const T c = static_cast<T>(angle[i]), s = sign * static_cast<T>(angle[half + i]);
                       const T first = x[i] * c - x[half + i] * s, second = x[half + i] * c + x[i] * s;
                       y[i] = args.accumulate ? y[i] + first : first;
                       y[half + i] = args.accumulate ? y[half + i] + second : second;
                     }
                   }
                 }
               });
}

}  // namespace

template <>
void run(const Rotary& args, Stream) {
  const auto check = [&](bool holds, const char* rule) {
    require_arguments(holds, "Rotary", rule, {{"x", args.x}, {"positions", args.positions}, {"table", args.table}, {"y", args.y}});
  };
  check(is_floating(args.x.dtype) && args.y.dtype == args.x.dtype, "x and y are both f32 or both f64");
  check(args.x.rank == 3 && args.x.shape[2] % 2 == 0 && args.y.rank == 3 && args.y.shape[0] == args.x.shape[0] &&
            args.y.shape[1] == args.x.shape[1] && args.y.shape[2] == args.x.shape[2],
        "x and y are [tokens, heads, head_dim], head_dim even");
  check(args.positions.dtype == DType::i32 && args.positions.size() == args.x.shape[0], "positions are i32 [tokens]");
  check(is_floating(args.table.dtype) && args.table.rank == 2 && args.table.shape[1] == args.x.shape[2],
        "table is f32 or f64 [positions, head_dim]");
  for (std::int64_t t = 0; t < args.x.shape[0]; ++t) {
    const std::int32_t position = args.positions.as<std::int32_t>()[t];
    check(position >= 0 && position < args.table.shape[0], "every position has a row of the table");
  }
  const bool wide_table = args.table.dtype == DType::f64;
  if (args.x.dtype == DType::f32)
    wide_table ? rotate<float, double>(args) : rotate<float, float>(args);
  else
    wide_table ? rotate<double, double>(args) : rotate<double, float>(args);
}

}  // namespace expctr::cpu
