#include "engine/ops/embedding.h"

#include <cmath>
#include <cstring>

#include "tests/ops/op_cases.h"

using namespace expctr;
using namespace expctr::test;

namespace {

std::vector<std::int32_t> some_ids(std::int64_t n, std::int64_t rows) {
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < n; ++i) ids.push_back(i % 5 == 4 ? -1 : static_cast<std::int32_t>((i * i + 3 * i) % rows));
  return ids;
}

std::vector<double> plain_gather(const Operand& table, const std::vector<std::int32_t>& ids) {
  const std::int64_t width = table.shape[1];
  std::vector<double> y;
  for (const std::int32_t id : ids)
    for (std::int64_t i = 0; i < width; ++i) y.push_back(id < 0 ? 0.0 : table.values[id * width + i]);
  return y;
}

/// The nearest float16 numbers of 1, 0.5 and 2 as bits, and of the block formats one block a row.
Tensor stored_table(DType dtype, Device device) {
  std::vector<std::uint8_t> bytes;
  for (int row = 0; row < 3; ++row) {
    if (dtype == DType::bf16 || dtype == DType::f16) {
      for (int i = 0; i < 32; ++i) {
        const std::uint16_t one = dtype == DType::bf16 ? 0x3F80 : 0x3C00, two = dtype == DType::bf16 ? 0x4000 : 0x4000;
        const std::uint16_t bits = (i + row) % 3 == 0 ? one : (i + row) % 3 == 1 ? two : 0;
        bytes.push_back(static_cast<std::uint8_t>(bits & 255));
        bytes.push_back(static_cast<std::uint8_t>(bits >> 8));
      }
    } else if (dtype == DType::q8_0) {  // d = 0.5
      bytes.insert(bytes.end(), {0x00, 0x38});
      for (int i = 0; i < 32; ++i) bytes.push_back(static_cast<std::uint8_t>(i - 16 + row));
    } else {  // q4_1: d = 0.5, m = -1
      bytes.insert(bytes.end(), {0x00, 0x38, 0x00, 0xBC});
      for (int i = 0; i < 16; ++i) bytes.push_back(static_cast<std::uint8_t>(((i + row) & 15) | ((15 - i) << 4)));
    }
  }
  return Tensor::of_bytes(std::as_bytes(std::span(bytes)), {3, 32}, dtype, device);
}

double stored_value(DType dtype, int row, int i) {
  if (dtype == DType::bf16 || dtype == DType::f16) return (i + row) % 3 == 0 ? 1.0 : (i + row) % 3 == 1 ? 2.0 : 0.0;
  if (dtype == DType::q8_0) return 0.5 * (i - 16 + row);
  return 0.5 * (i < 16 ? (i + row) & 15 : 31 - i) - 1.0;
}

std::vector<double> plain_concatenation(std::span<const Operand> in) {
  std::vector<double> y;
  for (std::int64_t r = 0; r < in[0].shape[0]; ++r)
    for (const Operand& part : in)
      for (std::int64_t i = 0; i < part.shape[1]; ++i) y.push_back(part.values[r * part.shape[1] + i]);
  return y;
}

}  // namespace

OP_CASES(gather) {
  for (const auto& [rows, width, n] : {std::array<std::int64_t, 3>{1, 1, 1}, {5, 3, 0}, {7, 5, 23}, {11, 16, 3}, {101, 67, 401}}) {
    const std::vector<std::int32_t> ids = some_ids(n, rows);
    add_case(
        "of " + Shape{rows, width}.text() + ", " + std::to_string(n) + " ids", {parameter(uniform({rows, width})), integers({n}, ids)},
        [](std::span<const Tensor> in) { return gather(in[0], in[1]); },
        [](std::span<const Operand> in) { return plain_gather(in[0], in[1].ids); }, n);
  }
  // The frozen row is read, but has no gradient: in the reference it does not depend on the operand.
  const std::vector<std::int32_t> ids = {0, 3, 2, 3, -1, 1, 3};
  Operand table = uniform({4, 5});
  for (double& value : table.values) value = static_cast<double>(static_cast<float>(value));  // the same number in both dtypes
  add_case(
      "with a frozen row", {parameter(table), integers({7}, ids)}, [](std::span<const Tensor> in) { return gather(in[0], in[1], 3); },
      [table](std::span<const Operand> in) {
        Operand held = in[0];
        for (std::size_t i = 15; i < 20; ++i) held.values[i] = table.values[i];
        return plain_gather(held, in[1].ids);
      },
      3);
  for (const DType dtype : {DType::bf16, DType::f16, DType::q8_0, DType::q4_1}) {
    add_case(
        std::string("of ") + dtype_name(dtype), {integers({5}, {2, 0, -1, 1, 2})},
        [dtype](std::span<const Tensor> in) { return gather(stored_table(dtype, in[0].device()), in[0]); },
        [dtype](std::span<const Operand> in) {
          std::vector<double> y;
          for (const std::int32_t id : in[0].ids)
            for (int i = 0; i < 32; ++i) y.push_back(id < 0 ? 0.0 : stored_value(dtype, id, i));
          return y;
        });
  }
  add_error([] { gather(Tensor::zeros({6}), Tensor::zeros({2}, DType::i32)); }, "gather: table is [6], expected 2 axes");
  add_error(
      [] {
        gather(Tensor::zeros({6, 2}), Tensor::of(std::vector<std::int32_t>{0, 6}, {2}));
      },
      "gather: ids holds 6, but must stay below 6");
  add_error([] { gather(Tensor::zeros({6, 2}), Tensor::zeros({2})); }, "gather: ids must be i32");
}

OP_CASES(concat_columns) {
  for (const std::int64_t rows : {0, 1, 3, 67}) {
    add_case(
        std::to_string(rows) + " rows of 5, 0, 1 and 66",
        {uniform({rows, 5}), uniform({rows, 0}), uniform({rows, 1}, -1.0, 1.0, 2), uniform({rows, 66}, -1.0, 1.0, 3)},
        [](std::span<const Tensor> in) { return concat_columns(in); }, plain_concatenation);
  }
  add_case(
      "one part frozen", {uniform({3, 4}), constant(uniform({3, 2}, -1.0, 1.0, 2)), uniform({3, 3}, -1.0, 1.0, 3)},
      [](std::span<const Tensor> in) { return concat_columns(in); }, plain_concatenation);
  add_error([] { concat_columns({Tensor::zeros({2, 3}), Tensor::zeros({3, 3})}); }, "concat_columns: [2, 3] beside [3, 3]");
  add_error([] { concat_columns(std::span<const Tensor>()); }, "concat_columns: no parts");
}

OP_CASES(slice_columns) {
  struct Case {
    Shape shape;
    std::int64_t begin, count;
  };
  for (const Case& c : {Case{{1, 1}, 0, 1}, Case{{0, 4}, 1, 2}, Case{{3, 7}, 2, 5}, Case{{3, 7}, 7, 0}, Case{{67, 130}, 1, 127}}) {
    add_case(
        std::to_string(c.count) + " from " + std::to_string(c.begin) + " of " + c.shape.text(), {uniform(c.shape)},
        [c](std::span<const Tensor> in) { return slice_columns(in[0], c.begin, c.count); },
        [c](std::span<const Operand> in) {
          std::vector<double> y;
          for (std::int64_t r = 0; r < c.shape[0]; ++r)
            for (std::int64_t i = 0; i < c.count; ++i) y.push_back(in[0].values[r * c.shape[1] + c.begin + i]);
          return y;
        });
  }
  add_error([] { slice_columns(Tensor::zeros({2, 3}), 2, 2); }, "slice_columns: columns 2 to 4 of [2, 3]");
  add_error([] { slice_columns(Tensor::zeros({2, 3}), -1, 2); }, "slice_columns: columns -1 to 1 of [2, 3]");
}
