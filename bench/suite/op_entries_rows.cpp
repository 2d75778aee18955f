// The op table's entries for softmax, batch norm, reductions, moving and choosing elements. Sizes: 576 wide hidden states, a vocabulary of
// 49,152, and ranking over it.
#include <fmt/format.h>

#include "bench/suite/op_operands.h"
#include "engine/ops/arrange.h"
#include "engine/ops/batch_norm.h"
#include "engine/ops/reduce_extreme.h"
#include "engine/ops/segment.h"
#include "engine/ops/select.h"
#include "engine/ops/softmax.h"

namespace expctr {

namespace {

using Operands = std::span<const Tensor>;
using Operation = std::function<Tensor(Operands)>;

constexpr std::int64_t width = 576, vocabulary = 49152, batch_length = 64;

/// An op on x [rows, columns] in front of `others`; `reads` and `moves`: how often forward and backward move that many elements.
OpAtSize on_matrix(const OpPlace& place, std::int64_t rows, std::int64_t columns, double reads, double moves, std::vector<Tensor> others,
                   Operation run) {
  std::vector<Tensor> operands = {trained(activation(place, "x", {rows, columns}))};
  for (Tensor& other : others) operands.push_back(std::move(other));
  const double bytes = activation_bytes(place) * static_cast<double>(rows * columns);
  return {Shape{rows, columns}.text(), {reads * bytes, 0}, {moves * bytes, 0}, std::move(operands), std::move(run)};
}
OpAtSize on_hidden(const OpPlace& place, double reads, double moves, std::vector<Tensor> others, Operation run) {
  return on_matrix(place, scaled(place, 8192), width, reads, moves, std::move(others), std::move(run));
}
OpAtSize on_logits(const OpPlace& place, double reads, double moves, Operation run) {
  return on_matrix(place, scaled(place, 1024), scaled(place, vocabulary), reads, moves, {}, std::move(run));
}

/// Offsets of sequences of `length` rows each.
Tensor equal_offsets(const OpPlace& place, std::int64_t rows, std::int64_t length) { return counting(place, rows / length + 1, length); }

OpAtSize batch_norm_at_size(const OpPlace& place) {
  return on_hidden(place, 3, 6,
                   {trained(parameter(place, "gain", {width}, 0.5, 1.5)), trained(parameter(place, "bias", {width})),
                    parameter(place, "mean", {width}), parameter(place, "variance", {width}, 0.5, 1.5)},
                   [](Operands in) { return batch_norm(in[0], in[1], in[2], in[3].clone(), in[4].clone(), {.training = true}); });
}

OpAtSize scatter_at_size(const OpPlace& place) {
  const std::int64_t rows = scaled(place, 8192);
  std::vector<std::int32_t> index;
  for (std::int64_t i = 0; i < rows; ++i) index.push_back(static_cast<std::int32_t>(i * 7 % (rows / 2)));
  return on_hidden(place, 2, 3, {ids(place, index)}, [rows](Operands in) { return scatter_rows(in[0], in[1], rows); });
}

OpAtSize take_at_size(const OpPlace& place) {
  const std::int64_t rows = scaled(place, 8192), count = 8;
  std::vector<std::int32_t> index;
  for (std::int64_t i = 0; i < rows / 32 * count; ++i) index.push_back(static_cast<std::int32_t>(i * 5 % 32));
  return on_hidden(place, 0.5, 0.75, {ids(place, index)}, [=](Operands in) {
    return take_along(in[0].reshape({rows / 32, 32, width}), in[1].reshape({rows / 32, count}), 1);
  });
}

OpAtSize pack_at_size(const OpPlace& place) {
  const std::int64_t rows = scaled(place, 8192), batch = rows / 32;
  return on_hidden(place, 2, 3, {equal_offsets(place, rows, 32)}, [=](Operands in) {
    return pack_rows(in[0].reshape({batch, 32, width}), in[1], rows, PadSide::front);
  });
}

}  // namespace

void add_row_ops(std::vector<OpEntry>& table) {
  const auto add = [&](const char* op, std::function<OpAtSize(const OpPlace&)> prepare) { table.push_back({op, std::move(prepare)}); };
  add("sum_axes", [](const OpPlace& p) {
    const std::int64_t rows = scaled(p, 8192) / 32;
    return on_hidden(p, 1, 2, {}, [=](Operands in) {
      constexpr int axes[] = {0, 2};
      return sum_axes(in[0].reshape({rows, 32, width}), axes);
    });
  });
  add("reduce_max", [](const OpPlace& p) { return on_logits(p, 1, 0, [](Operands in) { return reduce_max(in[0], 1).value; }); });
  add("reduce_min", [](const OpPlace& p) { return on_hidden(p, 1, 0, {}, [](Operands in) { return reduce_min(in[0], 0).value; }); });
  add("argmax", [](const OpPlace& p) { return on_logits(p, 1, 0, [](Operands in) { return argmax(in[0]); }); });
  add("segment_sum", [](const OpPlace& p) {
    return on_hidden(p, 1, 2, {equal_offsets(p, scaled(p, 8192), 32)}, [](Operands in) { return segment_sum(in[0], in[1]); });
  });
  add("segment_max", [](const OpPlace& p) {
    return on_hidden(p, 1, 0, {equal_offsets(p, scaled(p, 8192), 32)}, [](Operands in) { return segment_max(in[0], in[1]).value; });
  });
  add("batch_norm", batch_norm_at_size);
  add("softmax", [](const OpPlace& p) { return on_logits(p, 2, 4, [](Operands in) { return softmax(in[0], {}, 4.0); }); });
  add("log_softmax", [](const OpPlace& p) { return on_logits(p, 2, 4, [](Operands in) { return log_softmax(in[0]); }); });
  add("concat", [](const OpPlace& p) {
    return on_hidden(p, 4, 6, {trained(activation(p, "y", {scaled(p, 8192), width}))}, [](Operands in) {
      return concat({in[0], in[1]}, 1);
    });
  });
  add("slice", [](const OpPlace& p) { return on_hidden(p, 1, 1.5, {}, [](Operands in) { return slice(in[0], 1, 64, width / 2); }); });
  add("take_along", take_at_size);
  add("scatter_rows", scatter_at_size);
  add("pad_rows", [](const OpPlace& p) {
    return on_hidden(p, 3, 3, {equal_offsets(p, scaled(p, 8192), 32)},
                     [](Operands in) { return pad_rows(in[0], in[1], batch_length, PadSide::end); });
  });
  add("pack_rows", pack_at_size);
  add("top_k", [](const OpPlace& p) { return on_logits(p, 1, 0, [](Operands in) { return top_k(in[0], 50).values; }); });
}

}  // namespace expctr
