// The op table's entries for click models, sequences and graphs: tables, segments, recurrences, choices, optimisers of tables.
#include <fmt/format.h>

#include "bench/suite/op_operands.h"
#include "engine/ops/arrange.h"
#include "engine/ops/batch_norm.h"
#include "engine/ops/embedding_rows.h"
#include "engine/ops/layout.h"
#include "engine/ops/optim.h"
#include "engine/ops/optim_tables.h"
#include "engine/ops/reduce_extreme.h"
#include "engine/ops/segment.h"
#include "engine/ops/select.h"
#include "engine/ops/softmax.h"

namespace expctr {

namespace {

using Operands = std::span<const Tensor>;

constexpr std::int64_t width = 64, history = 50;

/// An op on activations [rows, width] of which `reads` move forward and `moves` backward, with the output counted.
OpAtSize on_rows(const OpPlace& place, std::int64_t columns, std::vector<Tensor> operands, double reads, double moves,
                 std::function<Tensor(Operands)> run) {
  const double bytes = activation_bytes(place) * static_cast<double>(operands[0].size());
  return {Shape{operands[0].size() / columns, columns}.text(), {reads * bytes, 0}, {moves * bytes, 0}, std::move(operands), std::move(run)};
}

Tensor rows_of(const OpPlace& place, std::int64_t rows, std::int64_t columns, std::string_view name = "x") {
  return trained(activation(place, name, {scaled(place, rows), columns}));
}

OpAtSize dense_at_size(const OpPlace& place) {
  return on_rows(place, 576, {rows_of(place, 8192, 576)}, 2, 3, [](Operands in) { return dense(in[0].transpose(0, 1)); });
}

OpAtSize softmax_at_size(const OpPlace& place, bool log) {
  const std::int64_t classes = place.scale < 1 ? 1024 : 49152;
  return on_rows(place, classes, {trained(activation(place, "logits", {scaled(place, 1024), classes}, -4, 4))}, 2, 4,
                 [log](Operands in) { return log ? log_softmax(in[0]) : softmax(in[0]); });
}

OpAtSize batch_norm_at_size(const OpPlace& place) {
  return on_rows(
      place, width,
      {rows_of(place, 65536, width), trained(parameter(place, "gain", {width}, 0.5, 1.5)), trained(parameter(place, "bias", {width})),
       parameter(place, "mean", {width}), parameter(place, "variance", {width}, 0.5, 1.5)},
      3, 5, [](Operands in) { return batch_norm(in[0], in[1], in[2], in[3].clone(), in[4].clone(), {.training = true}); });
}

OpAtSize segments_at_size(const OpPlace& place, bool maximum) {
  const std::int64_t rows = scaled(place, 65536);
  return on_rows(place, width, {rows_of(place, 65536, width), counting(place, rows / 32 + 1, 32)}, 1, 2,
                 [maximum](Operands in) { return maximum ? segment_max(in[0], in[1]).value : segment_sum(in[0], in[1]); });
}

std::vector<std::int32_t> drawn_ids(const OpPlace& place, std::string_view name, std::int64_t count, std::int64_t below) {
  return random_ids(name, scaled(place, count), below);
}

OpAtSize gather_many_at_size(const OpPlace& place) {
  const std::int64_t n = scaled(place, 65536), items = 20000, users = 5000;
  const double bytes = 4.0 * static_cast<double>(2 * n * width);
  return {fmt::format("2 x {} of [{}, {}] and [{}, {}]", n, items, width, users, width),
          {2 * bytes, 0},
          {2 * bytes, 0},
          {trained(parameter(place, "items", {items, width})), trained(parameter(place, "users", {users, width})),
           ids(place, drawn_ids(place, "items", 65536, items)), ids(place, drawn_ids(place, "users", 65536, users))},
          [](Operands in) {
            return gather_columns(std::array<Lookup, 2>{Lookup{in[0], in[2]}, Lookup{in[1], in[3]}});
          }};
}

SortedIds sorted(const Tensor& list, std::int64_t rows) {
  const IdSpace space{rows, -1};
  const int first = 0;
  return sort_ids(std::span(&space, 1), std::span(&list, 1), std::span(&first, 1));
}

OpAtSize sort_ids_at_size(const OpPlace& place) {
  const std::int64_t n = scaled(place, 65536), rows = 20000;
  return {fmt::format("{} below {}", n, rows),
          {2.0 * 4 * static_cast<double>(n), 0},
          {},
          {ids(place, drawn_ids(place, "ids", 65536, rows))},
          [](Operands in) { return sorted(in[0], rows).places; }};
}

OpAtSize reduce_rows_at_size(const OpPlace& place) {
  const std::int64_t n = scaled(place, 65536), rows = 20000;
  return {fmt::format("{} to [{}, {}]", n, rows, width),
          {4.0 * static_cast<double>((n + std::min(n, rows)) * width), 0},
          {},
          {parameter(place, "dy", {n, width}), ids(place, drawn_ids(place, "ids", 65536, rows)),
           Tensor::zeros({rows, width}, parameter(place, "t", {1}).dtype(), place.device)},
          [](Operands in) {
            const Tensor table = in[2].clone();
            const ListPlace at{0, width};
            const std::int64_t columns = width;
            reduce_rows(in[0].reshape({in[0].size()}), sorted(in[1], rows), std::span(&at, 1), std::span(&table, 1),
                        std::span(&columns, 1));
            return table;
          }};
}

OpAtSize take_along_at_size(const OpPlace& place) {
  const std::int64_t rows = scaled(place, 8192);
  std::vector<std::int32_t> index;
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < width; ++c) index.push_back(static_cast<std::int32_t>((7 * c + r) % 576));
  OpAtSize op = on_rows(place, 576, {rows_of(place, 8192, 576), Tensor::of(index, {rows, width}, place.device)}, 0, 1,
                        [](Operands in) { return take_along(in[0], in[1], 1); });
  op.forward.bytes = static_cast<double>(rows * width) * (2 * activation_bytes(place) + 4);
  return op;
}

OpAtSize scatter_rows_at_size(const OpPlace& place) {
  return on_rows(place, width, {rows_of(place, 65536, width), ids(place, drawn_ids(place, "ids", 65536, 20000))}, 2, 2,
                 [](Operands in) { return scatter_rows(in[0], in[1], 20000); });
}

/// Sequences of 1 to `history` rows, in turn.
Tensor ragged_offsets(const OpPlace& place, std::int64_t batch) {
  std::vector<std::int32_t> offsets = {0};
  for (std::int64_t b = 0; b < batch; ++b) offsets.push_back(offsets.back() + static_cast<std::int32_t>(1 + b % history));
  return ids(place, offsets);
}

OpAtSize padding_at_size(const OpPlace& place, bool pad) {
  const std::int64_t batch = scaled(place, 2048);
  std::int64_t rows = 0;
  for (std::int64_t b = 0; b < batch; ++b) rows += 1 + b % history;
  const Shape packed{rows, width}, padded{batch, history, width};
  return on_rows(place, width, {trained(activation(place, "x", pad ? packed : padded)), ragged_offsets(place, batch)}, 2, 2,
                 [rows, pad](Operands in) {
                   return pad ? pad_rows(in[0], in[1], history, PadSide::end) : pack_rows(in[0], in[1], rows, PadSide::end);
                 });
}

OpAtSize extreme_at_size(const OpPlace& place, std::function<Tensor(Operands)> run, double moves) {
  return on_rows(place, 576, {rows_of(place, 8192, 576)}, 1, moves, std::move(run));
}

OpAtSize top_k_at_size(const OpPlace& place) {
  const std::int64_t users = scaled(place, 512), items = place.scale < 1 ? 2048 : 32768;
  return on_rows(place, items, {trained(activation(place, "scores", {users, items}))}, 1, 1, [](Operands in) { return top_k(in[0], 20).values; });
}

Tensor zeros_like_parameter(const OpPlace& place, const Shape& shape) {
  return Tensor::zeros(shape, parameter(place, "p", {1}).dtype(), place.device);
}

/// An optimiser on one table [rows, width]: `moves` passes over it.
OpAtSize table_update(const OpPlace& place, double moves, std::function<Tensor(Operands)> run) {
  const std::int64_t rows = scaled(place, 100000);
  const Shape shape{rows, width};
  return {
      shape.text(),
      {moves * 4 * static_cast<double>(rows * width), 0},
      {},
      {parameter(place, "p", shape), parameter(place, "g", shape), zeros_like_parameter(place, shape), zeros_like_parameter(place, shape)},
      std::move(run)};
}

RegularisedSlot slot_of(Operands in) {
  return {.parameter = in[0], .gradient = in[1], .rows = {}, .l2 = 1e-3, .first_moment = in[2], .second_moment = in[3]};
}

Tensor f64_vector(const Tensor& beside, std::int64_t n) { return Tensor::zeros({n}, DType::f64, beside.device()); }

OpAtSize row_adam_at_size(const OpPlace& place) {
  const std::int64_t rows = 100000, touched = scaled(place, 16384);
  const Shape shape{rows, width};
  return {fmt::format("{} rows of {}", touched, shape.text()),
          {7.0 * 4 * static_cast<double>(touched * width), 0},
          {},
          {parameter(place, "p", shape), parameter(place, "g", {touched, width}), zeros_like_parameter(place, shape),
           zeros_like_parameter(place, shape), counting(place, touched, 5)},
          [](Operands in) {
            const RegularisedSlot slot{
                .parameter = in[0], .gradient = {}, .rows = {in[4], in[1]}, .first_moment = in[2], .second_moment = in[3]};
            row_adam_update(std::span(&slot, 1), {}, 1, {});
            return in[0];
          }};
}

}  // namespace

std::vector<OpEntry> table_op_entries() {
  std::vector<OpEntry> table;
  const auto add = [&](const char* op, std::function<OpAtSize(const OpPlace&)> prepare, bool bf16 = true) -> OpEntry& {
    return table.emplace_back(OpEntry{.op = op, .prepare = std::move(prepare), .bf16 = bf16});
  };
  add("dense", dense_at_size);
  add("sum_axes", [](const OpPlace& p) {
    return extreme_at_size(
        p,
        [](Operands in) {
          return sum_axes(in[0], std::array<int, 2>{0, 1});
        },
        1);
  });
  add("reduce_max", [](const OpPlace& p) {
    return extreme_at_size(
        p, [](Operands in) { return reduce_max(in[0], 1).value; }, 1);
  });
  add("reduce_min", [](const OpPlace& p) {
    return extreme_at_size(
        p, [](Operands in) { return reduce_min(in[0], 0).value; }, 1);
  });
  add("argmax", [](const OpPlace& p) {
    return extreme_at_size(
        p, [](Operands in) { return argmax(in[0]); }, 0);
  });
  add("top_k", top_k_at_size);
  add("segment_sum", [](const OpPlace& p) { return segments_at_size(p, false); });
  add("segment_max", [](const OpPlace& p) { return segments_at_size(p, true); });
  add("batch_norm", batch_norm_at_size);
  add("softmax", [](const OpPlace& p) { return softmax_at_size(p, false); });
  add("log_softmax", [](const OpPlace& p) { return softmax_at_size(p, true); });
  add("gather_many", gather_many_at_size, false);
  add("sort_ids", sort_ids_at_size, false);
  add("reduce_rows", reduce_rows_at_size, false);
  add("concat", [](const OpPlace& p) {
    return on_rows(p, width, {rows_of(p, 65536, width), rows_of(p, 65536, width, "y")}, 4, 6, [](Operands in) {
      return concat({in[0], in[1]}, 1);
    });
  });
  add("slice", [](const OpPlace& p) {
    return on_rows(p, width, {rows_of(p, 65536, width)}, 1, 1.5, [](Operands in) { return slice(in[0], 1, 16, width / 2); });
  });
  add("take_along", take_along_at_size);
  add("scatter_rows", scatter_rows_at_size);
  add("pad_rows", [](const OpPlace& p) { return padding_at_size(p, true); });
  add("pack_rows", [](const OpPlace& p) { return padding_at_size(p, false); });
  add(
      "sgd_update",
      [](const OpPlace& p) {
        return table_update(p, 5, [](Operands in) {
          const SgdSlot slot{in[0], in[1], in[2]};
          sgd_update(std::span(&slot, 1), {.momentum = 0.9});
          return in[0];
        });
      },
      false);
  add(
      "table_adam_update",
      [](const OpPlace& p) {
        return table_update(p, 7, [](Operands in) {
          const RegularisedSlot slot = slot_of(in);
          table_adam_update(std::span(&slot, 1), {}, 1, {}, f64_vector(in[0], 1));
          return in[0];
        });
      },
      false);
  add("row_adam_update", row_adam_at_size, false);
  add(
      "sum_of_squares",
      [](const OpPlace& p) {
        return table_update(p, 1, [](Operands in) {
          const RegularisedSlot slot = slot_of(in);
          const Tensor squares = f64_vector(in[0], 1);
          sum_of_squares(std::span(&slot, 1), squares);
          return squares;
        });
      },
      false);
  add(
      "regularised_norm",
      [](const OpPlace& p) {
        return table_update(p, 2, [](Operands in) {
          const RegularisedSlot slot = slot_of(in);
          const Tensor squares = f64_vector(in[0], 1);
          return regularised_norm(std::span(&slot, 1), squares);
        });
      },
      false);
  add(
      "clip_values",
      [](const OpPlace& p) {
        return table_update(p, 2, [](Operands in) {
          clip_values(in.first(1), 0.25);
          return in[0];
        });
      },
      false);
  return table;
}

}  // namespace expctr
