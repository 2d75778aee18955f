// Tiny decoders on a CUDA device: against transformers in float64, and against the CPU.
#include <fmt/format.h>

#include "engine/autograd/tape.h"
#include "engine/ops/elementwise.h"
#include "engine/ops/embedding.h"
#include "engine/ops/reduce.h"
#include "models/llm/load.h"
#include "models/peft.h"
#include "tests/cuda_models/both.h"
#include "tests/support/paths.h"

using namespace expctr;
using namespace expctr::test;

namespace {

// A right-padded batch of the oracle as packed sequences.
struct Batch {
  std::vector<std::int32_t> ids, rows, targets;  // tokens; positions that predict, and what they predict
  std::vector<std::int64_t> lengths;
  std::vector<std::size_t> place;  // packed token -> place in the padded [batch, tokens]
};

Batch packed_batch(const SafetensorsFile& file) {
  const std::vector<std::int32_t> ids = integers(file, "input_ids_right"), mask = integers(file, "mask_right"),
                                  labels = integers(file, "labels_right");
  const Shape shape = shape_of(file, "input_ids_right");
  Batch batch;
  for (std::int64_t b = 0; b < shape[0]; ++b) {
    std::int64_t length = 0;
    for (std::int64_t t = 0; t < shape[1]; ++t) {
      const auto at = static_cast<std::size_t>(b * shape[1] + t);
      if (mask[at] == 0) continue;
      if (t > 0 && labels[at] != -100) {
        batch.rows.push_back(static_cast<std::int32_t>(batch.ids.size()) - 1);
        batch.targets.push_back(labels[at]);
      }
      batch.ids.push_back(ids[at]);
      batch.place.push_back(at);
      ++length;
    }
    batch.lengths.push_back(length);
  }
  return batch;
}

Tensor hidden_states(const Decoder& decoder, const Batch& batch, const AdapterPlan& plan) {
  const Device device = decoder.device();
  const Tensor ids = Tensor::of(batch.ids, {std::ssize(batch.ids)}, device);
  return decoder.blocks(0, decoder.config().layers, decoder.embed(ids), whole_sequences(batch.lengths, device), plan);
}

Tensor logits(const Decoder& decoder, const Batch& batch, const AdapterPlan& plan = {}) {
  const NoGradient no_gradient;
  return decoder.logits(decoder.normalise(hidden_states(decoder, batch, plan)));
}

Tensor mean_loss(const Decoder& decoder, const Batch& batch, const AdapterPlan& plan) {
  const auto n = std::ssize(batch.rows);
  const Tensor chosen = gather(hidden_states(decoder, batch, plan), Tensor::of(batch.rows, {n}, decoder.device()));
  const TokenScores scores = decoder.score(decoder.normalise(chosen), Tensor::of(batch.targets, {n}, decoder.device()));
  return affine(mean_all(scores.log_probability), -1.0);
}

// The rows of a padded reference [batch, tokens, width] that stand for tokens.
std::vector<double> packed(const std::vector<double>& padded, std::size_t padded_tokens, const Batch& batch) {
  const std::size_t width = padded.size() / padded_tokens;
  std::vector<double> result;
  for (const std::size_t at : batch.place) {
    const auto begin = padded.begin() + static_cast<std::ptrdiff_t>(at * width);
    result.insert(result.end(), begin, begin + static_cast<std::ptrdiff_t>(width));
  }
  return result;
}

void check_gradients(OracleReport& report, const SafetensorsFile& file, const std::string& stem, const std::vector<NamedTensor>& parameters,
                     double tolerance) {
  double most = 0.0;
  for (const NamedTensor& p : parameters) {
    for (const double v : doubles(file, stem + p.name)) most = std::max(most, std::abs(v));
  }
  for (const NamedTensor& p : parameters) {
    report.compare("gradient of " + p.name, doubles(p.tensor.gradient()), doubles(file, stem + p.name), tolerance, 0.05 * most);
  }
}

void check_case(const std::filesystem::path& folder) {
  constexpr double tolerance = 1e-5;  // float32, oracles llm/README.md, section 3
  OracleReport report(folder, "cuda");
  const SafetensorsFile forward = SafetensorsFile::open(folder / "forward.safetensors");
  const Batch batch = packed_batch(forward);
  const Shape padded_shape = shape_of(forward, "input_ids_right");
  const auto padded_tokens = static_cast<std::size_t>(padded_shape.size());
  const std::vector<double> expected = packed(doubles(forward, "logits_right"), padded_tokens, batch);
  DecoderLoadOptions options;
  options.device = cuda_device();
  const Decoder frozen = load_decoder(folder, options), on_cpu = load_decoder(folder);
  report.compare("logits, frozen weights", doubles(logits(frozen, batch)), expected, tolerance);
  report.compare("logits, frozen weights, against the CPU", doubles(logits(frozen, batch)), doubles(logits(on_cpu, batch)), tolerance);
  {
    const NoGradient no_gradient;
    report.compare_absolute("loss, fused head", doubles(mean_loss(frozen, batch, {})), doubles(forward, "loss"), tolerance);
  }
  if (std::filesystem::exists(folder / "grads.safetensors")) {
    options.dense = true;
    const Decoder dense = load_decoder(folder, options);
    report.compare("logits, trained weights", doubles(logits(dense, batch)), expected, tolerance);
    Tape tape;
    tape.backward(mean_loss(dense, batch, {}));
    check_gradients(report, SafetensorsFile::open(folder / "grads.safetensors"), "", dense.weights(), tolerance);
  }
  if (std::filesystem::exists(folder / "lora")) {
    const SafetensorsFile file = SafetensorsFile::open(folder / "lora" / "lora.safetensors");
    const LoraAdapter adapter = load_peft(folder / "lora", frozen.config(), DType::f32, cuda_device(), true);
    const LoraAdapter twin = load_peft(folder / "lora", frozen.config(), DType::f32, cpu_device, true);
    const AdapterPlan plan(&adapter), twin_plan(&twin);
    report.compare("LoRA logits", doubles(logits(frozen, batch, plan)), packed(doubles(file, "logits_right"), padded_tokens, batch),
                   tolerance);
    {
      Tape tape;
      tape.backward(mean_loss(frozen, batch, plan));
      check_gradients(report, file, "grad/", adapter.parameters(), tolerance);
    }
    {
      Tape tape;
      tape.backward(mean_loss(on_cpu, batch, twin_plan));
      report.require("LoRA gradients equal those of the CPU", gradient_difference(adapter.parameters(), twin.parameters()) <= tolerance);
    }
  }
  CHECK_MESSAGE(report.finish(), folder.string());
}

}  // namespace

TEST_CASE("oracles: tiny decoders on a CUDA device") {
  const ExactBlocks exact_blocks;
  const std::vector<std::filesystem::path> folders = case_folders(oracle_root() / "llm" / "transformer_tiny", "manifest.json");
  int checked = 0;
  for (const std::filesystem::path& folder : folders) {
    const std::string type = read_json(folder / "config.json").at("model_type");
    if (type != "llama" && type != "qwen2" && type != "qwen3") continue;
    check_case(folder);
    ++checked;
  }
  CHECK(checked >= 6);
}
