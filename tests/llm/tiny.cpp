// Tiny decoders against transformers in float64: logits, log-probabilities, losses, gradients, AdamW and LoRA trajectories.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include "engine/autograd/tape.h"
#include "engine/ops/elementwise.h"
#include "engine/ops/embedding.h"
#include "engine/ops/optim.h"
#include "engine/ops/reduce.h"
#include "base/error.h"
#include "models/llm/load.h"
#include "models/peft.h"
#include "tests/support/oracle.h"
#include "tests/support/paths.h"

using namespace expctr;
using namespace expctr::test;

namespace {

// A right-padded batch of the oracle as packed sequences.
struct Batch {
  Tensor ids;
  std::vector<std::int64_t> lengths;
  std::vector<std::int32_t> rows, targets;  // positions that predict, and what they predict, per label that counts
  std::vector<std::int64_t> place;          // packed token -> place in the padded [B, T]
  std::int64_t padded_tokens = 0;
};

Batch packed_batch(const std::vector<std::int32_t>& ids, const std::vector<std::int32_t>& mask, const std::vector<std::int32_t>& labels, std::int64_t rows, std::int64_t columns, Device device) {
  Batch batch;
  std::vector<std::int32_t> packed;
  for (std::int64_t b = 0; b < rows; ++b) {
    std::int64_t length = 0;
    for (std::int64_t t = 0; t < columns; ++t) {
      const std::size_t at = static_cast<std::size_t>(b * columns + t);
      if (mask[at] == 0) continue;
      if (t > 0 && !labels.empty() && labels[at] != -100) {
        batch.rows.push_back(static_cast<std::int32_t>(packed.size()) - 1);
        batch.targets.push_back(labels[at]);
      }
      packed.push_back(ids[at]);
      batch.place.push_back(static_cast<std::int64_t>(at));
      ++length;
    }
    batch.lengths.push_back(length);
  }
  batch.padded_tokens = rows * columns;
  batch.ids = Tensor::of(packed, {static_cast<std::int64_t>(packed.size())}, device);
  return batch;
}

Tensor hidden_states(const Decoder& decoder, const Batch& batch, const AdapterPlan& plan) {
  return decoder.blocks(0, decoder.config().layers, decoder.embed(batch.ids), whole_sequences(batch.lengths, decoder.device()), plan);
}

Tensor mean_loss(const Decoder& decoder, const Batch& batch, const AdapterPlan& plan) {
  const auto n = static_cast<std::int64_t>(batch.rows.size());
  const Tensor chosen = gather(hidden_states(decoder, batch, plan), Tensor::of(batch.rows, {n}, decoder.device()));
  const TokenScores scores = decoder.score(decoder.normalise(chosen), Tensor::of(batch.targets, {n}, decoder.device()));
  return affine(mean_all(scores.log_probability), -1.0);
}

// Packed values [tokens, width] at their places in the padded form; zero elsewhere, as the oracle stores it.
std::vector<double> padded(const Tensor& packed, const Batch& batch) {
  const std::vector<double> values = doubles(packed);
  const std::size_t width = values.size() / batch.place.size();
  std::vector<double> result(static_cast<std::size_t>(batch.padded_tokens) * width, 0.0);
  for (std::size_t i = 0; i < batch.place.size(); ++i) {
    std::copy_n(values.begin() + static_cast<std::ptrdiff_t>(i * width), width, result.begin() + batch.place[i] * static_cast<std::ptrdiff_t>(width));
  }
  return result;
}

struct Tolerances {
  double logits, gradients, loss, parameters;
};

void check_trajectory(OracleReport& report, const SafetensorsFile& file, const std::vector<NamedTensor>& parameters, const std::function<Tensor()>& loss, const Tolerances& tol) {
  const std::vector<double> losses = doubles(file, "loss"), norms = doubles(file, "grad_norm");
  std::vector<AdamSlot> slots;
  for (const NamedTensor& p : parameters) slots.push_back({p.tensor.detached(), {}, Tensor::zeros(p.tensor.shape(), p.tensor.dtype()), Tensor::zeros(p.tensor.shape(), p.tensor.dtype())});
  const AdamOptions options{1e-3, 0.9, 0.999, 1e-8, 0.01};
  for (std::int64_t step = 1; step <= 10; ++step) {
    for (const NamedTensor& p : parameters) p.tensor.clear_gradient();
    Tape tape;
    const Tensor l = loss();
    report.compare_absolute(fmt::format("loss before step {}", step), doubles(l), std::span(losses).subspan(static_cast<std::size_t>(step - 1), 1), tol.loss);
    tape.backward(l);
    std::vector<Tensor> gradients;
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      slots[i].gradient = parameters[i].tensor.gradient();
      gradients.push_back(slots[i].gradient);
    }
    const double norm = global_norm(gradients);
    report.compare("gradient norm", std::vector<double>{norm}, std::span(norms).subspan(static_cast<std::size_t>(step - 1), 1), tol.gradients);
    adamw_update(slots, options, step, std::min(1.0, 1.0 / (norm + 1e-6)));
    const std::string stem = fmt::format("step{:02}/", step);
    for (const NamedTensor& p : parameters) {
      if (file.find_tensor(stem + p.name) != nullptr) report.compare_absolute(stem + p.name, doubles(p.tensor), doubles(file, stem + p.name), tol.parameters);
    }
  }
  const NoGradient no_gradient;
  report.compare_absolute("loss after step 10", doubles(loss()), std::span(losses).subspan(10, 1), tol.loss);
}

void check_case(const std::filesystem::path& folder, DType dtype, const Tolerances& tol) {
  OracleReport report(folder, dtype == DType::f64 ? "f64" : "f32");
  const DecoderLoadOptions dense{cpu_device, ComputeMode::f32, true, dtype};
  const Decoder decoder = load_decoder(folder, dense);
  const SafetensorsFile forward = SafetensorsFile::open(folder / "forward.safetensors");
  const Shape shape = shape_of(forward, "input_ids_right");
  const Batch batch = packed_batch(integers(forward, "input_ids_right"), integers(forward, "mask_right"), integers(forward, "labels_right"), shape[0], shape[1], cpu_device);
  {
    const NoGradient no_gradient;
    const Tensor logits = decoder.logits(decoder.normalise(hidden_states(decoder, batch, {})));
    report.compare("logits", padded(logits, batch), doubles(forward, "logits_right"), tol.logits);
    report.compare_absolute("loss", doubles(mean_loss(decoder, batch, {})), doubles(forward, "loss"), tol.loss);
    const RopeFrequencies frequencies = rope_frequencies(decoder.config());
    report.compare("rotary frequencies", frequencies.inverse, doubles(forward, "inv_freq"), 1e-12);
    report.compare("rotary factor", std::vector<double>{frequencies.factor}, doubles(forward, "rope_cos_sin_factor"), 1e-12);
    if (dtype == DType::f32) {  // the packed, frozen form of the same weights
      const Decoder frozen = load_decoder(folder);
      report.compare("logits, frozen weights", padded(frozen.logits(frozen.normalise(hidden_states(frozen, batch, {}))), batch), doubles(forward, "logits_right"), tol.logits);
      report.compare_absolute("loss, fused head", doubles(mean_loss(frozen, batch, {})), doubles(forward, "loss"), tol.loss);
    }
  }
  const std::vector<NamedTensor> parameters = decoder.weights();
  if (std::filesystem::exists(folder / "grads.safetensors")) {
    const SafetensorsFile gradients = SafetensorsFile::open(folder / "grads.safetensors");
    Tape tape;
    tape.backward(mean_loss(decoder, batch, {}));
    double most = 0.0;
    for (const NamedTensor& p : parameters) {
      for (const double v : doubles(gradients, p.name)) most = std::max(most, std::abs(v));
    }
    for (const NamedTensor& p : parameters) report.compare("gradient of " + p.name, doubles(p.tensor.gradient()), doubles(gradients, p.name), tol.gradients, 0.05 * most);
  }
  if (std::filesystem::exists(folder / "adamw.safetensors")) {
    check_trajectory(report, SafetensorsFile::open(folder / "adamw.safetensors"), parameters, [&] { return mean_loss(decoder, batch, {}); }, tol);
  }
  if (std::filesystem::exists(folder / "lora")) {
    const Decoder base = load_decoder(folder, dense);  // the trajectory above moved the weights
    for (const bool packed : {false, true}) {
      if (packed && dtype == DType::f64) continue;
      const Decoder trunk = packed ? load_decoder(folder) : base;
      const LoraAdapter adapter = load_peft(folder / "lora", trunk.config(), dtype, cpu_device, true);
      const SafetensorsFile file = SafetensorsFile::open(folder / "lora" / "lora.safetensors");
      const AdapterPlan plan(&adapter);
      {
        const NoGradient no_gradient;
        report.compare("LoRA logits", padded(trunk.logits(trunk.normalise(hidden_states(trunk, batch, plan))), batch), doubles(file, "logits_right"), tol.logits);
      }
      {
        Tape tape;
        tape.backward(mean_loss(trunk, batch, plan));
        for (const NamedTensor& p : adapter.parameters()) report.compare("LoRA gradient of " + p.name, doubles(p.tensor.gradient()), doubles(file, "grad/" + p.name), tol.gradients);
      }
      check_trajectory(report, file, adapter.parameters(), [&] { return mean_loss(trunk, batch, plan); }, tol);
    }
  }
  CHECK_MESSAGE(report.finish(), folder.string());
}

}  // namespace

TEST_CASE("oracles: tiny decoders") {
  const std::vector<std::filesystem::path> folders = case_folders(oracle_root() / "llm" / "transformer_tiny", "manifest.json");
  REQUIRE(!folders.empty());
  for (const std::filesystem::path& folder : folders) {
    const std::string type = read_json(folder / "config.json").at("model_type");
    if (type != "llama" && type != "qwen2" && type != "qwen3") {
      report_unsupported(folder, "architecture " + type);
      continue;
    }
    // Figures of oracles llm/README.md, section 3.
    check_case(folder, DType::f64, {1e-10, 1e-10, 1e-10, 1e-9});
    check_case(folder, DType::f32, {1e-5, 1e-5, 1e-5, 1e-5});
  }
}
