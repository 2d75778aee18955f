// Entries of the op table: embedding tables and their optimisers, at a click model's sizes (8 fields, tables 16 wide, 8,192 rows a batch).
#include <fmt/format.h>

#include "bench/suite/op_operands.h"
#include "engine/ops/embedding_rows.h"
#include "engine/ops/optim_tables.h"

namespace expctr {

namespace {

using Operands = std::span<const Tensor>;

constexpr std::int64_t fields = 8, table_width = 16, table_rows = 20000;

std::int64_t batch_of(const OpPlace& place) { return scaled(place, 8192); }

/// Ids of one field; small ones are frequent, as in a vocabulary ordered by frequency.
std::vector<std::int32_t> field_ids(std::int64_t n, std::int64_t rows, std::int64_t seed) {
  std::vector<std::int32_t> values;
  for (std::int64_t i = 0; i < n; ++i) {
    const double u = static_cast<double>((i * 7919 + seed * 104729) % 65521) / 65521.0;
    values.push_back(static_cast<std::int32_t>(u * u * u * static_cast<double>(rows)));
  }
  return values;
}

double bytes_of(std::int64_t elements, double each) { return each * static_cast<double>(elements); }

OpAtSize gather_many_at_size(const OpPlace& place) {
  const std::int64_t n = batch_of(place);
  std::vector<Tensor> operands;
  for (std::int64_t f = 0; f < fields; ++f)
    operands.push_back(trained(parameter(place, fmt::format("table {}", f), {scaled(place, table_rows), table_width})));
  for (std::int64_t f = 0; f < fields; ++f) operands.push_back(ids(place, field_ids(n, scaled(place, table_rows), f)));
  return {fmt::format("{} tables, {} ids each", fields, n),
          {bytes_of(fields * n * table_width, 8), 0},
          {bytes_of(fields * n * table_width, 4) + bytes_of(fields * n, 80), 0},
          std::move(operands),
          [](Operands in) {
            std::vector<Lookup> lookups;
            for (std::size_t f = 0; f < fields; ++f) lookups.push_back({in[f], in[fields + f], 0});
            return gather_columns(lookups);
          }};
}

OpAtSize sort_ids_at_size(const OpPlace& place) {
  const std::int64_t n = fields * batch_of(place), rows = scaled(place, table_rows);
  return {fmt::format("{} ids", n), {bytes_of(n, 60), 0}, {}, {ids(place, field_ids(n, rows, 1))}, [rows](Operands in) {
            return sort_ids(std::vector<IdSpace>{{rows, 0}}, std::vector<Tensor>{in[0]}, std::vector<int>{0}).unique;
          }};
}

OpAtSize reduce_rows_at_size(const OpPlace& place) {
  const std::int64_t n = batch_of(place), rows = scaled(place, table_rows);
  return {fmt::format("{} of {}", n, table_width),
          {bytes_of(n * table_width, 4) + bytes_of(n, 80), 0},
          {},
          {parameter(place, "dy", {n * table_width}), ids(place, field_ids(n, rows, 1)), parameter(place, "gradient", {rows, table_width})},
          [rows](Operands in) {
            const SortedIds sorted = sort_ids(std::vector<IdSpace>{{rows, 0}}, std::vector<Tensor>{in[1]}, std::vector<int>{0});
            reduce_rows(in[0], sorted, std::vector<ListPlace>{{0, table_width}}, std::vector<Tensor>{in[2]}, std::vector<std::int64_t>{0});
            return in[2];
          }};
}

OpAtSize sgd_at_size(const OpPlace& place) {
  const Shape shape{batch_of(place), 576};
  return {shape.text(),
          {bytes_of(shape.size(), 20), 0},
          {},
          {parameter(place, "p", shape), parameter(place, "g", shape), parameter(place, "u", shape)},
          [](Operands in) {
            const SgdSlot slot{in[0], in[1], in[2]};
            sgd_update(std::span(&slot, 1), {1e-2, 0.9, 1e-3, true});
            return in[0];
          }};
}

/// A table of which every fourth row has a gradient: table, rows, moments, ids.
std::vector<Tensor> table_operands(const OpPlace& place) {
  const std::int64_t rows = scaled(place, 10 * table_rows), named = (rows + 3) / 4;
  return {parameter(place, "p", {rows, table_width}), parameter(place, "g", {named, table_width}),
          parameter(place, "m", {rows, table_width}), parameter(place, "v", {rows, table_width}, 0.0, 1.0), counting(place, named, 4)};
}

RegularisedSlot table_slot(Operands in) { return {in[0], {}, {in[4], in[1]}, 1e-2, in[2], in[3]}; }

OpAtSize on_table(const OpPlace& place, double bytes_per_element, double bytes_per_named, std::function<Tensor(Operands)> run) {
  std::vector<Tensor> operands = table_operands(place);
  const double bytes = bytes_of(operands[0].size(), bytes_per_element) + bytes_of(operands[1].size(), bytes_per_named);
  return {operands[0].shape().text(), {bytes, 0}, {}, std::move(operands), std::move(run)};
}

Tensor as_float(const Tensor& value) {
  return Tensor::of(std::vector<float>{static_cast<float>(value.to_vector<double>()[0])}, {1}, value.device());
}

}  // namespace

std::vector<OpEntry> embedding_and_optimiser_ops() {
  std::vector<OpEntry> table;
  const auto add = [&](const char* op, std::function<OpAtSize(const OpPlace&)> prepare) {
    table.push_back({op, std::move(prepare), true, false});
  };
  add("gather_many", gather_many_at_size);
  add("sort_ids", sort_ids_at_size);
  add("reduce_rows", reduce_rows_at_size);
  add("sgd_update", sgd_at_size);
  add("table_adam_update", [](const OpPlace& p) {
    return on_table(p, 24, 4, [](Operands in) {
      const RegularisedSlot slot = table_slot(in);
      table_adam_update(std::span(&slot, 1), {1e-3, 0.9, 0.999, 1e-8, 0.0}, 1, {}, Tensor::empty({1}, DType::f64, in[0].device()));
      return in[0];
    });
  });
  add("row_adam_update", [](const OpPlace& p) {
    return on_table(p, 0, 28, [](Operands in) {
      const RegularisedSlot slot = table_slot(in);
      row_adam_update(std::span(&slot, 1), {1e-3, 0.9, 0.999, 1e-8, 0.0}, 1, {});
      return in[0];
    });
  });
  add("sum_of_squares", [](const OpPlace& p) {
    return on_table(p, 4, 0, [](Operands in) {
      const RegularisedSlot slot = table_slot(in);
      const Tensor squares = Tensor::empty({1}, DType::f64, in[0].device());
      sum_of_squares(std::span(&slot, 1), squares);
      return as_float(squares);
    });
  });
  add("regularised_norm", [](const OpPlace& p) {
    return on_table(p, 0, 8, [](Operands in) {
      const RegularisedSlot slot = table_slot(in);
      const Tensor squares = Tensor::of(std::vector<double>{1.0}, {1}, in[0].device());
      return as_float(regularised_norm(std::span(&slot, 1), squares));
    });
  });
  add("clip_values", [](const OpPlace& p) {
    return on_table(p, 8, 0, [](Operands in) {
      clip_values(in.first(1), 0.25);
      return in[0];
    });
  });
  return table;
}

}  // namespace expctr
