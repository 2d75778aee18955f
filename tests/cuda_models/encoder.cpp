// A tiny text encoder of MiniLM's form with random weights on a CUDA device against the CPU.
#include <fmt/format.h>

#include "engine/autograd/tape.h"
#include "engine/io/durable_file.h"
#include "engine/io/safetensors.h"
#include "engine/ops/elementwise.h"
#include "engine/ops/reduce.h"
#include "models/parameters.h"
#include "models/text_encoder/text_encoder.h"
#include "tests/cuda_models/both.h"
#include "tests/rl/draws.h"
#include "tests/support/paths.h"

using namespace expctr;
using namespace expctr::test;

namespace {

constexpr std::int64_t width = 64, inner = 96, vocabulary = 50, positions = 40, layers = 2;

void write_encoder(const std::filesystem::path& folder) {
  std::vector<std::pair<std::string, std::vector<std::int64_t>>> tensors = {{"embeddings.word_embeddings.weight", {vocabulary, width}},
                                                                            {"embeddings.position_embeddings.weight", {positions, width}},
                                                                            {"embeddings.token_type_embeddings.weight", {2, width}}};
  const auto add = [&](const std::string& name, std::int64_t outputs, std::int64_t inputs) {
    if (inputs > 0) tensors.push_back({name + ".weight", {outputs, inputs}});
    if (inputs == 0) tensors.push_back({name + ".weight", {outputs}});
    tensors.push_back({name + ".bias", {outputs}});
  };
  add("embeddings.LayerNorm", width, 0);
  for (std::int64_t i = 0; i < layers; ++i) {
    const std::string layer = fmt::format("encoder.layer.{}.", i);
    for (const char* name : {"attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"})
      add(layer + name, width, width);
    add(layer + "intermediate.dense", inner, width);
    add(layer + "output.dense", width, inner);
    add(layer + "attention.output.LayerNorm", width, 0);
    add(layer + "output.LayerNorm", width, 0);
  }
  const Initialiser initial{23};
  std::vector<Tensor> values;
  std::vector<TensorBytes> all;
  for (const auto& [name, shape] : tensors)
    values.push_back(initial.normal(name, Shape(shape), name.find("LayerNorm.weight") != std::string::npos ? 1.0 : 0.2));
  for (std::size_t i = 0; i < tensors.size(); ++i) all.push_back({tensors[i].first, DType::f32, tensors[i].second, values[i].data()});
  write_file_atomically(folder / "model.safetensors", serialise_safetensors(all));
  const nlohmann::json config = {
      {"hidden_act", "gelu"},       {"hidden_size", width},     {"num_hidden_layers", layers},          {"num_attention_heads", 2},
      {"intermediate_size", inner}, {"vocab_size", vocabulary}, {"max_position_embeddings", positions}, {"type_vocab_size", 2},
      {"layer_norm_eps", 1e-12}};
  write_file_atomically(folder / "config.json", config.dump());
}

}  // namespace

TEST_CASE("a text encoder on a CUDA device gives the vectors and gradients of the CPU") {
  const ExactBlocks exact_blocks;
  const TemporaryFolder folder;
  write_encoder(folder.path());
  Draws draws(8);
  std::vector<std::vector<std::int32_t>> sequences;
  for (const std::size_t length : {37, 1, 9, 40}) {
    std::vector<std::int32_t>& ids = sequences.emplace_back(length);
    for (std::int32_t& id : ids) id = draws.below(vocabulary);
  }
  std::vector<std::vector<double>> pooled, gradients;
  for (const Device device : {cuda_device(), cpu_device}) {
    const TextEncoder encoder = TextEncoder::load(folder.path(), device);
    const PackedPieces packed = pack_pieces(sequences, device);
    pooled.push_back(doubles(encoder.mean_pooled(packed)));
    Tensor words = encoder.word_embeddings(packed).detached();
    words.require_gradient();
    const Tensor cotangent = Initialiser{1, DType::f32, device}.normal("cotangent", {std::ssize(sequences), width}, 1.0);
    Tape tape;
    tape.backward(sum_all(multiply(segment_mean(encoder.hidden(words, packed), packed.offsets), cotangent)));
    gradients.push_back(doubles(words.gradient()));
  }
  CHECK(relative_difference(pooled[0], pooled[1]) <= 1e-5);
  CHECK(relative_difference(gradients[0], gradients[1]) <= 1e-5);
}
