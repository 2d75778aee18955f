#include "engine/ops/optim_tables.h"

#include <cmath>

#include "base/kernels/embedding_rows.h"
#include "tests/ops/op_cases.h"

using namespace expctr;
using namespace expctr::test;

namespace {

constexpr int steps = 3;
constexpr double factor = 0.5;

// ---- SGD -----------------------------------------------------------------------------------------------------------------------------

std::vector<double> plain_sgd(const Operand& parameter, const Operand& gradient, const SgdOptions& o) {
  std::vector<double> p = parameter.values, u(p.size());
  for (int step = 0; step < steps; ++step) {
    for (std::size_t i = 0; i < p.size(); ++i) {
      const double g = factor * gradient.values[i] + o.weight_decay * p[i];
      if (o.momentum == 0) {
        p[i] -= o.learning_rate * g;
      } else {
        u[i] = o.momentum * u[i] + g;
        p[i] -= o.learning_rate * (o.nesterov ? g + o.momentum * u[i] : u[i]);
      }
    }
  }
  return p;
}

Tensor after_sgd(std::span<const Tensor> in, std::size_t slot, const SgdOptions& options) {
  std::vector<SgdSlot> slots;
  for (std::size_t i = 0; i < 2; ++i) {
    const Tensor& p = in[2 * i];
    slots.push_back({p.clone(), in[2 * i + 1], options.momentum == 0 ? Tensor() : Tensor::zeros(p.shape(), p.dtype(), p.device())});
  }
  for (int step = 0; step < steps; ++step) sgd_update(slots, options, {factor, 0.0, {}});
  return slots[slot].parameter;
}

std::vector<Operand> two_tensors(const Shape& first, const Shape& second) {
  return {constant(uniform(first)), constant(uniform(first, -1.0, 1.0, 2)), constant(uniform(second, -1.0, 1.0, 3)),
          constant(uniform(second, -1.0, 1.0, 4))};
}

// ---- tables --------------------------------------------------------------------------------------------------------------------------

constexpr AdamOptions adam{.learning_rate = 0.01, .beta1 = 0.9, .beta2 = 0.99, .epsilon = 1e-6, .weight_decay = 0.1};
constexpr double table_l2 = 0.03, dense_l2 = 0.02;

struct TableSizes {
  std::int64_t rows, width, named, dense;
};
constexpr TableSizes table_sizes[] = {{1, 1, 1, 1},         {5, 3, 0, 3},    {7, 4, 7, 0},      {40, 8, 11, 5},
                                      {2000, 5, 300, 4097}, {9, 1030, 4, 1}, {5000, 1, 2500, 2}};

// `named` rows, spread over the table, and two fillers.
std::vector<std::int32_t> named_rows(const TableSizes& s) {
  std::vector<std::int32_t> ids;
  for (std::int64_t k = 0; k < s.named; ++k) ids.push_back(static_cast<std::int32_t>((2 * k + 1) * s.rows / (2 * s.named)));
  return ids;
}

// Table, its row gradient, a dense tensor and its gradient, ids.
std::vector<Operand> table_operands(const TableSizes& s) {
  const std::vector<std::int32_t> ids = named_rows(s);
  return {constant(uniform({s.rows, s.width})), constant(uniform({s.named, s.width}, -1.0, 1.0, 2)),
          constant(uniform({s.dense}, -1.0, 1.0, 3)), constant(uniform({s.dense}, -1.0, 1.0, 4)), integers({s.named}, ids)};
}

// The ids with fillers behind them, as they come from the device, and rows of zeros beside these.
RowGradient with_fillers(const Tensor& ids, const Tensor& rows) {
  std::vector<std::int32_t> all = ids.to_vector<std::int32_t>();
  all.insert(all.end(), {no_row, no_row});
  const Tensor wide = Tensor::zeros({rows.dim(0) + 2, rows.dim(1)}, rows.dtype(), rows.device());
  wide.slice_rows(0, rows.dim(0)).copy_from(rows);
  return {Tensor::of(all, {std::ssize(all)}, ids.device()), wide};
}

std::vector<RegularisedSlot> table_slots(std::span<const Tensor> in, bool table_only = false) {
  const auto zeros = [](const Tensor& like) { return Tensor::zeros(like.shape(), like.dtype(), like.device()); };
  std::vector<RegularisedSlot> slots;
  slots.push_back({in[0].clone(), {}, with_fillers(in[4], in[1]), table_l2, zeros(in[0]), zeros(in[0])});
  if (!table_only) slots.push_back({in[2].clone(), in[3], {}, dense_l2, zeros(in[2]), zeros(in[2])});
  return slots;
}

struct PlainTable {
  std::vector<double> p, g, m, v;
  std::vector<bool> touched;
};

PlainTable plain_table(std::span<const Operand> in, std::size_t slot) {
  PlainTable t;
  t.p = in[2 * slot].values;
  t.m.resize(t.p.size());
  t.v.resize(t.p.size());
  if (slot == 1) {
    t.g = in[3].values;
    t.touched.assign(t.p.size(), true);
    return t;
  }
  const std::size_t width = static_cast<std::size_t>(in[0].shape[1]);
  t.g.resize(t.p.size());
  t.touched.resize(t.p.size());
  for (std::size_t k = 0; k < in[4].ids.size(); ++k) {
    for (std::size_t c = 0; c < width; ++c) {
      t.g[static_cast<std::size_t>(in[4].ids[k]) * width + c] = in[1].values[k * width + c];
      t.touched[static_cast<std::size_t>(in[4].ids[k]) * width + c] = true;
    }
  }
  return t;
}

std::vector<double> plain_adam(std::span<const Operand> in, std::size_t slot, int part, bool lazy, double decay, double clip = 1.0) {
  PlainTable t = plain_table(in, slot);
  for (int step = 1; step <= steps; ++step) {
    for (std::size_t i = 0; i < t.p.size(); ++i) {
      if (lazy && !t.touched[i]) continue;
      const double g = factor * clip * (t.g[i] + (slot == 0 ? table_l2 : dense_l2) * t.p[i]);
      t.p[i] *= 1.0 - adam.learning_rate * decay;
      t.m[i] = adam.beta1 * t.m[i] + (1.0 - adam.beta1) * g;
      t.v[i] = adam.beta2 * t.v[i] + (1.0 - adam.beta2) * g * g;
      const double m_hat = t.m[i] / (1.0 - std::pow(adam.beta1, step)), v_hat = t.v[i] / (1.0 - std::pow(adam.beta2, step));
      t.p[i] -= adam.learning_rate * m_hat / (std::sqrt(v_hat) + adam.epsilon);
    }
  }
  return part == 0 ? t.p : part == 1 ? t.m : t.v;
}

const Tensor& part_of(const RegularisedSlot& slot, int part) {
  return part == 0 ? slot.parameter : part == 1 ? slot.first_moment : slot.second_moment;
}

double plain_norm(std::span<const Operand> in) {
  double total = 0;
  for (const std::size_t slot : {0, 1}) {
    const PlainTable t = plain_table(in, slot);
    for (std::size_t i = 0; i < t.p.size(); ++i) {
      const double g = t.g[i] + (slot == 0 ? table_l2 : dense_l2) * t.p[i];
      total += g * g;
    }
  }
  return total;
}

// f64 values as a tensor of the operands' own dtype and place.
Tensor like_operands(std::vector<double> values, const Tensor& like) {
  if (like.dtype() == DType::f64) return Tensor::of(values, {std::ssize(values)});
  return Tensor::of(std::vector<float>(values.begin(), values.end()), {std::ssize(values)}, like.device());
}

std::string label_of(const TableSizes& s) {
  return std::to_string(s.named) + " rows of " + Shape{s.rows, s.width}.text() + " beside " + Shape{s.dense}.text();
}

}  // namespace

OP_CASES(sgd_update) {
  meaningless(DType::bf16, "parameters, their gradients and moments are f32");
  for (const SgdOptions& options : {SgdOptions{0.1}, SgdOptions{0.1, 0.0, 0.2}, SgdOptions{0.1, 0.9, 0.2}, SgdOptions{0.1, 0.9, 0.2, true}}) {
    for (const auto& [first, second] : {std::pair{Shape{1}, Shape{0, 3}}, {Shape{7}, Shape{2, 3}}, {Shape{3, 1639}, Shape{5}}}) {
      for (const std::size_t slot : {0, 1}) {
        add_case((slot == 0 ? first : second).text() + ", momentum " + std::to_string(options.momentum) +
                     (options.nesterov ? " (Nesterov)" : "") + ", decay " + std::to_string(options.weight_decay),
                 two_tensors(first, second), [=](std::span<const Tensor> in) { return after_sgd(in, slot, options); },
                 [=](std::span<const Operand> in) { return plain_sgd(in[2 * slot], in[2 * slot + 1], options); });
      }
    }
  }
  add_error(
      [] {
        const SgdSlot slot{Tensor::zeros({3}), Tensor::zeros({4}), {}};
        sgd_update(std::span(&slot, 1), {});
      },
      "sgd_update: gradient is [4], expected [3]");
}

OP_CASES(table_adam_update) {
  meaningless(DType::bf16, "parameters, their gradients and moments are f32");
  const char* names[] = {"parameter", "first moment", "second moment"};
  for (const TableSizes& s : table_sizes) {
    for (const std::size_t slot : {0, 1}) {
      for (const int part : {0, 1, 2}) {
        add_case(
            std::string(names[part]) + (slot == 0 ? " of the table, " : " of the dense tensor, ") + label_of(s), table_operands(s),
            [=](std::span<const Tensor> in) {
              const std::vector<RegularisedSlot> slots = table_slots(in);
              for (int step = 1; step <= steps; ++step) table_adam_update(slots, adam, step, {factor, 0.0, {}}, {});
              return part_of(slots[slot], part);
            },
            [=](std::span<const Operand> in) { return plain_adam(in, slot, part, false, adam.weight_decay); });
      }
    }
  }
  // The norm clips on the device: the factor is taken from a norm of 5.
  add_case(
      "clipped by a norm on the device", table_operands({40, 8, 11, 5}),
      [](std::span<const Tensor> in) {
        const std::vector<RegularisedSlot> slots = table_slots(in);
        const Tensor norm = Tensor::of(std::vector<double>{25.0}, {1}, in[0].device());
        for (int step = 1; step <= steps; ++step) table_adam_update(slots, adam, step, {factor, 2.0, norm}, {});
        return slots[0].first_moment;
      },
      [](std::span<const Operand> in) { return plain_adam(in, 0, 1, false, adam.weight_decay, 2.0 / (5.0 + 1e-6)); });
  add_error(
      [] {
        const RegularisedSlot slot{
            Tensor::zeros({3, 2}), {}, {Tensor::zeros({2}, DType::i32), Tensor::zeros({1, 2})}, 0, Tensor::zeros({3, 2}),
            Tensor::zeros({3, 2})};
        table_adam_update(std::span(&slot, 1), {}, 1, {}, {});
      },
      "table_adam_update: gradient is [1, 2], expected [2, 2]");
  add_error(
      [] {
        const RegularisedSlot slot{Tensor::zeros({3, 2}), {}, {}, 0, Tensor::zeros({3, 2}), Tensor::zeros({3, 2})};
        table_adam_update(std::span(&slot, 1), {}, 0, {}, {});
      },
      "table_adam: step is 0, but the first step is 1");
}

OP_CASES(row_adam_update) {
  meaningless(DType::bf16, "parameters, their gradients and moments are f32");
  for (const TableSizes& s : table_sizes) {
    for (const int part : {0, 1, 2}) {
      add_case(
          "part " + std::to_string(part) + ", " + label_of(s), table_operands(s),
          [=](std::span<const Tensor> in) {
            const std::vector<RegularisedSlot> slots = table_slots(in, true);
            for (int step = 1; step <= steps; ++step) row_adam_update(slots, adam, step, {factor, 0.0, {}});
            return part_of(slots[0], part);
          },
          [=](std::span<const Operand> in) { return plain_adam(in, 0, part, true, 0.0); });
    }
  }
  add_error(
      [] {
        const RegularisedSlot slot{Tensor::zeros({3}), Tensor::zeros({3}), {}, 0, Tensor::zeros({3}), Tensor::zeros({3})};
        row_adam_update(std::span(&slot, 1), {}, 1, {});
      },
      "row_adam_update: a parameter with a dense gradient");
}

OP_CASES(sum_of_squares) {
  meaningless(DType::bf16, "parameters, their gradients and moments are f32");
  for (const TableSizes& s : table_sizes) {
    add_case(
        label_of(s), table_operands(s),
        [=](std::span<const Tensor> in) {
          const std::vector<RegularisedSlot> slots = table_slots(in);
          const Tensor squares = Tensor::empty({2}, DType::f64, in[0].device());
          sum_of_squares(slots, squares);
          const std::vector<double> fresh = squares.to_vector<double>();
          // The update leaves the same bits behind as a fresh sum.
          table_adam_update(slots, adam, 1, {factor, 0.0, {}}, squares);
          const std::vector<double> kept = squares.to_vector<double>();
          sum_of_squares(slots, squares);
          std::vector<double> result = fresh;
          result.push_back(kept == squares.to_vector<double>() ? 1.0 : -1.0);
          return like_operands(result, in[0]);
        },
        [=](std::span<const Operand> in) {
          std::vector<double> result;
          for (const std::size_t i : {0, 2}) {
            double sum = 0;
            for (const double v : in[i].values) sum += v * v;
            result.push_back(sum);
          }
          result.push_back(1.0);
          return result;
        });
  }
  add_error(
      [] {
        const RegularisedSlot slot{Tensor::zeros({3}), {}, {}, 0, {}, {}};
        sum_of_squares(std::span(&slot, 1), Tensor::zeros({2}, DType::f64));
      },
      "sum_of_squares: squares must be f64, one for each tensor");
}

OP_CASES(regularised_norm) {
  meaningless(DType::bf16, "parameters, their gradients and moments are f32");
  for (const TableSizes& s : table_sizes) {
    add_case(
        label_of(s), table_operands(s),
        [=](std::span<const Tensor> in) {
          const std::vector<RegularisedSlot> slots = table_slots(in);
          const Tensor squares = Tensor::empty({2}, DType::f64, in[0].device());
          sum_of_squares(slots, squares);
          return like_operands(regularised_norm(slots, squares).to_vector<double>(), in[0]);
        },
        [=](std::span<const Operand> in) { return std::vector<double>{plain_norm(in)}; });
  }
  add_error(
      [] {
        const RegularisedSlot slot{Tensor::zeros({3, 2}), {}, {}, 0.1, {}, {}};
        regularised_norm(std::span(&slot, 1), {});
      },
      "regularised_norm: squares must be f64");
}

OP_CASES(clip_values) {
  meaningless(DType::bf16, "parameters, their gradients and moments are f32");
  for (const std::int64_t n : {0, 1, 7, 5003}) {
    add_case(
        std::to_string(n) + " values", {constant(uniform({n}))},
        [](std::span<const Tensor> in) {
          const std::vector<Tensor> both = {in[0].clone(), in[0].clone()};
          clip_values(both, 0.25);
          return both[1];
        },
        [](std::span<const Operand> in) {
          std::vector<double> y = in[0].values;
          for (double& v : y) v = std::clamp(v, -0.25, 0.25);
          return y;
        });
  }
  add_error([] { clip_values(std::vector<Tensor>{Tensor::zeros({2})}, -1.0); }, "clip_values: the limit is -1");
}
