#include "engine/ops/recurrent.h"

#include <fmt/format.h>

#include "base/error.h"
#include "engine/autograd/tape.h"
#include "engine/core/op_scope.h"
#include "engine/core/run.h"
#include "engine/ops/elementwise.h"
#include "engine/ops/layout.h"
#include "engine/ops/matmul.h"
#include "engine/ops/recurrent_library.h"

namespace expctr {
namespace {

/// What the tape keeps of a layer.
struct Layer {
  RecurrentCell cell;
  std::int64_t batch, time, hidden;
  Tensor weight, attention, lengths, initial, initial_cell;
};

/// States, last state and last cell lie in one tensor, so that they are outputs of one operation: parts start at multiples of 64 elements.
struct Outputs {
  Tensor memory;
  std::int64_t batch, time, hidden;
  std::int64_t start_of_last() const { return (batch * time * hidden + 63) / 64 * 64; }
  std::int64_t start_of_cell() const { return start_of_last() + (batch * hidden + 63) / 64 * 64; }
  std::int64_t elements() const { return start_of_cell() + batch * hidden; }
  Tensor all(const Tensor& from) const { return from.slice_rows(0, batch * time * hidden).reshape({batch, time, hidden}); }
  Tensor last(const Tensor& from) const { return from.slice_rows(start_of_last(), batch * hidden).reshape({batch, hidden}); }
  Tensor cell(const Tensor& from) const { return from.slice_rows(start_of_cell(), batch * hidden).reshape({batch, hidden}); }
};

View view_of(const Tensor& tensor) { return tensor.defined() ? tensor.view() : View{}; }

/// Parameters are f32 beside f32 and bf16 activations, f64 beside f64.
void require_weights(const char* op, const char* name, const Tensor& x, const Tensor& weight) {
  if (!weight.defined() || (weight.device() == x.device() && weight.dtype() == (x.dtype() == DType::f64 ? DType::f64 : DType::f32))) return;
  throw ShapeError(fmt::format("{}: x is {} on {}, {} is {} on {}", op, dtype_name(x.dtype()), device_name(x.device()), name,
                               dtype_name(weight.dtype()), device_name(weight.device())),
                   "parameters are on x's device, f64 beside f64 and f32 otherwise");
}

void check(const char* op, RecurrentCell cell, const Tensor& x, const RecurrentWeights& w, const Tensor& lengths, const Tensor& initial,
           const Tensor& initial_cell) {
  require_rank(op, "x", x, 3);
  require_rank(op, "weights.hidden", w.hidden, 2);
  const std::int64_t batch = x.dim(0), hidden = w.hidden.dim(1), rows = recurrent_gates(cell) * hidden;
  require_weights(op, "weights.hidden", x, w.hidden);
  require_weights(op, "weights.input", x, w.input);
  require_weights(op, "weights.bias_input", x, w.bias_input);
  require_weights(op, "weights.bias_hidden", x, w.bias_hidden);
  require_shape(op, "weights.hidden", w.hidden, {rows, hidden}, "a row a gate and unit");
  require_shape(op, "weights.input", w.input, {rows, x.dim(2)}, "a row a gate and unit, a column an element of x");
  if (w.bias_input.defined()) require_shape(op, "weights.bias_input", w.bias_input, {rows});
  if (w.bias_hidden.defined()) require_shape(op, "weights.bias_hidden", w.bias_hidden, {rows});
  if (lengths.defined()) require_shape(op, "lengths", lengths, {batch}, "one length a row");
  for (const auto& [name, tensor] : {std::pair<const char*, const Tensor&>{"initial", initial}, {"initial_cell", initial_cell}}) {
    if (!tensor.defined()) continue;
    require_same_place(op, x, tensor);
    require_shape(op, name, tensor, {batch, hidden});
  }
}

/// The input product takes all time steps, so padding must be numbers: it becomes zeros.
Tensor inside(const Tensor& x, const Tensor& lengths) { return lengths.defined() ? mask_padding(x, lengths) : x; }

RecurrentWeights dense_weights(const RecurrentWeights& w) { return {dense(w.input), dense(w.hidden), dense(w.bias_input), dense(w.bias_hidden)}; }

/// x is zero where it is padding.
RecurrentStates run_layer(const char* op, RecurrentCell cell, const Tensor& x, const RecurrentWeights& w, const Tensor& attention,
                          const Tensor& lengths, const Tensor& initial, const Tensor& initial_cell) {
  const std::int64_t batch = x.dim(0), time = x.dim(1), hidden = w.hidden.dim(1);
  if (const RecurrentStates states = library_layer(op, cell, x, w, lengths, initial, initial_cell); states.all.defined()) return states;
  const bool is_lstm = cell == RecurrentCell::lstm;
  const Tensor projected = matmul(x.reshape({batch * time, x.dim(2)}), w.input, false, true).reshape({batch, time, w.input.dim(0)});
  Outputs out{Tensor(), batch, time, hidden};
  Tensor y = Tensor::empty({out.elements()}, x.dtype(), x.device());
  Tensor saved, cells;
  if (Tape::recording()) {
    saved = Tensor::empty({batch, time, 4 * hidden}, x.dtype(), x.device());
    if (is_lstm) cells = Tensor::empty({batch, time, hidden}, x.dtype(), x.device());
  }
  const Layer layer{cell, batch, time, hidden, w.hidden, attention, lengths, initial, initial_cell};
  run(x.device(), RecurrentForward{cell,
                                   projected,
                                   w.hidden,
                                   view_of(w.bias_input),
                                   view_of(w.bias_hidden),
                                   view_of(attention),
                                   view_of(lengths),
                                   view_of(initial),
                                   view_of(initial_cell),
                                   out.all(y),
                                   out.last(y),
                                   is_lstm ? out.cell(y).view() : View{},
                                   view_of(saved),
                                   view_of(cells),
                                   {}});
  const Tensor plain = y.detached();
  y = record(op, y, {projected, w.hidden, w.bias_input, w.bias_hidden, attention, initial, initial_cell},
             [=](const Tensor& dy, const GradientSlots& d) {
               const auto slot = [&](std::size_t i) { return view_of(d[i]); };
               run(layer.weight.device(), RecurrentBackward{layer.cell,
                                                            layer.weight,
                                                            view_of(layer.attention),
                                                            view_of(layer.lengths),
                                                            view_of(layer.initial),
                                                            view_of(layer.initial_cell),
                                                            out.all(plain),
                                                            view_of(saved),
                                                            view_of(cells),
                                                            out.all(dy),
                                                            out.last(dy),
                                                            is_lstm ? out.cell(dy).view() : View{},
                                                            slot(0),
                                                            slot(1),
                                                            slot(2),
                                                            slot(3),
                                                            slot(4),
                                                            slot(5),
                                                            slot(6),
                                                            {}});
             });
  return {out.all(y), out.last(y), is_lstm ? out.cell(y) : Tensor()};
}

void check_attention(const char* op, const Tensor& x, const Tensor& attention) {
  require_same_place(op, x, attention);
  require_shape(op, "attention", attention, {x.dim(0), x.dim(1)}, "one weight a row and time step");
}

}  // namespace

RecurrentStates gru(const Tensor& x, const RecurrentWeights& weights, const Tensor& lengths, const Tensor& initial) {
  const OpScope scope("gru", x, weights.input, weights.hidden, weights.bias_input, weights.bias_hidden, lengths, initial);
  if (!scope.dense()) return gru(dense(x), dense_weights(weights), dense(lengths), dense(initial));
  check("gru", RecurrentCell::gru, x, weights, lengths, initial, {});
  return run_layer("gru", RecurrentCell::gru, inside(x, lengths), weights, {}, lengths, initial, {});
}

RecurrentStates augru(const Tensor& x, const RecurrentWeights& weights, const Tensor& attention, const Tensor& lengths,
                      const Tensor& initial) {
  const OpScope scope("augru", x, weights.input, weights.hidden, weights.bias_input, weights.bias_hidden, attention, lengths, initial);
  if (!scope.dense()) return augru(dense(x), dense_weights(weights), dense(attention), dense(lengths), dense(initial));
  check("augru", RecurrentCell::augru, x, weights, lengths, initial, {});
  check_attention("augru", x, attention);
  return run_layer("augru", RecurrentCell::augru, inside(x, lengths), weights, attention, lengths, initial, {});
}

RecurrentStates aigru(const Tensor& x, const RecurrentWeights& weights, const Tensor& attention, const Tensor& lengths,
                      const Tensor& initial) {
  const OpScope scope("aigru", x, weights.input, weights.hidden, weights.bias_input, weights.bias_hidden, attention, lengths, initial);
  if (!scope.dense()) return aigru(dense(x), dense_weights(weights), dense(attention), dense(lengths), dense(initial));
  check("aigru", RecurrentCell::gru, x, weights, lengths, initial, {});
  check_attention("aigru", x, attention);
  const Tensor weighted = multiply(inside(x, lengths), inside(attention.reshape({x.dim(0), x.dim(1), 1}), lengths));
  return run_layer("aigru", RecurrentCell::gru, weighted, weights, {}, lengths, initial, {});
}

RecurrentStates lstm(const Tensor& x, const RecurrentWeights& weights, const Tensor& lengths, const Tensor& initial,
                     const Tensor& initial_cell) {
  const OpScope scope("lstm", x, weights.input, weights.hidden, weights.bias_input, weights.bias_hidden, lengths, initial, initial_cell);
  if (!scope.dense()) return lstm(dense(x), dense_weights(weights), dense(lengths), dense(initial), dense(initial_cell));
  check("lstm", RecurrentCell::lstm, x, weights, lengths, initial, initial_cell);
  return run_layer("lstm", RecurrentCell::lstm, inside(x, lengths), weights, {}, lengths, initial, initial_cell);
}

Tensor mask_padding(const Tensor& x, const Tensor& lengths) {
  const OpScope scope("mask_padding", x, lengths);
  if (!scope.dense()) return mask_padding(dense(x), dense(lengths));
  require_rank("mask_padding", "x", x, 3);
  require_shape("mask_padding", "lengths", lengths, {x.dim(0)}, "one length a row");
  Tensor y = x.empty_like();
  run(x.device(), MaskPadding{false, x, lengths, y});
  return record("mask_padding", y, {x}, [=](const Tensor& dy, const GradientSlots& d) {
    run(dy.device(), MaskPadding{true, dy, lengths, d[0]});
  });
}

}  // namespace expctr
