#include <doctest/doctest.h>

#include <cmath>

#include "engine/ops/norm.h"
#include "tests/ops/op_cases.h"

using namespace expctr;
using namespace expctr::test;

OP_CASES(rms_norm) {
  for (const auto& [rows, width] : {std::pair{1, 1}, {3, 7}, {0, 8}, {5, 576}, {33, 130}}) {
    add_case(Shape{rows, width}.text(), {uniform({rows, width}), uniform({width}, 0.5, 1.5, 2)},
             [](std::span<const Tensor> in) { return rms_norm(in[0], in[1], 1e-5); },
             [](std::span<const Operand> in) {
               const std::int64_t rows = in[0].shape[0], width = in[0].shape[1];
               std::vector<double> y;
               for (std::int64_t r = 0; r < rows; ++r) {
                 double square = 0.0;
                 for (std::int64_t i = 0; i < width; ++i) square += in[0].values[r * width + i] * in[0].values[r * width + i];
                 const double rms = std::sqrt(square / static_cast<double>(width) + 1e-5);
                 for (std::int64_t i = 0; i < width; ++i) y.push_back(in[1].values[i] * in[0].values[r * width + i] / rms);
               }
               return y;
             },
             std::max(rows, width));
  }
  add_error([] { rms_norm(Tensor::zeros({3, 7}), Tensor::zeros({6}), 1e-5); }, "rms_norm: gain is [6], expected [7]");
}
