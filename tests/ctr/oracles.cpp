// Compares click models with the reference values of tests/oracles/ctr: outputs, all gradients, running statistics; float64 and float32.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <set>

#include "engine/autograd/tape.h"
#include "engine/ops/elementwise.h"
#include "engine/ops/loss.h"
#include "engine/ops/reduce.h"
#include "models/ctr/din.h"
#include "models/ctr/din_batch.h"
#include "tests/ctr/oracle_case.h"
#include "tests/support/paths.h"

using namespace expctr;

namespace {

constexpr double f64_bar = 1e-10, f32_bar = 1e-5;

Tensor tensor_of(const OracleCase& c, const std::string& name, DType dtype) {
  const auto values = c.values(name);
  if (dtype == DType::f64) return Tensor::of(values, c.shape(name));
  return Tensor::of(std::vector<float>(values.begin(), values.end()), c.shape(name));
}

DinOptions din_options(const OracleCase& c) {
  const auto& hyper = c.description.at("hyper_parameters");
  const bool text = c.has("in.text");
  DinOptions options;
  options.fields.clear();
  for (const std::string name : hyper.at("fields")) {
    options.fields.push_back({name, hyper.at("vocabulary").at(name).get<std::int64_t>(), c.has("in.hist_" + name)});
  }
  options.embedding = hyper.at("embedding");
  options.map_layer = c.has("param.map.weight");
  options.attention = hyper.at("attention").get<std::vector<std::int64_t>>();
  options.attention_activation = parse_ctr_activation(hyper.at("attention_activation").get<std::string>());
  options.softmax = hyper.value("softmax", false);
  options.mlp = hyper.at("mlp").get<std::vector<std::int64_t>>();
  options.mlp.pop_back();  // the output, 1
  options.mlp_activation = parse_ctr_activation(hyper.value("mlp_activation", "relu"));
  options.interest_first = text;
  if (text) {
    options.text_width = hyper.at("text_width");
    options.adapter = hyper.at("adapter").get<std::vector<std::int64_t>>();
  }
  return options;
}

struct Texts {
  Tensor compact;                    // rows with a text only
  std::vector<std::int32_t> of_row;  // -1: none
};

Texts texts_of(const OracleCase& c, DType dtype) {
  Texts texts;
  if (!c.has("in.text")) return texts;
  const auto values = c.values("in.text");
  const auto has = c.ids("in.has_text");
  const std::size_t width = static_cast<std::size_t>(c.shape("in.text")[1]);
  std::vector<double> kept;
  std::int32_t count = 0;
  for (std::size_t r = 0; r < has.size(); ++r) {
    texts.of_row.push_back(has[r] != 0 ? count++ : -1);
    if (has[r] != 0)
      kept.insert(kept.end(), values.begin() + static_cast<std::ptrdiff_t>(r * width),
                  values.begin() + static_cast<std::ptrdiff_t>((r + 1) * width));
  }
  const Shape shape{count, static_cast<std::int64_t>(width)};
  texts.compact = dtype == DType::f64 ? Tensor::of(kept, shape) : Tensor::of(std::vector<float>(kept.begin(), kept.end()), shape);
  texts.compact.require_gradient();
  return texts;
}

double worst_din_error(const OracleCase& c, DType dtype) {
  const DinOptions options = din_options(c);
  const Din model(options, 1, dtype);
  std::set<std::string> compared;
  double worst = 0;
  const auto compare = [&](const std::string& name, const std::vector<double>& got, double floor = 0) {
    const double error = relative_error(got, c.values(name), floor);
    INFO(c.name, " ", name, " ", dtype_name(dtype), " error ", error);
    CHECK(error <= (dtype == DType::f64 ? f64_bar : f32_bar));
    worst = std::max(worst, error);
    compared.insert(name);
  };

  for (const auto& [name, tensor] : model.parameters()) {
    REQUIRE_MESSAGE(c.has("param." + name), "the case has no parameter ", name);
    tensor.copy_from(tensor_of(c, "param." + name, dtype));
  }
  const bool training = c.description.at("hyper_parameters").value("mode", "training") == "training";
  for (const auto& [name, tensor] : model.buffers()) {
    const std::string given = "in.att_" + name.substr(name.find('.') + 1);
    if (c.has(given)) tensor.copy_from(tensor_of(c, given, dtype));
  }

  DinArrays arrays;
  std::vector<std::vector<std::int32_t>> columns;  // spans point into these
  columns.reserve(32);
  const auto column = [&](const std::string& name) -> FieldArray { return {columns.emplace_back(c.ids(name)), 1}; };
  arrays.rows = c.shape("in.label")[0];
  arrays.history = c.shape("in.hist_item")[1];
  for (const CtrField& field : options.fields) {
    arrays.fields.push_back(column("in." + field.name));
    if (field.of_item) arrays.history_fields.push_back(column("in.hist_" + field.name));
  }
  if (options.map_layer) arrays.history_label = column("in.hist_label").ids;
  DinBatch batch = make_din_batch(arrays, options, dtype);
  Texts texts = texts_of(c, dtype);
  if (texts.compact.defined()) {
    batch.text = texts.compact;
    batch.text_of_row = Tensor::of(texts.of_row, {std::ssize(texts.of_row)});
  }

  Tape tape;
  const DinOutput out = model.forward(batch, {.training = training, .sample_ids = {}, .dropout = {}});
  const Tensor loss = mean_all(bce_with_logits(out.logit, tensor_of(c, "in.label", dtype)));
  tape.backward(loss);

  compare("out.logit", as_doubles(out.logit));
  compare("out.probability", as_doubles(sigmoid(out.logit.detached())));
  compare("loss", as_doubles(loss));
  compare("out.weights", as_doubles(out.weights));
  compare("out.interest", as_doubles(out.interest));
  if (c.has("out.a")) compare("out.a", as_doubles(out.a));
  for (const auto& [name, tensor] : model.buffers()) {
    const std::string given = "out.dice." + name.substr(name.find('.') + 1);
    if (name.starts_with("att.") && c.has(given)) compare(given, as_doubles(tensor));
  }
  // A gradient that is small beside the others is measured against 5 % of the largest one (README of the cases).
  const double floor = 0.05 * c.largest_gradient();
  for (const auto& [name, tensor] : model.parameters()) compare("grad.param." + name, as_doubles(tensor.gradient()), floor);
  if (c.has("grad.in.text")) {
    const auto compact = as_doubles(texts.compact.gradient());
    const std::size_t width = static_cast<std::size_t>(options.text_width);
    std::vector<double> full(texts.of_row.size() * width, 0.0);
    for (std::size_t r = 0; r < texts.of_row.size(); ++r) {
      if (texts.of_row[r] >= 0)
        std::copy_n(compact.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(texts.of_row[r]) * width), width,
                    full.begin() + static_cast<std::ptrdiff_t>(r * width));
    }
    compare("grad.in.text", full, floor);
    const auto a = as_doubles(out.a);
    const std::size_t a_width = static_cast<std::size_t>(options.adapter.back());
    for (std::size_t r = 0; r < texts.of_row.size(); ++r) {
      if (texts.of_row[r] < 0)
        CHECK(std::all_of(a.begin() + static_cast<std::ptrdiff_t>(r * a_width), a.begin() + static_cast<std::ptrdiff_t>((r + 1) * a_width),
                          [](double v) { return v == 0.0; }));
    }
  }
  for (const TensorInfo& tensor : c.file.tensors()) {  // nothing of the case is passed over
    const bool is_result = tensor.name.starts_with("out.") || tensor.name.starts_with("grad.") || tensor.name == "loss";
    CHECK_MESSAGE((!is_result || compared.contains(tensor.name)), c.name, ": ", tensor.name, " was not compared");
  }
  return worst;
}

bool is_din(const OracleCase& c) {
  return c.has("param.att.0.weight") && c.has("in.hist_item") && c.has("out.weights") && !c.has("param.mlp.bn0.weight") &&
         !c.name.starts_with("bst") && !c.name.starts_with("dien");
}

}  // namespace

TEST_CASE("ctr oracle cases: outputs and gradients in float64 and float32") {
  const std::filesystem::path root = oracle_root() / "ctr";
  REQUIRE_MESSAGE(std::filesystem::is_directory(root), "no reference values at ", root.string());
  std::vector<std::filesystem::path> folders;
  for (const auto& entry : std::filesystem::directory_iterator(root)) {
    if (std::filesystem::exists(entry.path() / "case.json")) folders.push_back(entry.path());
  }
  std::sort(folders.begin(), folders.end());
  int supported = 0;
  for (const auto& folder : folders) {
    const OracleCase c(folder);
    if (is_field_model_case(c.name)) continue;
    if (!is_din(c)) {
      fmt::print("oracle ctr/{} unsupported {}\n", c.name, c.description.at("what").get<std::string>());
      continue;
    }
    ++supported;
    const double wide = worst_din_error(c, DType::f64), narrow = worst_din_error(c, DType::f32);
    const bool ok = wide <= f64_bar && narrow <= f32_bar;
    fmt::print("oracle ctr/{} {} max_rel_err={:.2e} tol={:.0e} (float64: {:.2e} tol={:.0e})\n", c.name, ok ? "ok" : "FAIL", narrow, f32_bar,
               wide, f64_bar);
  }
  CHECK(supported >= 5);
}
