// cuDNN's recurrent networks against our own kernels, in builds that hold them.
#include <doctest/doctest.h>

#include "base/error.h"
#include "engine/autograd/tape.h"
#include "engine/core/build_info.h"
#include "engine/core/cudnn.h"
#include "engine/ops/elementwise.h"
#include "engine/ops/recurrent_library.h"
#include "engine/ops/reduce.h"
#include "tests/ops/op_cases.h"
#include "tests/support/oracle.h"

namespace expctr::test {
namespace {

constexpr Device device{DeviceType::cuda, 0};

std::vector<std::vector<double>> run_layer(RecurrentLibrary library, bool is_lstm, bool with_lengths, bool with_initial, bool biases) {
  set_recurrent_library(library);
  const std::int64_t batch = 5, time = 4, width = 6, hidden = 7, rows = (is_lstm ? 4 : 3) * hidden;
  const auto make = [](const Shape& shape, std::uint64_t seed) {
    return tensor_of(uniform(shape, -1, 1, seed).values, shape, DType::f32, device).require_gradient();
  };
  const Tensor x = make({batch, time, width}, 1);
  RecurrentWeights w{make({rows, width}, 2), make({rows, hidden}, 3), {}, {}};
  if (biases) {
    w.bias_input = make({rows}, 4);
    w.bias_hidden = make({rows}, 5);
  }
  const Tensor initial = with_initial ? make({batch, hidden}, 6) : Tensor(),
               cell = with_initial && is_lstm ? make({batch, hidden}, 7) : Tensor();
  const Tensor lengths = with_lengths ? Tensor::of(std::vector<std::int32_t>{4, 1, 3, 2, 4}, {batch}, device) : Tensor();
  Tape tape;
  const RecurrentStates s = is_lstm ? lstm(x, w, lengths, initial, cell) : gru(x, w, lengths, initial);
  Tensor loss = add(sum_all(multiply(s.all, s.all)), sum_all(multiply(s.last, make(s.last.shape(), 8))));
  if (is_lstm) loss = add(loss, sum_all(s.last_cell));
  tape.backward(loss);
  std::vector<std::vector<double>> results = {doubles(s.all), doubles(s.last)};
  if (is_lstm) results.push_back(doubles(s.last_cell));
  for (const Tensor& tensor : {x, w.input, w.hidden, w.bias_input, w.bias_hidden, initial, cell})
    if (tensor.defined()) results.push_back(doubles(tensor.gradient()));
  {
    const NoGradient off;
    results.push_back(doubles((is_lstm ? lstm(x, w, lengths, initial, cell) : gru(x, w, lengths, initial)).all));
  }
  set_recurrent_library(RecurrentLibrary::own);
  return results;
}

}  // namespace

TEST_CASE("recurrent layers through cuDNN give what our own kernels give") {
  if constexpr (!has_cudnn) {
    CHECK_THROWS_WITH_AS(set_recurrent_library(RecurrentLibrary::cudnn), doctest::Contains("-DEXPCTR_CUDNN=ON"), UsageError);
    CHECK(recurrent_library() == RecurrentLibrary::own);
  } else {
    for (int variant = 0; variant < 16; ++variant) {
      CAPTURE(variant);
      const bool is_lstm = variant & 1, lengths = variant & 2, initial = variant & 4, biases = variant & 8;
      const auto own = run_layer(RecurrentLibrary::own, is_lstm, lengths, initial, biases),
                 cudnn = run_layer(RecurrentLibrary::cudnn, is_lstm, lengths, initial, biases);
      REQUIRE(own.size() == cudnn.size());
      for (std::size_t i = 0; i < own.size(); ++i) {
        CAPTURE(i);
        REQUIRE(own[i].size() == cudnn[i].size());
        double largest = 1;
        for (const double v : own[i]) largest = std::max(largest, std::abs(v));
        for (std::size_t k = 0; k < own[i].size(); ++k) CHECK(std::abs(own[i][k] - cudnn[i][k]) <= 1e-5 * largest);
      }
    }
  }
}

}  // namespace expctr::test
