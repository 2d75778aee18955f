#include "engine/ops/sparse_matrix.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "engine/core/build_info.h"
#include "tests/ops/op_cases.h"
#include "tests/support/oracle.h"
#include "tests/support/paths.h"

using namespace expctr;
using namespace expctr::test;

namespace {

struct Entries {
  std::vector<std::int32_t> rows, columns;
  std::vector<double> values;
};

/// Row r has r * step % most entries; one column may come twice.
Entries some_entries(std::int64_t rows, std::int64_t columns, std::int64_t step, std::int64_t most) {
  Entries e;
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t i = 0; i < (r * step + 1) % most; ++i) {
      e.rows.push_back(static_cast<std::int32_t>(r));
      e.columns.push_back(static_cast<std::int32_t>((r * 7 + i * 5) % columns));
    }
  e.values = uniform({static_cast<std::int64_t>(e.rows.size())}, -1, 1, 9).values;
  return e;
}

}  // namespace

OP_CASES(sparse_matmul) {
  struct Case {
    std::int64_t rows, columns, width, step, most;
    bool values;
  };
  for (const Case& c : {Case{1, 1, 1, 1, 2, true}, Case{3, 2, 0, 1, 2, true}, Case{0, 4, 3, 1, 2, true}, Case{5, 4, 3, 0, 1, true},
                        Case{17, 9, 5, 3, 7, true}, Case{17, 9, 64, 3, 7, false}, Case{40, 30, 68, 5, 21, true},
                        Case{9, 12, 200, 2, 11, true}, Case{6, 20, 16, 299, 600, true}}) {
    const Entries e = some_entries(c.rows, c.columns, c.step, c.most);
    std::int64_t longest = 1;
    for (std::int64_t r = 0; r < c.rows; ++r) longest = std::max(longest, (r * c.step + 1) % c.most);
    for (const std::int32_t column : e.columns)
      longest = std::max<std::int64_t>(longest, std::count(e.columns.begin(), e.columns.end(), column));
    add_case(
        Shape{c.rows, c.columns}.text() + " with " + std::to_string(e.rows.size()) + " entries times width " + std::to_string(c.width) +
            (c.values ? "" : ", ones"),
        {uniform({c.columns, c.width})},
        [c, e](std::span<const Tensor> in) {
          const std::span<const double> values = c.values ? std::span<const double>(e.values) : std::span<const double>();
          return sparse_matmul(sparse_matrix(c.rows, c.columns, e.rows, e.columns, values, in[0].dtype(), in[0].device()),
                               sparse_matrix(c.columns, c.rows, e.columns, e.rows, values, in[0].dtype(), in[0].device()), in[0]);
        },
        [c, e](std::span<const Operand> in) {
          std::vector<double> y(static_cast<std::size_t>(c.rows * c.width));
          for (std::size_t i = 0; i < e.rows.size(); ++i)
            for (std::int64_t j = 0; j < c.width; ++j)
              y[e.rows[i] * c.width + j] += (c.values ? e.values[i] : 1.0) * in[0].values[e.columns[i] * c.width + j];
          return y;
        },
        longest);
  }
  add_error(
      [] {
        const SparseMatrix a = sparse_matrix(2, 3, std::vector<std::int32_t>{0}, std::vector<std::int32_t>{2}, {});
        sparse_matmul(a, a, Tensor::zeros({3, 2}));
      },
      "sparse_matmul: a [2, 3] with 1 entries, the transposed [2, 3] with 1");
  add_error(
      [] {
        const SparseMatrix a = sparse_matrix(2, 2, std::vector<std::int32_t>{0}, std::vector<std::int32_t>{1}, {});
        sparse_matmul(a, a, Tensor::zeros({3, 2}));
      },
      "sparse_matmul: x is [3, 2], expected [2, 2]");
  add_error(
      [] {
        SparseMatrix a = sparse_matrix(2, 2, std::vector<std::int32_t>{0}, std::vector<std::int32_t>{1}, {});
        a.column_ids = Tensor::of(std::vector<std::int32_t>{2}, {1});
        sparse_matmul(a, a, Tensor::zeros({2, 2}));
      },
      "sparse_matmul: columns holds 2, but must stay below 2");
  add_error([] { sparse_matrix(2, 2, std::vector<std::int32_t>{2}, std::vector<std::int32_t>{0}, {}); },
            "sparse_matrix: entry 0 lies at (2, 0), outside [2, 2]");
  add_error([] { sparse_matrix(2, 2, std::vector<std::int32_t>{1}, {}, {}); },
            "sparse_matrix: [2, 2] from 1 row ids, 0 column ids, 0 values");
}

TEST_CASE("the reference case of LightGCN: layers of propagation") {
  const std::filesystem::path folder = oracle_root() / "graph" / "lightgcn_face";
  const SafetensorsFile file = SafetensorsFile::open(folder / "tensors.safetensors");
  const std::vector<std::int32_t> edges = integers(file, "in.edges");
  const std::int64_t users = shape_of(file, "param.user")[0], items = shape_of(file, "param.item")[0],
                     width = shape_of(file, "param.item")[1];
  // The bipartite graph as one symmetric matrix, items behind the users, D^-1/2 A D^-1/2.
  Entries e;
  std::vector<double> degree(static_cast<std::size_t>(users + items));
  for (std::size_t i = 0; i < edges.size(); i += 2) {
    const std::int32_t user = edges[i], item = static_cast<std::int32_t>(users) + edges[i + 1];
    e.rows.insert(e.rows.end(), {user, item});
    e.columns.insert(e.columns.end(), {item, user});
    ++degree[static_cast<std::size_t>(user)];
    ++degree[static_cast<std::size_t>(item)];
  }
  for (std::size_t i = 0; i < e.rows.size(); ++i)
    e.values.push_back(1.0 / std::sqrt(degree[static_cast<std::size_t>(e.rows[i])] * degree[static_cast<std::size_t>(e.columns[i])]));
  std::vector<double> start = doubles(file, "param.user"), item_start = doubles(file, "param.item");
  start.insert(start.end(), item_start.begin(), item_start.end());
  const auto check = [&](Device device, DType dtype, double tolerance) {
    OracleReport report(folder, "propagation, " + device_name(device) + " " + dtype_name(dtype));
    const SparseMatrix a = sparse_matrix(users + items, users + items, e.rows, e.columns, e.values, dtype, device);
    Tensor x = tensor_of(start, {users + items, width}, dtype, device);
    for (int layer = 1; layer <= 3; ++layer) {
      x = sparse_matmul(a, a, x);
      report.compare("user layer " + std::to_string(layer), doubles(x.slice_rows(0, users)),
                     doubles(file, "out.user_layer" + std::to_string(layer)), tolerance);
      report.compare("item layer " + std::to_string(layer), doubles(x.slice_rows(users, items)),
                     doubles(file, "out.item_layer" + std::to_string(layer)), tolerance);
    }
    CHECK(report.finish());
  };
  check(cpu_device, DType::f64, 1e-12);
  check(cpu_device, DType::f32, 1e-5);
  if constexpr (has_cuda) check({DeviceType::cuda, 0}, DType::f32, 1e-5);
}
