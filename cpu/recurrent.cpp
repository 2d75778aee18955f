// Recurrent cells over padded batches. The product of a time step, 2 rows gates hidden^2 operations, runs in register tiles over weights
// that are packed once a call; then the cell, element by element. Bound by the multiply-add units for many rows, by reading the weights
// from cache for few. Rows are sorted by length, and a task owns a piece of them over all time steps, so the rows still running are its
// first ones. Backward: gradients of the gates of all steps are kept, without padding; the weight gradient is one product over them.
#include "base/kernels/recurrent.h"

#include <algorithm>

#include "base/kernels/matmul.h"
#include "cpu/arguments.h"
#include "cpu/dispatch.h"
#include "cpu/recurrent_cell_kernel.h"
#include "cpu/run.h"
#include "cpu/step_product.h"

namespace expctr::cpu {
namespace {

constexpr std::int64_t most_tile_rows = 48;

struct Extents {
  std::int64_t batch, time, hidden, gates;
  std::int64_t gate_columns() const { return gates * hidden; }
  std::int64_t steps() const { return batch * time; }
  /// Rows of a task: depends on the batch only, and no result depends on it.
  std::int64_t tile() const { return std::clamp<std::int64_t>((batch + 7) / 8, 1, most_tile_rows); }
};

Extents extents_of(RecurrentCell cell, const View& states) {
  return {states.shape[0], states.shape[1], states.shape[2], recurrent_gates(cell)};
}

/// Hands out pieces of one block of memory, each 64-byte aligned.
class Pieces {
 public:
  explicit Pieces(void* memory) : memory_(static_cast<std::byte*>(memory)) {}
  template <class T>
  T* take(std::int64_t elements) {
    std::byte* piece = memory_ == nullptr ? nullptr : memory_ + used_;
    used_ += (static_cast<std::size_t>(elements) * sizeof(T) + 63) / 64 * 64;
    return reinterpret_cast<T*>(piece);
  }
  std::size_t used() const { return used_; }

 private:
  std::byte* memory_;
  std::size_t used_ = 0;
};

/// Rows in descending order of length, and where a row's steps start when padding is left out.
struct Order {
  std::int32_t* row;
  std::int64_t* start;
  const std::int32_t* lengths;  ///< null: all are full
  std::int64_t time;
  Order(Pieces& pieces, const Extents& e)
      : row(pieces.take<std::int32_t>(e.batch)), start(pieces.take<std::int64_t>(e.batch + 1)), lengths(nullptr), time(e.time) {}
  std::int64_t length(std::int64_t r) const { return lengths == nullptr ? time : lengths[r]; }
  void fill(const View& view, std::int64_t batch) {
    lengths = view.as<const std::int32_t>();
    start[0] = 0;
    for (std::int64_t r = 0; r < batch; ++r) {
      row[r] = static_cast<std::int32_t>(r);
      start[r + 1] = start[r] + length(r);
    }
    if (lengths != nullptr)
      std::sort(row, row + batch,
                [&](std::int32_t a, std::int32_t b) { return lengths[a] != lengths[b] ? lengths[a] > lengths[b] : a < b; });
  }
};

template <class T>
struct ForwardScratch {
  Order order;
  T *weights, *bias;
  ForwardScratch(Pieces& pieces, const Extents& e)
      : order(pieces, e),
        weights(pieces.take<T>(StepProduct<T>::packed_elements(e.hidden, e.gate_columns()))),
        bias(pieces.take<T>(4 * e.hidden)) {}
};

template <class T>
struct BackwardScratch {
  Order order;
  T *weights, *gates, *candidates, *before;
  BackwardScratch(Pieces& pieces, const Extents& e)
      : order(pieces, e),
        weights(pieces.take<T>(StepProduct<T>::packed_elements(e.gate_columns(), e.hidden))),
        gates(pieces.take<T>(e.steps() * e.gate_columns())),
        candidates(pieces.take<T>(e.gates == 3 ? e.steps() * e.hidden : 0)),
        before(pieces.take<T>(e.steps() * e.hidden)) {}
};

void require_extents(const char* op, const char* name, const View& view, const View& like, std::initializer_list<std::int64_t> extents,
                     bool optional = true) {
  if (view.data == nullptr && optional) return;
  bool fits = view.dtype == like.dtype && view.rank == static_cast<int>(extents.size()) && present(view);
  std::string text;
  int i = 0;
  for (const std::int64_t extent : extents) {
    fits = fits && i < view.rank && view.shape[i] == extent;
    ++i;
    text += (text.empty() ? "[" : ", ") + std::to_string(extent);
  }
  require(fits, op, (std::string(name) + " must be " + text + "] in the dtype of the states").c_str(), {{"states", like}, {name, view}});
}

template <class Args>
void require_common(const char* op, const Args& args) {
  require(is_floating(args.states.dtype) && args.states.rank == 3 && present(args.states), op,
          "states must be [batch, time, hidden], f32 or f64", {{"states", args.states}});
  const Extents e = extents_of(args.cell, args.states);
  require_extents(op, "weight", args.weight, args.states, {e.gate_columns(), e.hidden}, false);
  require_extents(op, "attention", args.attention, args.states, {e.batch, e.time}, args.cell != RecurrentCell::augru);
  require_extents(op, "initial", args.initial, args.states, {e.batch, e.hidden});
  require_extents(op, "initial_cell", args.initial_cell, args.states, {e.batch, e.hidden});
  if (args.lengths.data != nullptr) {
    require_ids(op, "lengths", args.lengths, e.batch);
    const std::int32_t* lengths = args.lengths.template as<const std::int32_t>();
    for (std::int64_t r = 0; r < e.batch; ++r)
      require(
          lengths[r] >= 0 && lengths[r] <= e.time, op,
          ("length " + std::to_string(lengths[r]) + " of row " + std::to_string(r) + " lies outside [0, " + std::to_string(e.time) + "]")
              .c_str(),
          {{"lengths", args.lengths}});
  }
}

template <class T>
CellSteps<T> steps_of(RecurrentCell cell) {
  if constexpr (std::is_same_v<T, double>)
    return cell_steps<OneDouble, double>(static_cast<int>(cell));
  else
    return (active_isa() == Isa::avx512 ? cell_steps_avx512 : cell_steps_v3)[static_cast<int>(cell)];
}

template <class T>
void copy_or_zero(const View& view, std::int64_t row, std::int64_t width, T* to) {
  if (view.data == nullptr)
    std::fill_n(to, width, T(0));
  else
    std::copy_n(view.as<const T>() + row * width, width, to);
}

/// See CellForward::bias.
template <class T>
void gather_bias(const RecurrentForward& args, const Extents& e, T* bias) {
  const T *input = args.bias_input.as<const T>(), *hidden = args.bias_hidden.as<const T>();
  const auto at = [](const T* values, std::int64_t i) { return values == nullptr ? T(0) : values[i]; };
  const std::int64_t sums = args.cell == RecurrentCell::lstm ? 4 * e.hidden : 2 * e.hidden;
  for (std::int64_t i = 0; i < sums; ++i) bias[i] = at(input, i) + at(hidden, i);
  for (std::int64_t i = sums; i < 3 * e.hidden; ++i) {
    bias[i] = at(input, i);
    bias[e.hidden + i] = at(hidden, i);
  }
}

template <class T>
void forward(const RecurrentForward& args, const Extents& e) {
  Pieces pieces(args.scratch.data);
  ForwardScratch<T> scratch(pieces, e);
  Order& order = scratch.order;
  order.fill(args.lengths, e.batch);
  gather_bias(args, e, scratch.bias);
  const StepProduct<T> product(args.weight.as<const T>(), 1, e.hidden, e.hidden, e.gate_columns(), scratch.weights);
  const CellSteps<T> steps = steps_of<T>(args.cell);
  const bool is_lstm = args.cell == RecurrentCell::lstm, weighted = args.cell == RecurrentCell::augru;
  const std::int64_t tile = e.tile(), width = e.hidden, columns = e.gate_columns();
  parallel_for((e.batch + tile - 1) / tile, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t piece = begin; piece < end; ++piece) {
      const std::int32_t* rows = order.row + piece * tile;
      const std::int64_t count = std::min(tile, e.batch - piece * tile);
      const std::int64_t elements = count * (2 * width + columns) + StepProduct<T>::row_scratch(count, width);
      T* h = reinterpret_cast<T*>(thread_scratch(static_cast<std::size_t>(elements) * sizeof(T)).data());
      T *c = h + count * width, *products = c + count * width, *packed = products + count * columns;
      for (std::int64_t i = 0; i < count; ++i) {
        copy_or_zero(args.initial, rows[i], width, h + i * width);
        copy_or_zero(args.initial_cell, rows[i], width, c + i * width);
      }
      std::int64_t active = count;
      for (std::int64_t t = 0; t < e.time; ++t) {
        while (active > 0 && order.length(rows[active - 1]) <= t) --active;
        if (active > 0) product.multiply(active, h, products, false, packed);
        for (std::int64_t i = 0; i < count; ++i) {
          const std::int64_t step = rows[i] * e.time + t;
          T* state = args.states.as<T>() + step * width;
          if (i >= active) {
            std::fill_n(state, width, T(0));
            continue;
          }
          const bool keep = args.saved.data != nullptr;
          steps.forward({width, args.projected.as<const T>() + step * columns, products + i * columns, scratch.bias,
                         weighted ? args.attention.as<const T>()[step] : T(1), h + i * width, c + i * width,
                         keep ? args.saved.as<T>() + step * 4 * width : nullptr,
                         keep && is_lstm ? args.cells.as<T>() + step * width : nullptr});
          std::copy_n(h + i * width, width, state);
        }
      }
      for (std::int64_t i = 0; i < count; ++i) {
        std::copy_n(h + i * width, width, args.last.as<T>() + rows[i] * width);
        if (is_lstm) std::copy_n(c + i * width, width, args.last_cell.as<T>() + rows[i] * width);
      }
    }
  });
}

template <class T>
void add(const T* from, std::int64_t n, T* to) {
  for (std::int64_t i = 0; i < n; ++i) to[i] += from[i];
}

/// The rows of one task, from the last time step to the first.
template <class T>
void backward_rows(const RecurrentBackward& args, const Extents& e, const BackwardScratch<T>& scratch, const StepProduct<T>& product,
                   const std::int32_t* rows, std::int64_t count) {
  const CellSteps<T> steps = steps_of<T>(args.cell);
  const bool is_lstm = args.cell == RecurrentCell::lstm, weighted = args.cell == RecurrentCell::augru;
  const Order& order = scratch.order;
  const std::int64_t width = e.hidden, columns = e.gate_columns();
  const std::int64_t elements = count * (2 * width + columns) + width + StepProduct<T>::row_scratch(count, columns);
  T* dh = reinterpret_cast<T*>(thread_scratch(static_cast<std::size_t>(elements) * sizeof(T)).data());
  T *dc = dh + count * width, *gates = dc + count * width, *cell_before = gates + count * columns, *packed = cell_before + width;
  for (std::int64_t i = 0; i < count; ++i) {
    copy_or_zero(args.dlast, rows[i], width, dh + i * width);
    copy_or_zero(args.dlast_cell, rows[i], width, dc + i * width);
  }
  std::int64_t active = 0;
  for (std::int64_t t = e.time - 1; t >= 0; --t) {
    while (active < count && order.length(rows[active]) > t) ++active;
    for (std::int64_t i = 0; i < active; ++i) {
      const std::int64_t step = rows[i] * e.time + t, kept = order.start[rows[i]] + t;
      T *dhi = dh + i * width, *gi = gates + i * columns, *before = scratch.before + kept * width;
      add(args.dstates.as<const T>() + step * width, width, dhi);
      if (t > 0)
        std::copy_n(args.states.as<const T>() + (step - 1) * width, width, before);
      else
        copy_or_zero(args.initial, rows[i], width, before);
      const T* cells = is_lstm ? args.cells.as<const T>() + step * width : nullptr;
      if (is_lstm && t == 0) copy_or_zero(args.initial_cell, rows[i], width, cell_before);
      T* candidate = is_lstm ? nullptr : scratch.candidates + kept * width;
      const T dattention =
          steps.backward({width, args.saved.as<const T>() + step * 4 * width, before, cells, is_lstm && t > 0 ? cells - width : cell_before,
                          weighted ? args.attention.as<const T>()[step] : T(1), dhi, dc + i * width, gi, candidate});
      if (weighted && args.dattention.data != nullptr) args.dattention.as<T>()[step] += dattention;
      std::copy_n(gi, columns, scratch.gates + kept * columns);
      if (args.dprojected.data != nullptr) {
        T* to = args.dprojected.as<T>() + step * columns;
        add(gi, columns - width, to);
        add(is_lstm ? gi + columns - width : candidate, width, to + columns - width);
      }
    }
    if (active > 0) product.multiply(active, gates, dh, true, packed);
  }
  for (std::int64_t i = 0; i < count; ++i) {
    if (args.dinitial.data != nullptr) add(dh + i * width, width, args.dinitial.as<T>() + rows[i] * width);
    if (is_lstm && args.dinitial_cell.data != nullptr) add(dc + i * width, width, args.dinitial_cell.as<T>() + rows[i] * width);
  }
}

/// to[c] += sum over rows of from[r * stride + c], in ascending order in double.
template <class T>
void add_columns(const T* from, std::int64_t rows, std::int64_t stride, std::int64_t columns, T* to) {
  for_pieces(columns, column_grain, [&](std::int64_t begin, std::int64_t end) {
    double sums[column_grain] = {};
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t c = begin; c < end; ++c) sums[c - begin] += static_cast<double>(from[r * stride + c]);
    for (std::int64_t c = begin; c < end; ++c) to[c] += static_cast<T>(sums[c - begin]);
  });
}

template <class T>
View matrix(const T* data, std::int64_t rows, std::int64_t columns) {
  View view;
  view.data = const_cast<T*>(data);
  view.dtype = DTypeOf<T>::value;
  view.rank = 2;
  view.shape[0] = rows;
  view.shape[1] = columns;
  return view;
}

template <class T>
void backward(const RecurrentBackward& args, const Extents& e) {
  Pieces pieces(args.scratch.data);
  BackwardScratch<T> scratch(pieces, e);
  Order& order = scratch.order;
  order.fill(args.lengths, e.batch);
  const std::int64_t tile = e.tile(), width = e.hidden, columns = e.gate_columns(), steps = order.start[e.batch];
  {
    const StepProduct<T> product(args.weight.as<const T>(), width, 1, columns, width, scratch.weights);
    parallel_for((e.batch + tile - 1) / tile, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t piece = begin; piece < end; ++piece)
        backward_rows(args, e, scratch, product, order.row + piece * tile, std::min(tile, e.batch - piece * tile));
    });
  }
  if (args.dweight.data != nullptr && steps > 0)
    run(MatMul{1.0, true, false, true, matrix(scratch.gates, steps, columns), matrix(scratch.before, steps, width), args.dweight},
        Stream{});
  if (args.dbias_hidden.data != nullptr) add_columns(scratch.gates, steps, columns, columns, args.dbias_hidden.as<T>());
  if (args.dbias_input.data != nullptr) {
    const bool apart = args.cell != RecurrentCell::lstm;
    add_columns(scratch.gates, steps, columns, apart ? 2 * width : columns, args.dbias_input.as<T>());
    if (apart) add_columns(scratch.candidates, steps, width, width, args.dbias_input.as<T>() + 2 * width);
  }
}

}  // namespace

/// The order of the rows, packed weights and the sums of biases.
template <>
std::size_t scratch_bytes(const RecurrentForward& args) {
  Pieces pieces(nullptr);
  const Extents e = extents_of(args.cell, args.states);
  with_floating(args.states.dtype, [&](auto zero) { ForwardScratch<decltype(zero)>(pieces, e); });
  return pieces.used();
}

template <>
void run(const RecurrentForward& args, Stream) {
  const char* op = "recurrent";
  require_common(op, args);
  const Extents e = extents_of(args.cell, args.states);
  require_extents(op, "projected", args.projected, args.states, {e.batch, e.time, e.gate_columns()}, false);
  require_extents(op, "bias_input", args.bias_input, args.states, {e.gate_columns()});
  require_extents(op, "bias_hidden", args.bias_hidden, args.states, {e.gate_columns()});
  require_extents(op, "last", args.last, args.states, {e.batch, e.hidden}, false);
  require_extents(op, "last_cell", args.last_cell, args.states, {e.batch, e.hidden}, args.cell != RecurrentCell::lstm);
  require_extents(op, "saved", args.saved, args.states, {e.batch, e.time, 4 * e.hidden});
  require_extents(op, "cells", args.cells, args.states, {e.batch, e.time, e.hidden},
                  args.cell != RecurrentCell::lstm || args.saved.data == nullptr);
  require_scratch(op, args.scratch, scratch_bytes(args));
  if (e.batch * e.hidden == 0) return;
  with_floating(args.states.dtype, [&](auto zero) { forward<decltype(zero)>(args, e); });
}

/// The order of the rows, packed weights, and gradients of the gates and states before them for every step.
template <>
std::size_t scratch_bytes(const RecurrentBackward& args) {
  Pieces pieces(nullptr);
  const Extents e = extents_of(args.cell, args.states);
  with_floating(args.states.dtype, [&](auto zero) { BackwardScratch<decltype(zero)>(pieces, e); });
  return pieces.used();
}

template <>
void run(const RecurrentBackward& args, Stream) {
  const char* op = "recurrent backward";
  require_common(op, args);
  const Extents e = extents_of(args.cell, args.states);
  require_extents(op, "saved", args.saved, args.states, {e.batch, e.time, 4 * e.hidden}, false);
  require_extents(op, "cells", args.cells, args.states, {e.batch, e.time, e.hidden}, args.cell != RecurrentCell::lstm);
  require_extents(op, "dstates", args.dstates, args.states, {e.batch, e.time, e.hidden}, false);
  require_extents(op, "dlast", args.dlast, args.states, {e.batch, e.hidden});
  require_extents(op, "dlast_cell", args.dlast_cell, args.states, {e.batch, e.hidden});
  require_extents(op, "dprojected", args.dprojected, args.states, {e.batch, e.time, e.gate_columns()});
  require_extents(op, "dweight", args.dweight, args.states, {e.gate_columns(), e.hidden});
  require_extents(op, "dbias_input", args.dbias_input, args.states, {e.gate_columns()});
  require_extents(op, "dbias_hidden", args.dbias_hidden, args.states, {e.gate_columns()});
  require_extents(op, "dattention", args.dattention, args.states, {e.batch, e.time});
  require_extents(op, "dinitial", args.dinitial, args.states, {e.batch, e.hidden});
  require_extents(op, "dinitial_cell", args.dinitial_cell, args.states, {e.batch, e.hidden});
  require_scratch(op, args.scratch, scratch_bytes(args));
  if (e.batch * e.hidden == 0) return;
  with_floating(args.states.dtype, [&](auto zero) { backward<decltype(zero)>(args, e); });
}

template <>
void run(const MaskPadding& args, Stream) {
  require_alike("mask_padding", {{"x", args.x}, {"y", args.y}});
  require(args.x.rank == 3, "mask_padding", "x must be [batch, time, width]", {{"x", args.x}});
  require_ids("mask_padding", "lengths", args.lengths, args.x.shape[0]);
  const std::int64_t time = args.x.shape[1], width = args.x.shape[2];
  with_floating(args.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    for_rows(args.x.shape[0], time * width, cheap_grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) {
        const std::int64_t kept = std::clamp<std::int64_t>(args.lengths.as<const std::int32_t>()[r], 0, time) * width;
        const T* x = args.x.as<const T>() + r * time * width;
        T* y = args.y.as<T>() + r * time * width;
        if (args.accumulate) {
          add(x, kept, y);
        } else {
          std::copy_n(x, kept, y);
          std::fill_n(y + kept, time * width - kept, T(0));
        }
      }
    });
  });
}

}  // namespace expctr::cpu
