#include "engine/ops/recurrent.h"

#include <cmath>
#include <limits>

#include "engine/ops/embedding.h"
#include "tests/ops/op_cases.h"

using namespace expctr;
using namespace expctr::test;

namespace {

double squash(double x) { return 1.0 / (1.0 + std::exp(-x)); }

struct Plan {
  std::int64_t batch, time, width, hidden;
  std::vector<std::int32_t> lengths;  ///< empty: all rows are full
  bool biases = true, initial = true;
};

enum class Kind { gru, augru, aigru, lstm };

/// [batch, time * hidden + hidden (+ hidden)]: all states, last state, last cell; written out one element at a time.
/// Operands: x, weights, attention, initial, initial_cell (each there where the kind and the plan have it).
std::vector<double> plain(Kind kind, const Plan& p, std::span<const Operand> in) {
  const std::int64_t gates = kind == Kind::lstm ? 4 : 3, rows = gates * p.hidden;
  std::size_t next = 3;
  const Operand *x = &in[0], *w = &in[1], *u = &in[2];
  const Operand* bias = p.biases ? &in[next] : nullptr;
  const Operand* hidden_bias = p.biases ? &in[next + 1] : nullptr;
  next += p.biases ? 2 : 0;
  const Operand* attention = kind == Kind::augru || kind == Kind::aigru ? &in[next++] : nullptr;
  const Operand* initial = p.initial ? &in[next++] : nullptr;
  const Operand* initial_cell = p.initial && kind == Kind::lstm ? &in[next++] : nullptr;
  const std::int64_t out_width = p.time * p.hidden + p.hidden * (kind == Kind::lstm ? 2 : 1);
  std::vector<double> y(static_cast<std::size_t>(p.batch * out_width));
  for (std::int64_t b = 0; b < p.batch; ++b) {
    std::vector<double> h(static_cast<std::size_t>(p.hidden)), c = h;
    for (std::int64_t j = 0; j < p.hidden; ++j) {
      if (initial) h[j] = initial->values[b * p.hidden + j];
      if (initial_cell) c[j] = initial_cell->values[b * p.hidden + j];
    }
    const std::int64_t length = p.lengths.empty() ? p.time : p.lengths[static_cast<std::size_t>(b)];
    for (std::int64_t t = 0; t < length; ++t) {
      std::vector<double> from_x(static_cast<std::size_t>(rows)), from_h = from_x;
      const double a = attention ? attention->values[b * p.time + t] : 1.0;
      for (std::int64_t r = 0; r < rows; ++r) {
        from_x[r] = bias ? bias->values[r] : 0.0;
        from_h[r] = hidden_bias ? hidden_bias->values[r] : 0.0;
        for (std::int64_t i = 0; i < p.width; ++i)
          from_x[r] += w->values[r * p.width + i] * x->values[(b * p.time + t) * p.width + i] * (kind == Kind::aigru ? a : 1.0);
        for (std::int64_t i = 0; i < p.hidden; ++i) from_h[r] += u->values[r * p.hidden + i] * h[i];
      }
      for (std::int64_t j = 0; j < p.hidden; ++j) {
        const auto sum = [&](std::int64_t gate) { return from_x[gate * p.hidden + j] + from_h[gate * p.hidden + j]; };
        if (kind == Kind::lstm) {
          c[j] = squash(sum(1)) * c[j] + squash(sum(0)) * std::tanh(sum(2));
          h[j] = squash(sum(3)) * std::tanh(c[j]);
        } else {
          const double reset = squash(sum(kind == Kind::augru ? 1 : 0)), update = squash(sum(kind == Kind::augru ? 0 : 1));
          const double n = std::tanh(from_x[2 * p.hidden + j] + reset * from_h[2 * p.hidden + j]);
          h[j] = kind == Kind::augru ? (1.0 - a * update) * h[j] + a * update * n : (1.0 - update) * n + update * h[j];
        }
        y[b * out_width + t * p.hidden + j] = h[j];
      }
    }
    for (std::int64_t j = 0; j < p.hidden; ++j) {
      y[b * out_width + p.time * p.hidden + j] = h[j];
      if (kind == Kind::lstm) y[b * out_width + (p.time + 1) * p.hidden + j] = c[j];
    }
  }
  return y;
}

Tensor joined(const RecurrentStates& s) {
  const std::int64_t batch = s.all.dim(0);
  const Tensor all = s.all.reshape({batch, s.all.dim(1) * s.all.dim(2)});
  return s.last_cell.defined() ? concat_columns({all, s.last, s.last_cell}) : concat_columns({all, s.last});
}

/// What lies past a row's length is NaN: it must not be read.
Operand poisoned(Operand operand, const Plan& p) {
  if (p.lengths.empty()) return operand;
  const std::int64_t width = operand.shape.size() / std::max<std::int64_t>(1, p.batch * p.time);
  for (std::int64_t b = 0; b < p.batch; ++b)
    for (std::int64_t i = p.lengths[static_cast<std::size_t>(b)] * width; i < p.time * width; ++i)
      operand.values[b * p.time * width + i] = std::numeric_limits<double>::quiet_NaN();
  return operand;
}

void add_cases(Kind kind) {
  const Plan plans[] = {{1, 1, 1, 1, {}},
                        {1, 1, 2, 3, {0}},
                        {2, 0, 2, 3, {}},
                        {0, 3, 2, 3, {}},
                        {3, 4, 2, 3, {4, 1, 2}},
                        {3, 3, 3, 2, {}, false, false},
                        {2, 3, 2, 2, {0, 3}, true, false},
                        {5, 4, 7, 16, {2, 4, 0, 3, 1}, false, true},
                        {19, 6, 5, 37, {6, 5, 1, 0, 3, 6, 2, 2, 4, 5, 6, 1, 3, 3, 2, 6, 4, 5, 1}},
                        {33, 3, 9, 64, {}}};
  for (const Plan& p : plans) {
    const std::int64_t rows = (kind == Kind::lstm ? 4 : 3) * p.hidden;
    const double scale = 1.0 / std::sqrt(static_cast<double>(p.hidden));
    std::vector<Operand> operands = {poisoned(uniform({p.batch, p.time, p.width}), p), parameter(uniform({rows, p.width}, -1, 1, 2)),
                                     parameter(uniform({rows, p.hidden}, -2 * scale, 2 * scale, 3))};
    if (p.biases) {
      operands.push_back(parameter(uniform({rows}, -0.5, 0.5, 4)));
      operands.push_back(parameter(uniform({rows}, -0.5, 0.5, 5)));
    }
    if (kind == Kind::augru || kind == Kind::aigru) operands.push_back(poisoned(uniform({p.batch, p.time}, 0.0, 1.0, 6), p));
    if (p.initial) operands.push_back(uniform({p.batch, p.hidden}, -1, 1, 7));
    if (p.initial && kind == Kind::lstm) operands.push_back(uniform({p.batch, p.hidden}, -1, 1, 8));
    if (!p.lengths.empty()) operands.push_back(integers({p.batch}, p.lengths));
    add_case(
        "batch " + std::to_string(p.batch) + ", time " + std::to_string(p.time) + ", hidden " + std::to_string(p.hidden) +
            (p.lengths.empty() ? "" : ", lengths") + (p.biases ? "" : ", no bias"),
        operands,
        [kind, p](std::span<const Tensor> in) {
          std::size_t next = 3;
          RecurrentWeights w{in[1], in[2], {}, {}};
          if (p.biases) {
            w.bias_input = in[next++];
            w.bias_hidden = in[next++];
          }
          const Tensor attention = kind == Kind::augru || kind == Kind::aigru ? in[next++] : Tensor();
          const Tensor initial = p.initial ? in[next++] : Tensor(), cell = p.initial && kind == Kind::lstm ? in[next++] : Tensor();
          const Tensor lengths = p.lengths.empty() ? Tensor() : in[next++];
          switch (kind) {
            case Kind::gru:
              return joined(gru(in[0], w, lengths, initial));
            case Kind::augru:
              return joined(augru(in[0], w, attention, lengths, initial));
            case Kind::aigru:
              return joined(aigru(in[0], w, attention, lengths, initial));
            case Kind::lstm:
              return joined(lstm(in[0], w, lengths, initial, cell));
          }
          return Tensor();
        },
        [kind, p](std::span<const Operand> in) { return plain(kind, p, in); },
        // Rounding passes through every time step; a weight's gradient sums over all of them.
        std::max<std::int64_t>(1, p.batch) * std::max<std::int64_t>(1, p.time) * (p.hidden + p.width))
        .magnitude = 1.0;
  }
}

RecurrentWeights weights_of(std::int64_t rows, std::int64_t width, std::int64_t hidden) {
  return {Tensor::zeros({rows, width}), Tensor::zeros({rows, hidden}), {}, {}};
}

}  // namespace

OP_CASES(gru) {
  add_cases(Kind::gru);
  add_error([] { gru(Tensor::zeros({2, 3}), weights_of(9, 2, 3)); }, "gru: x is [2, 3], expected 3 axes");
  add_error([] { gru(Tensor::zeros({2, 3, 2}), weights_of(12, 2, 3)); }, "gru: weights.hidden is [12, 3], expected [9, 3]");
  add_error([] { gru(Tensor::zeros({2, 3, 4}), weights_of(9, 2, 3)); }, "gru: weights.input is [9, 2], expected [9, 4]");
  add_error(
      [] {
        gru(Tensor::zeros({2, 3, 2}), weights_of(9, 2, 3), Tensor::zeros({3}, DType::i32));
      },
      "gru: lengths is [3], expected [2]");
  add_error(
      [] {
        gru(Tensor::zeros({2, 3, 2}), weights_of(9, 2, 3), Tensor::of(std::vector<std::int32_t>{1, 4}, {2}));
      },
      "recurrent: length 4 of row 1 lies outside [0, 3]");
  add_error(
      [] {
        gru(Tensor::zeros({2, 3, 2}), weights_of(9, 2, 3), Tensor::of(std::vector<std::int32_t>{-1, 3}, {2}));
      },
      "recurrent: length -1 of row 0 lies outside [0, 3]");
  add_error(
      [] {
        gru(Tensor::zeros({2, 3, 2}), weights_of(9, 2, 3), {}, Tensor::zeros({2, 4}));
      },
      "gru: initial is [2, 4], expected [2, 3]");
}

OP_CASES(augru) {
  add_cases(Kind::augru);
  add_error(
      [] {
        augru(Tensor::zeros({2, 3, 2}), weights_of(9, 2, 3), Tensor::zeros({3, 2}));
      },
      "augru: attention is [3, 2], expected [2, 3]");
}

OP_CASES(aigru) {
  add_cases(Kind::aigru);
  add_error([] { aigru(Tensor::zeros({2, 3, 2}), weights_of(9, 2, 3), Tensor::zeros({2})); }, "aigru: attention is [2], expected [2, 3]");
}

OP_CASES(lstm) {
  add_cases(Kind::lstm);
  add_error([] { lstm(Tensor::zeros({2, 3, 2}), weights_of(9, 2, 3)); }, "lstm: weights.hidden is [9, 3], expected [12, 3]");
  add_error(
      [] {
        lstm(Tensor::zeros({2, 3, 2}), weights_of(12, 2, 3), {}, {}, Tensor::zeros({1, 3}));
      },
      "lstm: initial_cell is [1, 3], expected [2, 3]");
}

OP_CASES(mask_padding) {
  const Plan plans[] = {{1, 1, 1, 0, {1}}, {0, 2, 3, 0, {}}, {4, 3, 5, 0, {0, 3, 1, 2}}, {3, 7, 64, 0, {7, 0, 4}}};
  for (const Plan& p : plans) {
    add_case(
        Shape{p.batch, p.time, p.width}.text(), {poisoned(uniform({p.batch, p.time, p.width}), p), integers({p.batch}, p.lengths)},
        [](std::span<const Tensor> in) { return mask_padding(in[0], in[1]); },
        [p](std::span<const Operand> in) {
          std::vector<double> y(in[0].values.size());
          for (std::int64_t b = 0; b < p.batch; ++b)
            for (std::int64_t i = 0; i < in[1].ids[static_cast<std::size_t>(b)] * p.width; ++i)
              y[b * p.time * p.width + i] = in[0].values[b * p.time * p.width + i];
          return y;
        });
  }
  add_error([] { mask_padding(Tensor::zeros({2, 3, 2}), Tensor::zeros({3}, DType::i32)); }, "mask_padding: lengths is [3], expected [2]");
}
