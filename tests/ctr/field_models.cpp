// LR, FM, DNN, DeepFM, IPNN, DCNv2 and AutoInt against the reference values of tests/oracles/ctr: outputs, inner values and all gradients
// in float64 and float32; ten steps of training with a regulariser over whole tables and with lazy rows; the printed numbers of the
// specification.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <set>

#include "base/error.h"
#include "engine/autograd/tape.h"
#include "engine/ops/loss.h"
#include "engine/ops/reduce.h"
#include "engine/optim/adam.h"
#include "models/ctr/field_model.h"
#include "tests/ctr/oracle_case.h"
#include "tests/support/paths.h"

using namespace expctr;

namespace {

constexpr double f64_bar = 1e-10, f32_bar = 1e-5;

Tensor of_dtype(const std::vector<double>& values, const Shape& shape, DType dtype) {
  if (dtype == DType::f64) return Tensor::of(values, shape);
  return Tensor::of(std::vector<float>(values.begin(), values.end()), shape);
}

FieldModelOptions options_of(const OracleCase& c) {
  const auto& hyper = c.description.at("hyper_parameters");
  FieldModelOptions options;
  const std::string kind = c.name.starts_with("trace_") ? "deepfm" : c.name.substr(0, c.name.find('_'));
  options.kind = parse_field_model(kind);
  for (const std::string name : hyper.at("fields")) options.fields.push_back({name, hyper.at("vocabulary").at(name).get<std::int64_t>()});
  options.embedding = hyper.at("embedding");
  options.mlp = hyper.value("mlp", hyper.value("deep", std::vector<std::int64_t>()));
  if (hyper.contains("mlp") && !options.mlp.empty() && options.mlp.back() == 1) options.mlp.pop_back();  // the output
  options.cross_layers = hyper.value("cross_layers", 3);
  options.experts = hyper.value("experts", 0);
  options.rank = hyper.value("rank", 1);
  options.attention_layers = hyper.value("layers", 1);
  options.attention_width = hyper.value("attention_width", 1);
  options.heads = hyper.value("heads", 1);
  options.residual = hyper.value("residual", false);
  options.scale = hyper.value("scale", false);
  options.layer_norm = hyper.value("layer_norm", false);
  options.wide = hyper.value("wide", false);
  return options;
}

void set_parameters(const OracleCase& c, const FieldModel& model, DType dtype) {
  std::set<std::string> names;
  for (const auto& [name, tensor] : model.parameters()) {
    REQUIRE_MESSAGE(c.has("param." + name), c.name, " has no parameter ", name);
    tensor.copy_from(of_dtype(c.values("param." + name), c.shape("param." + name), dtype));
    names.insert("param." + name);
  }
  for (const TensorInfo& tensor : c.file.tensors())
    CHECK_MESSAGE((!tensor.name.starts_with("param.") || names.contains(tensor.name)), c.name, ": the model has no ", tensor.name);
}

double worst_error(const OracleCase& c, DType dtype) {
  const FieldModelOptions options = options_of(c);
  const FieldModel model(options, 1, dtype);
  set_parameters(c, model, dtype);
  std::vector<FieldIds> fields;
  for (const CtrField& field : options.fields) {
    const auto ids = c.ids("in." + field.name);
    fields.push_back({Tensor::of(ids, {std::ssize(ids)}), {}});
  }
  Tape tape;
  const FieldModelOutput out = model.forward(fields, {.training = true, .sample_ids = {}, .dropout = {}});
  const Tensor loss = mean_all(bce_with_logits(out.logit, of_dtype(c.values("in.label"), c.shape("in.label"), dtype)));
  tape.backward(loss);

  double worst = 0;
  std::set<std::string> compared;
  const auto compare = [&](const std::string& name, const Tensor& got, double floor) {
    if (!c.has(name)) return;
    const double error = relative_error(as_doubles(got), c.values(name), floor);
    CHECK_MESSAGE(error <= (dtype == DType::f64 ? f64_bar : f32_bar),
                  fmt::format("{} {} {}: error {}", c.name, name, dtype_name(dtype), error));
    worst = std::max(worst, error);
    compared.insert(name);
  };
  compare("out.logit", out.logit, 0);
  compare("out.probability", sigmoid(out.logit.detached()), 0);
  compare("loss", loss, 0);
  for (const auto& [name, tensor] : out.parts) compare("out." + name, tensor.detached(), 0);
  if (c.has("out.cross")) compare("out.cross", out.parts[static_cast<std::size_t>(2 * options.cross_layers - 1)].tensor.detached(), 0);
  const double floor = 0.05 * c.largest_gradient();
  for (const auto& [name, tensor] : model.parameters()) compare("grad.param." + name, tensor.gradient(), floor);
  for (const TensorInfo& tensor : c.file.tensors()) {  // nothing of the case is passed over
    const bool is_result = tensor.name.starts_with("out.") || tensor.name.starts_with("grad.") || tensor.name == "loss";
    CHECK_MESSAGE((!is_result || compared.contains(tensor.name)), c.name, ": ", tensor.name, " was not compared");
  }
  return worst;
}

std::vector<OracleCase> cases(const std::function<bool(const std::string&)>& wanted) {
  std::vector<std::filesystem::path> folders;
  for (const auto& entry : std::filesystem::directory_iterator(oracle_root() / "ctr"))
    if (std::filesystem::exists(entry.path() / "case.json") && wanted(entry.path().filename().string())) folders.push_back(entry.path());
  std::sort(folders.begin(), folders.end());
  std::vector<OracleCase> result;
  for (const auto& folder : folders) result.emplace_back(folder);
  return result;
}

void print_case(const OracleCase& c, double wide, double narrow, double bar, double wide_bar) {
  fmt::print("oracle ctr/{} {} max_rel_err={:.2e} tol={:.0e} (float64: {:.2e} tol={:.0e})\n", c.name,
             wide <= wide_bar && narrow <= bar ? "ok" : "FAIL", narrow, bar, wide, wide_bar);
}

// Largest absolute difference of parameters and moments after the steps of a trace. (The files' out.step1.* repeat the values of step 10;
// the first step shows in the norm of the second.)
double trace_error(const OracleCase& c, DType dtype, bool by_rows) {
  const auto& hyper = c.description.at("hyper_parameters");
  const bool lazy = c.name.find("sparse") != std::string::npos, other_epsilon = c.name.ends_with("torch_eps");
  FieldModelOptions options = options_of(c);
  options.row_gradients = by_rows;
  const FieldModel model(options, 1, dtype);
  set_parameters(c, model, dtype);
  const auto parameters = model.parameters();
  std::vector<AdamRule> rules(parameters.size(), {hyper.value("net_regularizer", 0.0), false});
  std::fill_n(rules.begin(), model.tables().size(), AdamRule{hyper.value("embedding_regularizer", 0.0), lazy});
  Adam adam(parameters, {hyper.at("lr"), hyper.at("beta1"), hyper.at("beta2"), hyper.at("eps"), 0.0}, rules);

  const std::int64_t steps = hyper.at("steps"), batch = hyper.at("batch");
  const auto part = [&](const auto& all, std::int64_t step) {
    return std::vector(all.begin() + step * batch, all.begin() + (step + 1) * batch);
  };
  double worst = 0;
  const auto compare = [&](const std::string& name, const Tensor& tensor) {
    const auto got = as_doubles(tensor), wanted = c.values(name);
    double largest = 0;
    for (std::size_t i = 0; i < wanted.size(); ++i) largest = std::max(largest, std::abs(got[i] - wanted[i]));
    CHECK_MESSAGE(largest <= 1e-4, fmt::format("{} {}: {}", c.name, name, largest));
    worst = std::max(worst, largest);
  };
  for (std::int64_t step = 0; step < steps; ++step) {
    std::vector<FieldIds> fields;
    for (const CtrField& field : options.fields) fields.push_back({Tensor::of(part(c.ids("in." + field.name), step), {batch}), {}});
    adam.clear_gradients();
    Tape tape;
    const Tensor logit = model.forward(fields, {.training = true, .sample_ids = {}, .dropout = {}}).logit;
    const Tensor loss = mean_all(bce_with_logits(logit, of_dtype(part(c.values("in.label"), step), {batch}, dtype)));
    tape.backward(loss);
    if (lazy)  // the others' losses count the regulariser
      CHECK(as_doubles(loss)[0] == doctest::Approx(c.values("out.losses")[static_cast<std::size_t>(step)]).epsilon(1e-4));
    const double norm = adam.gradient_norm();
    if (c.has("out.gradient_norms"))
      CHECK(norm == doctest::Approx(c.values("out.gradient_norms")[static_cast<std::size_t>(step)])
                        .epsilon(dtype == DType::f64 && !other_epsilon ? 1e-10 : 1e-4));
    adam.step(hyper.at("lr"), clip_factor(norm, hyper.at("clip")));
  }
  for (const auto& [name, tensor] : parameters) compare("out.step10." + name, tensor);
  const auto state = adam.state("");
  for (const auto& [name, tensor] : state) {
    const bool first = name.starts_with("first_moment/");
    compare((first ? "out.moment1." : "out.moment2.") + name.substr(name.find('/') + 1), tensor);
  }
  return worst;
}

}  // namespace

bool expctr::is_field_model_case(const std::string& name) {
  static const std::set<std::string> names = {
      "lr", "fm", "dnn", "deepfm", "ipnn", "dcnv2", "dcnv2_mixture", "autoint_plain", "autoint_plus", "autoint_residual"};
  return names.contains(name) || name.starts_with("trace_adam");
}

TEST_CASE("ctr oracle cases of models on fields: outputs and gradients in float64 and float32") {
  int supported = 0;
  for (const OracleCase& c : cases([](const std::string& name) { return is_field_model_case(name) && !name.starts_with("trace_"); })) {
    ++supported;
    const double wide = worst_error(c, DType::f64), narrow = worst_error(c, DType::f32);
    print_case(c, wide, narrow, f32_bar, f64_bar);
  }
  CHECK(supported == 10);
}

TEST_CASE("ten steps of DeepFM: whole-table regulariser and lazy rows end where the references end") {
  int supported = 0;
  for (const OracleCase& c : cases([](const std::string& name) { return name.starts_with("trace_adam"); })) {
    ++supported;
    // PyTorch's SparseAdam places epsilon otherwise: within the difference that the specification names.
    const double wide_bar = c.name.ends_with("torch_eps") ? 1e-4 : 1e-12;
    double wide = 0, narrow = 0;
    for (const bool by_rows : {false, true}) {
      if (!by_rows && c.name.find("sparse") != std::string::npos) continue;
      wide = std::max(wide, trace_error(c, DType::f64, by_rows));
      narrow = std::max(narrow, trace_error(c, DType::f32, by_rows));
    }
    CHECK_MESSAGE(wide <= wide_bar, c.name);
    CHECK_MESSAGE(narrow <= 1e-4, c.name);
    print_case(c, wide, narrow, 1e-4, wide_bar);
  }
  CHECK(supported == 4);
}

TEST_CASE("printed numbers of FM and of the cross layer") {
  FieldModelOptions options;
  options.kind = FieldModelKind::fm;
  options.fields = {{"a", 2}, {"b", 2}, {"c", 2}};
  options.embedding = 2;
  const FieldModel fm(options, 1, DType::f64);
  const std::vector<double> vectors[] = {{1, 2}, {3, -1}, {0.5, 0.5}};
  const auto tables = fm.tables();
  for (std::size_t f = 0; f < 3; ++f) tables[f].tensor.slice_rows(1, 1).copy_from(Tensor::of(vectors[f], {1, 2}));
  for (std::size_t f = 3; f < 6; ++f) tables[f].tensor.fill(0.0);
  const Tensor one = Tensor::of(std::vector<std::int32_t>{1}, {1});
  CHECK(fm.forward({{one, {}}, {one, {}}, {one, {}}}, {}).logit.to_vector<double>()[0] == doctest::Approx(3.5).epsilon(1e-15));

  options.kind = FieldModelKind::dcnv2;
  options.fields = {{"a", 2}};
  options.mlp = {};
  options.cross_layers = 2;
  const FieldModel cross(options, 1, DType::f64);
  for (const auto& [name, tensor] : cross.parameters()) {
    if (name == "emb.a") tensor.slice_rows(1, 1).copy_from(Tensor::of(std::vector<double>{1, 2}, {1, 2}));
    if (name.starts_with("cross") && name.ends_with("weight")) tensor.copy_from(Tensor::of(std::vector<double>{.1, .2, .3, .4}, {2, 2}));
    if (name.starts_with("cross") && name.ends_with("bias")) tensor.copy_from(Tensor::of(std::vector<double>{.5, -.5}, {2}));
  }
  const auto parts = cross.forward({{one, {}}}, {}).parts;
  const auto x1 = parts[0].tensor.to_vector<double>(), x2 = parts[1].tensor.to_vector<double>();
  CHECK(x1[0] == doctest::Approx(2.0).epsilon(1e-14));
  CHECK(x1[1] == doctest::Approx(3.2).epsilon(1e-14));
  CHECK(x2[0] == doctest::Approx(3.34).epsilon(1e-14));
  CHECK(x2[1] == doctest::Approx(5.96).epsilon(1e-14));
}

TEST_CASE("lists of ids are averaged, an empty one gives zeros; wrong options and batches have messages") {
  FieldModelOptions options;
  options.kind = FieldModelKind::dnn;
  options.fields = {{"a", 4}, {"tags", 5}};
  options.embedding = 2;
  options.embedding_deviation = 1.0;
  options.mlp = {};
  const FieldModel model(options, 3, DType::f64);
  const auto value = [&](const std::vector<std::int32_t>& tags) {
    const std::int32_t n = static_cast<std::int32_t>(tags.size());
    return model
        .forward({{Tensor::of(std::vector<std::int32_t>{2}, {1}), {}},
                  {Tensor::of(tags, {n}), Tensor::of(std::vector<std::int32_t>{0, n}, {2})}},
                 {})
        .logit.to_vector<double>()[0];
  };
  CHECK(value({1, 3}) == doctest::Approx(0.5 * (value({1}) + value({3}))).epsilon(1e-13));
  CHECK(value({}) == doctest::Approx(value({0})).epsilon(1e-13));
  CHECK_THROWS_AS(model.forward({}, {}), ShapeError);
  CHECK_THROWS_AS(parse_field_model("svm"), UsageError);
  options.kind = FieldModelKind::autoint;
  options.attention_width = 5;
  options.heads = 2;
  CHECK_THROWS_AS(FieldModel(options, 1), UsageError);
  options.fields.clear();
  CHECK_THROWS_AS(FieldModel(options, 1), UsageError);
}
