// Frozen products with low-rank adapters. Rows in chunks whose y stays in cache: the product with the weight, then the low-rank part added
// to it, by the same row-invariant products (cpu/matmul.cpp) a run of rows with one adapter at a time. 2 rows (outputs inputs + rank
// (inputs + outputs)) operations forward. Backward: a run of rows after the other, in ascending order.
#include "base/kernels/linear_lora.h"

#include <algorithm>

#include "base/kernels/elementwise.h"
#include "base/kernels/matmul.h"
#include "cpu/run.h"
#include "cpu/shape_check.h"

namespace expctr::cpu {
namespace {

constexpr std::int64_t row_chunk = 384;

View matrix(const View& view, std::int64_t begin, std::int64_t rows) {
  View part = view;
  part.rank = 2;
  part.shape[0] = rows;
  part.shape[1] = view.width();
  part.data = view.as<float>() + begin * view.width();
  return part;
}

View vector(const View& view, std::int64_t begin, std::int64_t count) {
  View part = view;
  part.rank = 1;
  part.shape[0] = count;
  if (!view.empty()) part.data = view.as<std::int32_t>() + begin;
  return part;
}

View floats(float* data, std::int64_t rows, std::int64_t width) {
  View view;
  view.data = data;
  view.rank = 2;
  view.shape[0] = rows;
  view.shape[1] = width;
  return view;
}

/// Matrix `id` of a stack.
View adapter(const View& stack, std::int32_t id) { return matrix(stack, id * stack.shape[1], stack.shape[1]); }

/// f(id, begin, count) for each run of rows begin .. end - 1 with one id.
template <class F>
void for_runs(const View& ids, std::int64_t begin, std::int64_t end, F f) {
  const std::int32_t* id = ids.as<std::int32_t>();
  for (std::int64_t first = begin; first < end;) {
    std::int64_t last = end;
    if (id != nullptr) {
      last = first + 1;
      while (last < end && id[last] == id[first]) ++last;
    }
    f(id == nullptr ? 0 : id[first], first, last - first);
    first = last;
  }
}

Dropout dropout_of(const LoraDropout& d, const View& x, std::int64_t begin, const View& y, bool accumulate) {
  return {d.probability, d.key_low, d.key_high, d.step, d.channel, accumulate, x, vector(d.sample, begin, x.rows()), y};
}

template <class Args>
void check_arguments(const char* kernel, const Args& args, const View& y) {
  const PackedWeight& weight = args.weight;
  const auto check = [&](bool holds, const char* rule) {
    require_arguments(holds, kernel, rule, {{"x", args.x}, {"a", args.a}, {"b", args.b}, {"ids", args.ids}, {"low", args.low}, {"y", y}});
  };
  const std::int64_t rows = args.x.rows();
  check(args.x.dtype == DType::f32 && y.dtype == DType::f32 && args.a.dtype == DType::f32 && args.b.dtype == DType::f32, "f32 throughout");
  check(args.x.width() == weight.inputs && y.width() == weight.outputs && y.rows() == rows, "x is [rows, inputs], y [rows, outputs]");
  check(args.a.rank == 3 && args.b.rank == 3 && args.a.shape[0] == args.b.shape[0], "a and b are stacks of as many adapters");
  check(args.a.shape[2] == weight.inputs && args.b.shape[1] == weight.outputs && args.a.shape[1] == args.b.shape[2],
        "a is [adapters, rank, inputs], b [adapters, outputs, rank]");
  check(args.low.dtype == DType::f32 && args.low.rows() == rows && args.low.width() == args.a.shape[1], "low is f32 [rows, rank]");
  check(args.ids.empty() || (args.ids.dtype == DType::i32 && args.ids.size() == rows), "ids are i32 [rows] or absent");
  check(view_bytes(args.scratch) >= scratch_bytes(args), "scratch has scratch_bytes()");
  if (const std::int32_t* ids = args.ids.template as<std::int32_t>())
    for (std::int64_t r = 0; r < rows; ++r)
      if (ids[r] >= args.a.shape[0])
        throw ShapeError(std::string(kernel) + ": adapter " + std::to_string(ids[r]) + " of row " + std::to_string(r) + " is not below " +
                             std::to_string(args.a.shape[0]),
                         "ids name stacked adapters, or are negative for the weight alone");
}

}  // namespace

template <>
std::size_t scratch_bytes(const LinearLoraForward& args) {
  return args.dropout.probability > 0 ? sizeof(float) * std::min(row_chunk, args.x.rows()) * args.x.width() : 0;
}

template <>
void run(const LinearLoraForward& args, Stream stream) {
  check_arguments("LinearLoraForward", args, args.y);
  for (std::int64_t r0 = 0; r0 < args.x.rows(); r0 += row_chunk) {
    const std::int64_t rows = std::min(row_chunk, args.x.rows() - r0);
    const View x = matrix(args.x, r0, rows);
    run(LinearFrozen{args.weight, x, args.bias, matrix(args.y, r0, rows)}, stream);
    View input = x;
    if (args.dropout.probability > 0) {
      input = floats(args.scratch.as<float>(), rows, x.width());
      run(dropout_of(args.dropout, x, r0, input, false), stream);
    }
    for_runs(args.ids, r0, r0 + rows, [&](std::int32_t id, std::int64_t begin, std::int64_t count) {
      const View low = matrix(args.low, begin, count);
      if (id < 0) {
        std::fill_n(low.as<float>(), low.size(), 0.0f);
        return;
      }
      run(MatMul{1.0, false, true, false, matrix(input, begin - r0, count), adapter(args.a, id), low}, stream);
      run(MatMul{args.scale, false, true, true, low, adapter(args.b, id), matrix(args.y, begin, count)}, stream);
    });
  }
}

namespace {

/// Parts of the backward pass' scratch, in floats.
struct BackwardParts {
  std::int64_t du, input, back;
  std::size_t frozen_bytes = 0;
  explicit BackwardParts(const LinearLoraBackward& args) {
    du = args.x.rows() * args.low.width();
    const bool drops = args.dropout.probability > 0;
    input = drops ? args.x.size() : 0;
    back = drops && !args.dx.empty() ? args.x.size() : 0;
    if (!args.dx.empty()) frozen_bytes = scratch_bytes(LinearFrozenBackward{args.weight, args.dy, args.dx, {}});
  }
  std::size_t bytes() const { return sizeof(float) * static_cast<std::size_t>(du + input + back) + frozen_bytes; }
};

}  // namespace

template <>
std::size_t scratch_bytes(const LinearLoraBackward& args) {
  return BackwardParts(args).bytes();
}

template <>
void run(const LinearLoraBackward& args, Stream stream) {
  check_arguments("LinearLoraBackward", args, args.dy);
  const BackwardParts parts(args);
  const std::int64_t rows = args.x.rows(), inputs = args.x.width();
  float* scratch = args.scratch.as<float>();
  const View du = floats(scratch, rows, args.low.width());
  View input = args.x, back = args.dx;
  if (parts.input != 0) {
    input = floats(scratch + parts.du, rows, inputs);
    run(dropout_of(args.dropout, args.x, 0, input, false), stream);
  }
  if (!args.dx.empty()) {
    LinearFrozenBackward base{args.weight, args.dy, args.dx, {}};
    base.scratch.data = scratch + parts.du + parts.input + parts.back;
    base.scratch.dtype = DType::u8;
    base.scratch.rank = 1;
    base.scratch.shape[0] = static_cast<std::int64_t>(parts.frozen_bytes);
    run(base, stream);
    if (parts.back != 0) {
      back = floats(scratch + parts.du + parts.input, rows, inputs);
      std::fill_n(back.as<float>(), back.size(), 0.0f);
    }
  }
  for_runs(args.ids, 0, rows, [&](std::int32_t id, std::int64_t begin, std::int64_t count) {
    if (id < 0) return;
    const View dy = matrix(args.dy, begin, count), du_part = matrix(du, begin, count);
    run(MatMul{args.scale, false, false, false, dy, adapter(args.b, id), du_part}, stream);
    if (!args.da.empty()) run(MatMul{1.0, true, false, true, du_part, matrix(input, begin, count), adapter(args.da, id)}, stream);
    if (!args.db.empty()) run(MatMul{args.scale, true, false, true, dy, matrix(args.low, begin, count), adapter(args.db, id)}, stream);
    if (!args.dx.empty()) run(MatMul{1.0, false, false, true, du_part, adapter(args.a, id), matrix(back, begin, count)}, stream);
  });
  if (parts.back != 0) run(dropout_of(args.dropout, back, 0, args.dx, true), stream);
}

}  // namespace expctr::cpu
