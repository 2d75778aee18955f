#include "engine/ops/select.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/ops/op_cases.h"

using namespace expctr;
using namespace expctr::test;

namespace {

/// Lists of excluded columns: every third column of even rows, none of odd ones, all but two of row 3.
struct Lists {
  std::vector<std::int32_t> offsets = {0}, columns;
};
Lists some_lists(std::int64_t rows, std::int64_t width) {
  Lists lists;
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < width; ++c)
      if ((r % 2 == 0 && c % 3 == 1) || (r == 3 && c != 2 && c != 5)) lists.columns.push_back(static_cast<std::int32_t>(c));
    lists.offsets.push_back(static_cast<std::int32_t>(lists.columns.size()));
  }
  return lists;
}

/// Order of a full stable sort: (value, index) pairs, -1 past the end.
std::vector<std::pair<double, std::int32_t>> plain_top_k(const Operand& x, std::int64_t k, const Lists* lists) {
  const std::int64_t rows = x.shape[0], width = x.shape[1];
  std::vector<std::pair<double, std::int32_t>> result;
  for (std::int64_t r = 0; r < rows; ++r) {
    std::vector<std::int32_t> order;
    for (std::int32_t c = 0; c < width; ++c) {
      const bool out = lists != nullptr && std::binary_search(lists->columns.begin() + lists->offsets[static_cast<std::size_t>(r)],
                                                              lists->columns.begin() + lists->offsets[static_cast<std::size_t>(r) + 1], c);
      if (!out && !std::isnan(x.values[r * width + c])) order.push_back(c);
    }
    std::stable_sort(order.begin(), order.end(),
                     [&](std::int32_t a, std::int32_t b) { return x.values[r * width + a] > x.values[r * width + b]; });
    for (std::int64_t j = 0; j < k; ++j) {
      const bool there = j < static_cast<std::int64_t>(order.size());
      result.push_back({there ? x.values[r * width + order[j]] : -std::numeric_limits<double>::infinity(), there ? order[j] : -1});
    }
  }
  return result;
}

TopEntries top_k_of(const Tensor& x, std::int64_t k, const Lists* lists) {
  if (lists == nullptr) return top_k(x, k);
  return top_k(x, k,
               {Tensor::of(lists->offsets, {static_cast<std::int64_t>(lists->offsets.size())}, x.device()),
                Tensor::of(lists->columns, {static_cast<std::int64_t>(lists->columns.size())}, x.device())});
}

/// Values of which many are equal.
Operand coarse(Operand operand, double levels) {
  for (double& value : operand.values) value = std::floor(value * levels);
  return constant(operand);
}

/// Different values in a scattered order, further apart than the step of a finite difference: 7919 has no factor in common with the sizes.
Operand scattered(const Shape& shape) {
  Operand operand = uniform(shape);
  const std::int64_t n = shape.size();
  for (std::int64_t i = 0; i < n; ++i)
    operand.values[static_cast<std::size_t>(i)] = static_cast<double>(i * 7919 % n) / static_cast<double>(n) - 0.5;
  return operand;
}

void add_top_k(const std::string& label, const Operand& x, std::int64_t k, bool excluded) {
  const Lists lists = some_lists(x.shape[0], x.shape[1]);
  const bool complete = !excluded && k <= x.shape[1];  // minus infinity cannot be compared
  if (complete) {
    add_case(
        label + ", values", {x}, [=](std::span<const Tensor> in) { return top_k(in[0], k).values; },
        [=](std::span<const Operand> in) {
          std::vector<double> y;
          for (const auto& [value, index] : plain_top_k(in[0], k, nullptr)) y.push_back(value);
          return y;
        });
  }
  add_case(
      label + ", indices", {constant(x)},
      [=](std::span<const Tensor> in) {
        const Tensor indices = top_k_of(in[0], k, excluded ? &lists : nullptr).indices;
        const std::vector<std::int32_t> ids = indices.to_vector<std::int32_t>();
        return Tensor::of(std::vector<float>(ids.begin(), ids.end()), indices.shape());
      },
      [=](std::span<const Operand> in) {
        std::vector<double> y;
        for (const auto& [value, index] : plain_top_k(in[0], k, excluded ? &lists : nullptr)) y.push_back(index);
        return y;
      });
}

}  // namespace

OP_CASES(top_k) {
  struct Case {
    std::int64_t rows, width, k;
  };
  for (const Case& c : {Case{1, 1, 1}, Case{0, 5, 2}, Case{2, 0, 3}, Case{3, 7, 7}, Case{3, 7, 10}, Case{5, 100, 10}, Case{4, 1682, 50},
                        Case{2, 3001, 1024}, Case{2, 20000, 20}}) {
    const std::string label = std::to_string(c.k) + " of " + Shape{c.rows, c.width}.text();
    add_top_k(label, scattered({c.rows, c.width}), c.k, false);
    add_top_k(label + " with ties", coarse(uniform({c.rows, c.width}), 5.0), c.k, false);
    add_top_k(label + " with excluded columns", coarse(uniform({c.rows, c.width}), 50.0), c.k, true);
  }
  // Ascending rows fill the buffer again and again; descending ones never.
  Operand ascending = uniform({2, 9000}), special = uniform({1, 200});
  for (std::size_t i = 0; i < ascending.values.size(); ++i)
    ascending.values[i] = i < 9000 ? static_cast<double>(i) : -static_cast<double>(i);
  add_top_k("ascending and descending rows", ascending, 100, false);
  for (std::size_t i = 0; i < 200; ++i) {
    const double infinity = std::numeric_limits<double>::infinity();
    special.values[i] = i % 4 == 0   ? std::nan("")
                        : i % 4 == 1 ? -infinity
                        : i % 8 == 2 ? -0.0
                        : i % 8 == 3 ? 0.0
                        : i == 100   ? infinity
                                     : 1.0;
  }
  add_top_k("NaN, infinities and zeros", constant(special), 170, true);
  add_top_k("NaN, infinities and zeros, no list", constant(special), 201, false);
  add_error([] { top_k(Tensor::zeros({2, 3}), 0); }, "top_k: k 0");
  add_error([] { top_k(Tensor::zeros({2, 3}), 1025); }, "top_k: k 1025");
  add_error(
      [] {
        top_k(Tensor::zeros({2, 3}), 1, {Tensor::zeros({2}, DType::i32), Tensor::zeros({1}, DType::i32)});
      },
      "top_k: offsets of the excluded columns is [2], expected [3]");
  add_error([] { top_k(Tensor::zeros({2, 3}), 1, {Tensor::zeros({3}, DType::i32), {}}); }, "top_k: excluded columns without offsets");
  add_error(
      [] {
        top_k(Tensor::zeros({1, 3}), 1, {Tensor::of(std::vector<std::int32_t>{0, 2}, {2}), Tensor::zeros({1}, DType::i32)});
      },
      "top_k: offsets must ascend within [0, 1]");
}
