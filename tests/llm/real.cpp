// Real decoders: stories260K and SmolLM2-135M-Instruct against transformers in float64.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cmath>

#include "base/error.h"
#include "engine/autograd/tape.h"
#include "engine/ops/elementwise.h"
#include "engine/ops/embedding.h"
#include "engine/ops/optim.h"
#include "engine/ops/reduce.h"
#include "inference/generator.h"
#include "models/llm/load.h"
#include "models/peft.h"
#include "tests/support/oracle.h"
#include "tests/support/paths.h"

using namespace expctr;
using namespace expctr::test;

namespace {

Tokens ids_of(const nlohmann::json& json) { return json.get<Tokens>(); }

Tensor normalised_states(const Decoder& decoder, const Tokens& ids, const AdapterPlan& plan = {}) {
  const auto n = static_cast<std::int64_t>(ids.size());
  const std::int64_t lengths[] = {n};
  return decoder.normalise(decoder.blocks(0, decoder.config().layers, decoder.embed(Tensor::of(ids, {n}, decoder.device())), whole_sequences(lengths, decoder.device()), plan));
}

// log p(token t | tokens before it), 0 at t = 0.
std::vector<double> token_log_probabilities(const Decoder& decoder, const Tokens& ids, const Tensor& states) {
  const auto n = static_cast<std::int64_t>(ids.size());
  std::vector<double> result = {0.0};
  if (n < 2) return result;
  const Tokens targets(ids.begin() + 1, ids.end());
  const std::vector<double> scores = doubles(decoder.score(states.slice_rows(0, n - 1), Tensor::of(targets, {n - 1})).log_probability);
  result.insert(result.end(), scores.begin(), scores.end());
  return result;
}

// Greedy text through the generator; compared up to the first step whose margin float32 cannot decide.
void compare_greedy(OracleReport& report, PrefixStore& store, const std::vector<Tokens>& prompts, const std::vector<nlohmann::json>& cases) {
  std::vector<GenerationRequest> requests;
  for (const Tokens& prompt : prompts) requests.push_back({prompt, 0});
  GenerationOptions options;
  options.sampling.temperature = 0.0;
  options.max_new_tokens = static_cast<std::int64_t>(cases[0].at("greedy_ids").size());
  options.batch = 4;  // fewer than the prompts: rows leave and enter
  const std::vector<Generation> results = generate(store, nullptr, requests, options);
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const Tokens expected = ids_of(cases[i].at("greedy_ids"));
    const auto margins = cases[i].at("greedy_margin").get<std::vector<double>>();
    const std::string log_key = cases[i].contains("greedy_logp") ? "greedy_logp" : "logp";
    for (std::size_t t = 0; t < expected.size() && margins[t] >= 1e-3; ++t) {
      report.require(fmt::format("greedy token {} of case {}", t, i), results[i].tokens[t] == expected[t]);
      if (cases[i].contains(log_key)) report.compare_absolute("greedy log-probability", std::vector<double>{results[i].log_probabilities[t]}, std::vector<double>{cases[i].at(log_key)[t]}, 1e-4);
    }
  }
}

}  // namespace

TEST_CASE("oracles: stories260K") {
  const std::optional<std::filesystem::path> folder = stories_folder();
  if (!folder) return skip_test("model stories260k");
  const std::filesystem::path& place = *folder;
  for (const std::filesystem::path& model : {place / "stories260K.gguf", place / "hf"}) {
    OracleReport report(place, model.filename().string());
    const Decoder decoder = load_decoder(model);
    const nlohmann::json cases = read_json(place / "cases.json");
    const nlohmann::json& list = cases.is_array() ? cases : cases.at("cases");
    const SafetensorsFile forward = SafetensorsFile::open(place / "forward.safetensors");
    std::vector<Tokens> prompts;
    std::vector<nlohmann::json> entries;
    for (std::size_t i = 0; i < list.size(); ++i) {
      const Tokens ids = ids_of(list[i].at("ids"));
      const Tensor states = normalised_states(decoder, ids);
      report.compare("logits", doubles(decoder.logits(states)), doubles(forward, fmt::format("case{}/logits", i)), 1e-5);
      report.compare_absolute("log-probabilities", token_log_probabilities(decoder, ids, states), doubles(forward, fmt::format("case{}/logp", i)), 1e-4);
      prompts.push_back(ids);
      entries.push_back(list[i]);
    }
    PrefixStore store(decoder, decoder.config().layers, 1 << 20, 64);
    compare_greedy(report, store, prompts, entries);
    CHECK(report.finish());
  }
}

TEST_CASE("oracles: SmolLM2-135M-Instruct") {
  const auto model = find_model("smollm2/SmolLM2-135M-Instruct.Q4_1.gguf");
  if (!model) return skip_test("model smollm2");
  const std::filesystem::path folder = oracle_root() / "llm" / "smollm2";
  OracleReport report(folder);
  const Decoder decoder = load_decoder(*model);
  const nlohmann::json cases = read_json(folder / "cases.json").at("cases");
  const SafetensorsFile forward = SafetensorsFile::open(folder / "forward.safetensors");
  std::vector<Tokens> prompts;
  std::vector<nlohmann::json> entries;
  for (const nlohmann::json& entry : cases) {
    const std::string name = entry.at("name");
    const Tokens ids = ids_of(entry.at("ids"));
    const auto last = static_cast<std::int64_t>(ids.size()) - 1;
    const Tensor states = normalised_states(decoder, ids);
    report.compare(name + " hidden state", doubles(states.slice_rows(last, 1)), doubles(forward, name + "/last_hidden"), 1e-5);
    report.compare(name + " logits", doubles(decoder.logits(states.slice_rows(last, 1))), doubles(forward, name + "/last_logits"), 1e-5);
    report.compare_absolute(name + " log-probabilities", token_log_probabilities(decoder, ids, states), doubles(forward, name + "/logp"), 1e-4);
    if (entry.contains("id_yes")) {
      const std::int32_t answers[] = {entry.at("id_yes").get<std::int32_t>(), entry.at("id_no").get<std::int32_t>()};
      const std::vector<double> logits = doubles(decoder.head_rows(answers)(states.slice_rows(last, 1)));
      report.compare(name + " answers", logits, std::vector<double>{entry.at("l_yes"), entry.at("l_no")}, 1e-5);
      report.compare_absolute(name + " p(yes)", std::vector<double>{1.0 / (1.0 + std::exp(logits[1] - logits[0]))}, std::vector<double>{entry.at("p_yes")}, 1e-4);
    }
    prompts.push_back(ids);
    entries.push_back(entry);
  }
  PrefixStore store(decoder, decoder.config().layers, 64 << 20, 64);
  compare_greedy(report, store, prompts, entries);
  CHECK(report.finish());
}

TEST_CASE("oracles: LoRA on SmolLM2-135M-Instruct") {
  const auto model = find_model("smollm2/SmolLM2-135M-Instruct.Q4_1.gguf");
  if (!model) return skip_test("model smollm2");
  const std::filesystem::path folder = oracle_root() / "llm" / "smollm2" / "lora";
  OracleReport report(folder);
  const Decoder decoder = load_decoder(*model);
  const nlohmann::json reference = read_json(folder / "lora.json");
  const LoraAdapter adapter = load_peft(folder, decoder.config(), DType::f32, cpu_device, true);
  const Tokens ids = ids_of(reference.at("ids")), labels = ids_of(reference.at("labels"));
  std::vector<std::int32_t> rows, targets;
  for (std::size_t t = 1; t < labels.size(); ++t) {
    if (labels[t] == -100) continue;
    rows.push_back(static_cast<std::int32_t>(t) - 1);
    targets.push_back(labels[t]);
  }
  const auto n = static_cast<std::int64_t>(rows.size()), tokens = static_cast<std::int64_t>(ids.size());
  const std::int64_t lengths[] = {tokens};
  const TokenContext context = whole_sequences(lengths, cpu_device);
  const auto completion = [&](const AdapterPlan& plan) {
    const Tensor hidden = decoder.blocks(0, decoder.config().layers, decoder.embed(Tensor::of(ids, {tokens})), context, plan);
    return decoder.score(decoder.normalise(gather(hidden, Tensor::of(rows, {n}))), Tensor::of(targets, {n})).log_probability;
  };
  const AdapterPlan plan(&adapter);
  report.compare_absolute("loss without adapter", doubles(affine(mean_all(completion({})), -1.0)), std::vector<double>{reference.at("loss_without_adapter")}, 5e-5);
  const std::vector<NamedTensor> parameters = adapter.parameters();
  std::vector<AdamSlot> slots;
  for (const NamedTensor& p : parameters) slots.push_back({p.tensor.detached(), {}, Tensor::zeros(p.tensor.shape()), Tensor::zeros(p.tensor.shape())});
  const AdamOptions options{1e-4, 0.9, 0.999, 1e-8, 0.01};
  const auto losses = reference.at("adamw_losses").get<std::vector<double>>(), norms = reference.at("adamw_grad_norms").get<std::vector<double>>();
  for (std::int64_t step = 1; step <= 5; ++step) {
    for (const NamedTensor& p : parameters) p.tensor.clear_gradient();
    Tape tape;
    const Tensor log_probabilities = completion(plan);
    if (step == 1) report.compare_absolute("completion log-probabilities", doubles(log_probabilities), reference.at("completion_logp").get<std::vector<double>>(), 1e-4);
    const Tensor loss = affine(mean_all(log_probabilities), -1.0);
    report.compare_absolute(fmt::format("loss before step {}", step), doubles(loss), std::vector<double>{losses[static_cast<std::size_t>(step - 1)]}, 5e-5);
    tape.backward(loss);
    std::vector<Tensor> gradients;
    for (std::size_t i = 0; i < parameters.size(); ++i) gradients.push_back(slots[i].gradient = parameters[i].tensor.gradient());
    if (step == 1) {
      for (const NamedTensor& p : parameters) {
        const nlohmann::json& expected = reference.at("gradients").at(p.name);
        const std::vector<double> g = doubles(p.tensor.gradient());
        double square = 0.0;
        for (const double v : g) square += v * v;
        report.compare("norm of the gradient of " + p.name, std::vector<double>{std::sqrt(square)}, std::vector<double>{expected.at("norm")}, 2e-4);
        for (std::size_t i = 0; i < expected.at("at").size(); ++i) {
          const auto at = expected.at("at")[i].get<std::vector<std::int64_t>>();
          report.compare("gradient of " + p.name, std::vector<double>{g[static_cast<std::size_t>(at[0] * p.tensor.dim(1) + at[1])]}, std::vector<double>{expected.at("values")[i]}, 1e-3,
                         expected.at("max_abs"));
        }
      }
    }
    const double norm = global_norm(gradients);
    report.compare("gradient norm", std::vector<double>{norm}, std::vector<double>{norms[static_cast<std::size_t>(step - 1)]}, 2e-4);
    adamw_update(slots, options, step, std::min(1.0, 1.0 / (norm + 1e-6)));
  }
  const NoGradient no_gradient;
  report.compare_absolute("loss after step 5", doubles(affine(mean_all(completion(plan)), -1.0)), std::vector<double>{losses[5]}, 5e-5);
  CHECK(report.finish());
}
