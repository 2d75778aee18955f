// Recurrent layers against PyTorch's (values kept in recurrent_golden.h) and against the reference cases of GRU4Rec and DIEN.
#include "tests/ops/recurrent_golden.h"

#include <doctest/doctest.h>

#include "engine/autograd/tape.h"
#include "engine/core/build_info.h"
#include "engine/ops/elementwise.h"
#include "engine/ops/embedding.h"
#include "engine/ops/loss.h"
#include "engine/ops/matmul.h"
#include "engine/ops/recurrent.h"
#include "engine/ops/reduce.h"
#include "tests/support/oracle.h"
#include "tests/support/paths.h"

namespace expctr::test {
namespace {

struct Place {
  Device device;
  DType dtype;
  double tolerance;  ///< relative to the largest magnitude
};

std::vector<Place> places() {
  std::vector<Place> all = {{cpu_device, DType::f64, 1e-12}, {cpu_device, DType::f32, 1e-5}};
  if constexpr (has_cuda) all.push_back({{DeviceType::cuda, 0}, DType::f32, 1e-5});
  return all;
}

/// As in scripts/recurrent_golden.py.
Tensor value(const Shape& shape, int seed, const Place& place) {
  std::vector<double> values;
  for (std::int64_t i = 0; i < shape.size(); ++i) values.push_back(static_cast<double>((i * 37 + seed * 101) % 32 - 16) / 16.0);
  return tensor_of(values, shape, place.dtype, place.device);
}

void check_against(const std::vector<double>& got, const std::vector<double>& expected, double tolerance) {
  REQUIRE(got.size() == expected.size());
  double largest = 0;
  for (const double v : expected) largest = std::max(largest, std::abs(v));
  for (std::size_t i = 0; i < got.size(); ++i) {
    CAPTURE(i);
    CHECK(std::abs(got[i] - expected[i]) <= tolerance * largest);
  }
}

void compare_with_torch(bool is_lstm, const std::vector<std::vector<double>>& expected, const Place& place) {
  const std::int64_t batch = 3, time = 4, width = 3, hidden = 2, rows = (is_lstm ? 4 : 3) * hidden;
  RecurrentWeights w{value({rows, width}, 1, place), value({rows, hidden}, 2, place), value({rows}, 3, place), value({rows}, 4, place)};
  Tensor x = value({batch, time, width}, 5, place), initial = value({batch, hidden}, 6, place), cell = value({batch, hidden}, 7, place);
  for (Tensor* tensor : {&x, &w.input, &w.hidden, &w.bias_input, &w.bias_hidden, &initial, &cell}) tensor->require_gradient();
  const Tensor lengths = Tensor::of(std::vector<std::int32_t>{4, 1, 3}, {batch}, place.device);
  Tape tape;
  const RecurrentStates s = is_lstm ? lstm(x, w, lengths, initial, cell) : gru(x, w, lengths, initial);
  Tensor loss = add(sum_all(multiply(s.all, value(s.all.shape(), 8, place))), sum_all(multiply(s.last, value(s.last.shape(), 9, place))));
  if (is_lstm) loss = add(loss, sum_all(multiply(s.last_cell, value(s.last_cell.shape(), 10, place))));
  tape.backward(loss);
  std::vector<Tensor> results = {s.all, s.last};
  if (is_lstm) results.push_back(s.last_cell);
  for (const Tensor& tensor : {x, w.input, w.hidden, w.bias_input, w.bias_hidden, initial}) results.push_back(tensor.gradient());
  if (is_lstm) results.push_back(cell.gradient());
  REQUIRE(results.size() == expected.size());
  for (std::size_t i = 0; i < results.size(); ++i) {
    CAPTURE(i);
    check_against(doubles(results[i]), expected[i], place.tolerance);
  }
}

}  // namespace

TEST_CASE("recurrent layers equal PyTorch's on packed sequences") {
  for (const Place& place : places()) {
    compare_with_torch(false, torch_gru, place);
    compare_with_torch(true, torch_lstm, place);
  }
}

TEST_CASE("the reference case of GRU4Rec") {
  const std::filesystem::path folder = oracle_root() / "sequence" / "gru4rec";
  const SafetensorsFile file = SafetensorsFile::open(folder / "tensors.safetensors");
  for (const Place& place : places()) {
    OracleReport report(folder, "recurrent layer, " + device_name(place.device) + " " + dtype_name(place.dtype));
    const auto parameter = [&](const std::string& name) {
      Tensor tensor = tensor_of(doubles(file, name), shape_of(file, name), place.dtype, place.device);
      return tensor.require_gradient();
    };
    const Tensor item = parameter("param.item"), weight = parameter("param.dense.weight"), bias = parameter("param.dense.bias");
    const RecurrentWeights layer{parameter("param.gru.weight_ih"), parameter("param.gru.weight_hh"), {}, {}};
    const Shape sequence = shape_of(file, "in.sequence");
    const auto ids = [&](const std::string& name) {
      const std::vector<std::int32_t> values = integers(file, name);
      return Tensor::of(values, {static_cast<std::int64_t>(values.size())}, place.device);
    };
    Tape tape;
    const Tensor x = gather(item, ids("in.sequence"), 0).reshape({sequence[0], sequence[1], item.dim(1)});
    const RecurrentStates states = gru(x, layer, ids("in.length"));
    const Tensor user = add(matmul(states.last, weight, false, true), bias), logits = matmul(user, item, false, true);
    const Tensor loss = affine(mean_all(log_probability(logits, ids("in.target"))), -1.0);
    tape.backward(loss);
    const auto compare = [&](const std::string& name, const Tensor& got) {
      report.compare(name, doubles(got), doubles(file, name), place.tolerance);
    };
    compare("out.state", states.last);
    compare("out.logits", logits);
    compare("loss", loss);
    compare("grad.param.gru.weight_ih", layer.input.gradient());
    compare("grad.param.gru.weight_hh", layer.hidden.gradient());
    compare("grad.param.dense.weight", weight.gradient());
    CHECK(report.finish());
  }
}

TEST_CASE("the reference cases of DIEN: interest states of the GRU, final state of the AUGRU") {
  for (const char* name : {"dien_bilinear", "dien_dot", "dien_mlp"}) {
    const std::filesystem::path folder = oracle_root() / "ctr" / name;
    const SafetensorsFile file = SafetensorsFile::open(folder / "tensors.safetensors");
    const std::vector<std::int32_t> items = integers(file, "in.hist_item");
    const Shape history = shape_of(file, "in.hist_item");
    std::vector<std::int32_t> lengths(static_cast<std::size_t>(history[0]));  // padded behind, with item 0
    for (std::size_t i = 0; i < items.size(); ++i) lengths[i / static_cast<std::size_t>(history[1])] += items[i] != 0;
    for (const Place& place : places()) {
      OracleReport report(folder, "recurrent layers, " + device_name(place.device) + " " + dtype_name(place.dtype));
      const auto tensor = [&](const std::string& tensor_name) {
        return tensor_of(doubles(file, tensor_name), shape_of(file, tensor_name), place.dtype, place.device);
      };
      const auto layer = [&](const std::string& prefix) {
        return RecurrentWeights{tensor(prefix + ".weight_ih"), tensor(prefix + ".weight_hh"), tensor(prefix + ".bias_ih"),
                                tensor(prefix + ".bias_hh")};
      };
      const auto look_up = [&](const std::string& table, const std::string& ids) {
        const std::vector<std::int32_t> values = integers(file, ids);
        return gather(tensor(table), Tensor::of(values, {static_cast<std::int64_t>(values.size())}, place.device));
      };
      const Tensor row_lengths = Tensor::of(lengths, {history[0]}, place.device);
      const Tensor flat = concat_columns({look_up("param.emb.item", "in.hist_item"), look_up("param.emb.cate", "in.hist_cate")});
      const Tensor interests = gru(flat.reshape({history[0], history[1], flat.dim(1)}), layer("param.gru"), row_lengths).all;
      std::vector<double> expected = doubles(file, "out.interest_states");
      for (std::size_t i = 0; i < expected.size(); ++i) {  // ours are zero where there is padding
        const std::size_t step = i / static_cast<std::size_t>(flat.dim(1)), time = static_cast<std::size_t>(history[1]);
        if (step % time >= static_cast<std::size_t>(lengths[step / time])) expected[i] = 0;
      }
      report.compare("interest states", doubles(interests), expected, place.tolerance);
      const Tensor attention = tensor("out.attention");
      report.compare("final state", doubles(augru(interests, layer("param.augru"), attention, row_lengths).last),
                     doubles(file, "out.final_state"), place.tolerance);
      CHECK(report.finish());
    }
  }
}

}  // namespace expctr::test
