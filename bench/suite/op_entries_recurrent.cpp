// Sizes: a click model's interest layers (50 steps, 64 wide, 128 units), FACE's codebook (22,000 codes of 256), LightGCN's graph (width
// 256), a 256 x 256 Gram matrix. Bytes are operands and results once, without what a layer keeps between its passes.
#include "bench/suite/op_entries_recurrent.h"

#include <fmt/format.h>

#include "bench/suite/op_operands.h"
#include "engine/ops/cholesky.h"
#include "engine/ops/matmul.h"
#include "engine/ops/nearest.h"
#include "engine/ops/recurrent.h"
#include "engine/ops/sparse_matrix.h"

namespace expctr {

namespace {

using Operands = std::span<const Tensor>;

/// x, lengths, four parameters, attention.
OpAtSize layer(const OpPlace& place, std::int64_t gates, std::function<Tensor(Operands)> run) {
  const std::int64_t batch = scaled(place, 256), time = place.scale < 1 ? 5 : 50, width = 64, hidden = place.scale < 1 ? 32 : 128,
                     rows = gates * hidden;
  std::vector<std::int32_t> lengths;
  for (std::int64_t b = 0; b < batch; ++b) lengths.push_back(static_cast<std::int32_t>(time - b % (time / 2)));
  const double steps = static_cast<double>(batch * time), flops = 2.0 * steps * static_cast<double>(rows * (width + hidden));
  const double bytes =
      activation_bytes(place) * steps * static_cast<double>(width + hidden) + 4.0 * static_cast<double>(rows * (width + hidden));
  return {
      fmt::format("{} x {} steps, {} units", batch, time, hidden),
      {bytes, flops},
      {2 * bytes, 2 * flops},
      {trained(activation(place, "x", {batch, time, width})), ids(place, lengths), trained(parameter(place, "w", {rows, width}, -0.2, 0.2)),
       trained(parameter(place, "u", {rows, hidden}, -0.2, 0.2)), trained(parameter(place, "b", {rows})),
       trained(parameter(place, "c", {rows})), trained(activation(place, "attention", {batch, time}, 0, 1))},
      std::move(run)};
}

RecurrentWeights weights_of(Operands in) { return {in[2], in[3], in[4], in[5]}; }

OpAtSize masked(const OpPlace& place) {
  const std::int64_t batch = scaled(place, 1024), time = 50, width = 64;
  std::vector<std::int32_t> lengths;
  double kept = 0;
  for (std::int64_t b = 0; b < batch; ++b) {
    lengths.push_back(static_cast<std::int32_t>(b % (time + 1)));
    kept += static_cast<double>(b % (time + 1)) * width;
  }
  const double bytes = activation_bytes(place);
  return {Shape{batch, time, width}.text(),
          {bytes * (kept + static_cast<double>(batch * time * width)), 0},
          {3 * bytes * kept, 0},
          {trained(activation(place, "x", {batch, time, width})), ids(place, lengths)},
          [](Operands in) { return mask_padding(in[0], in[1]); }};
}

OpAtSize nearest_at_size(const OpPlace& place) {
  const std::int64_t rows = scaled(place, 4096), codes = place.scale < 1 ? 300 : 22000, width = place.scale < 1 ? 32 : 256, k = 16;
  const double elements = static_cast<double>((rows + codes) * width);
  return {fmt::format("{} of {} codes of {}", k, codes, width),
          {activation_bytes(place) * elements, 2.0 * static_cast<double>(rows * codes * width)},
          {},
          {activation(place, "x", {rows, width}), activation(place, "codebook", {codes, width})},
          [](Operands in) { return nearest(in[0], in[1], k).distances; }};
}

OpAtSize sparse_at_size(const OpPlace& place) {
  const std::int64_t nodes = scaled(place, 40000), width = 256, entries = nodes * 25;
  const std::vector<std::int32_t> rows = random_ids("rows", entries, nodes), columns = random_ids("columns", entries, nodes);
  const std::vector<double> values(static_cast<std::size_t>(entries), 0.2);
  const DType dtype = place.dtype == DType::f64 ? DType::f64 : DType::f32;
  const SparseMatrix a = sparse_matrix(nodes, nodes, rows, columns, values, dtype, place.device),
                     transposed = sparse_matrix(nodes, nodes, columns, rows, values, dtype, place.device);
  const double bytes = 2 * activation_bytes(place) * static_cast<double>(nodes * width) + 8.0 * static_cast<double>(entries);
  return {fmt::format("{} entries in {} rows, width {}", entries, nodes, width),
          {bytes, 2.0 * static_cast<double>(entries * width)},
          {bytes, 2.0 * static_cast<double>(entries * width)},
          {trained(activation(place, "x", {nodes, width}))},
          [a, transposed](Operands in) { return sparse_matmul(a, transposed, in[0]); }};
}

/// G G^T / n + I of n rows.
Tensor gram(const OpPlace& place, std::int64_t n) {
  const OpPlace here{cpu_device, DType::f64, 1.0};
  const Tensor g = parameter(here, "g", {n, n}), product = matmul(g, g, false, true, 1.0 / static_cast<double>(n));
  std::vector<double> values = product.to_vector<double>();
  for (std::int64_t i = 0; i < n; ++i) values[static_cast<std::size_t>(i * n + i)] += 1.0;
  return stored(convert(Tensor::of(values, {1, n, n}), DType::f32), place.dtype, place.device);
}

OpAtSize cholesky_at_size(const OpPlace& place) {
  const std::int64_t n = place.scale < 1 ? 64 : most_cholesky_rows;
  const double cube = static_cast<double>(n * n * n);
  return {Shape{1, n, n}.text(), {8.0 * static_cast<double>(n * n), cube / 3}, {}, {gram(place, n)}, [](Operands in) {
            return cholesky(in[0]).factor;
          }};
}

OpAtSize solve_at_size(const OpPlace& place) {
  const std::int64_t n = place.scale < 1 ? 64 : most_cholesky_rows, columns = 384;
  const double bytes = 4.0 * static_cast<double>(n * n / 2 + 2 * n * columns), flops = 2.0 * static_cast<double>(n * n * columns);
  return {fmt::format("{} rows, {} columns", n, columns),
          {bytes, flops},
          {bytes, flops},
          {cholesky(gram(place, n)).factor, trained(activation(place, "b", {1, n, columns}))},
          [](Operands in) { return cholesky_solve(in[0], in[1]); }};
}

}  // namespace

void add_recurrent_entries(std::vector<OpEntry>& table) {
  const auto add = [&](const char* op, std::function<OpAtSize(const OpPlace&)> prepare) -> OpEntry& {
    return table.emplace_back(OpEntry{op, std::move(prepare)});
  };
  add("gru", [](const OpPlace& p) { return layer(p, 3, [](Operands in) { return gru(in[0], weights_of(in), in[1]).all; }); });
  add("augru", [](const OpPlace& p) { return layer(p, 3, [](Operands in) { return augru(in[0], weights_of(in), in[6], in[1]).all; }); });
  add("aigru", [](const OpPlace& p) { return layer(p, 3, [](Operands in) { return aigru(in[0], weights_of(in), in[6], in[1]).all; }); });
  add("lstm", [](const OpPlace& p) { return layer(p, 4, [](Operands in) { return lstm(in[0], weights_of(in), in[1]).all; }); });
  add("mask_padding", masked);
  add("nearest", nearest_at_size);
  add("sparse_matmul", sparse_at_size);
  add("cholesky", cholesky_at_size).bf16 = false;
  add("cholesky_solve", solve_at_size).bf16 = false;
}

}  // namespace expctr
