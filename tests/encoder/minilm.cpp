// MiniLM-L6 against the reference values of tests/oracles/llm/minilm: pooled vectors at two lengths, the gradient of the inputs, and the
// strictness of the loader.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "engine/autograd/tape.h"
#include "engine/io/durable_file.h"
#include "engine/io/safetensors.h"
#include "engine/ops/elementwise.h"
#include "engine/ops/reduce.h"
#include "inference/embedder.h"
#include "models/parameters.h"
#include "tests/support/paths.h"

using namespace expctr;

namespace {

std::vector<double> reference(const SafetensorsFile& file, const std::string& name) {
  const TensorInfo& tensor = file.required_tensor(name);
  std::vector<double> values(static_cast<std::size_t>(tensor.elements()));
  std::memcpy(values.data(), tensor.data, values.size() * sizeof(double));
  return values;
}

// Largest difference divided by the largest magnitude of the reference.
double error_of(const std::vector<float>& got, const std::vector<double>& wanted) {
  REQUIRE(got.size() == wanted.size());
  double worst = 0, largest = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double difference = std::abs(got[i] - wanted[i]);
    if (!(difference <= worst)) worst = difference;
    largest = std::max(largest, std::abs(wanted[i]));
  }
  return worst / largest;
}

std::optional<std::filesystem::path> minilm_folder() {
  const auto weights = find_model("minilm/model.safetensors");
  if (!weights) return std::nullopt;
  return weights->parent_path();
}

}  // namespace

TEST_CASE("oracle llm/minilm: embeddings and gradient with respect to the word embeddings") {
  const auto folder = minilm_folder();
  if (!folder) return skip_test("model minilm");
  const std::filesystem::path root = oracle_root() / "llm" / "minilm";
  const SafetensorsFile file = SafetensorsFile::open(root / "embeddings.safetensors");
  const auto cases = nlohmann::json::parse(read_text(root / "cases.json")).at("sentences");
  const Embedder embedder(*folder);
  constexpr double bar = 1e-5;
  double worst = 0;
  const auto compare = [&](const std::string& name, double error) {
    INFO(name, " error ", error);
    CHECK(error <= bar);
    worst = std::max(worst, error);
  };

  std::vector<std::string> texts;
  for (const std::int64_t pieces : {128, 256}) {
    std::vector<std::vector<std::int32_t>> sequences;
    texts.clear();
    for (const auto& sentence : cases) {
      const std::string key = pieces == 256 && sentence.contains("ids_256") ? "ids_256" : "ids_128";
      sequences.push_back(sentence.at(key).get<std::vector<std::int32_t>>());
      texts.push_back(sentence.at("text"));
      CHECK_MESSAGE(embedder.pieces(texts.back(), pieces) == sequences.back(), "word pieces of: ", texts.back());
    }
    for (const bool normalise : {false, true}) {
      const std::string name = fmt::format("{}_{}", normalise ? "normalised" : "mean", pieces);
      compare(name, error_of(embedder.of_pieces(sequences, {.normalise = normalise}).to_vector<float>(), reference(file, name)));
    }
    // Batches change no bit: one sentence a pass gives the same vectors, and so does the way over the texts.
    const auto together = embedder.of_pieces(sequences).to_vector<float>();
    CHECK(embedder.of_pieces(sequences, {.batch_pieces = 1}).to_vector<float>() == together);
    CHECK(embedder(texts, {.max_pieces = pieces}).to_vector<float>() == together);
  }

  for (const std::size_t sentence : {3, 20}) {
    const std::string name = fmt::format("grad{}", sentence);
    const PackedPieces packed = pack_pieces({cases.at(sentence).at("ids_128").get<std::vector<std::int32_t>>()});
    Tensor words = embedder.encoder().word_embeddings(packed);
    words.require_gradient();
    const auto wide = reference(file, name + "/cotangent");
    const Tensor cotangent = Tensor::of(std::vector<float>(wide.begin(), wide.end()), {1, embedder.width()});
    Tape tape;
    const Tensor mean = segment_mean(embedder.encoder().hidden(words, packed), packed.offsets);
    tape.backward(sum_all(multiply(mean, cotangent)));
    compare(name, error_of(words.gradient().to_vector<float>(), reference(file, name + "/word_embedding_inputs")));
  }
  fmt::print("oracle llm/minilm {} max_rel_err={:.2e} tol={:.0e}\n", worst <= bar ? "ok" : "FAIL", worst, bar);
}

namespace {

// A folder with a tiny encoder: 1 layer, width 4, 2 heads; tensors may be dropped or changed before writing.
struct TinyFolder {
  TemporaryFolder folder;
  std::vector<std::pair<std::string, std::vector<std::int64_t>>> tensors;
  nlohmann::json config = {{"hidden_act", "gelu"},         {"hidden_size", 4},       {"num_hidden_layers", 1},
                           {"num_attention_heads", 2},     {"intermediate_size", 8}, {"vocab_size", 11},
                           {"max_position_embeddings", 6}, {"type_vocab_size", 2},   {"layer_norm_eps", 1e-12}};

  TinyFolder() {
    tensors = {{"embeddings.word_embeddings.weight", {11, 4}},
               {"embeddings.position_embeddings.weight", {6, 4}},
               {"embeddings.token_type_embeddings.weight", {2, 4}},
               {"embeddings.LayerNorm.weight", {4}},
               {"embeddings.LayerNorm.bias", {4}}};
    const std::string layer = "encoder.layer.0.";
    for (const char* name : {"attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"}) {
      tensors.push_back({layer + name + ".weight", {4, 4}});
      tensors.push_back({layer + name + ".bias", {4}});
    }
    tensors.push_back({layer + "intermediate.dense.weight", {8, 4}});
    tensors.push_back({layer + "intermediate.dense.bias", {8}});
    tensors.push_back({layer + "output.dense.weight", {4, 8}});
    tensors.push_back({layer + "output.dense.bias", {4}});
    for (const char* name : {"attention.output.LayerNorm", "output.LayerNorm"}) {
      tensors.push_back({layer + name + ".weight", {4}});
      tensors.push_back({layer + name + ".bias", {4}});
    }
  }

  const std::filesystem::path& write() const {
    std::vector<std::vector<float>> values;
    std::vector<TensorBytes> all;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      std::int64_t n = 1;
      for (const std::int64_t extent : tensors[i].second) n *= extent;
      auto& data = values.emplace_back();
      for (std::int64_t j = 0; j < n; ++j) data.push_back(std::sin(static_cast<float>(17 * i) + static_cast<float>(j)));
    }
    for (std::size_t i = 0; i < tensors.size(); ++i) all.push_back({tensors[i].first, DType::f32, tensors[i].second, values[i].data()});
    write_file_atomically(folder / "model.safetensors", serialise_safetensors(all));
    write_file_atomically(folder / "config.json", config.dump());
    return folder.path();
  }
};

std::string refusal(const TinyFolder& tiny) {
  try {
    TextEncoder::load(tiny.write());
  } catch (const InputError& error) {
    return error.what();
  }
  return "accepted";
}

}  // namespace

TEST_CASE("the text encoder refuses folders whose tensors do not fit, and names them") {
  CHECK(refusal(TinyFolder()) == "accepted");
  {
    TinyFolder tiny;
    tiny.tensors.push_back({"pooler.dense.weight", {4, 4}});
    tiny.tensors.push_back({"embeddings.position_ids", {1, 6}});
    CHECK(refusal(tiny) == "accepted");
    tiny.tensors.push_back({"encoder.layer.1.output.dense.bias", {4}});
    CHECK(refusal(tiny).find("encoder.layer.1.output.dense.bias is not expected") != std::string::npos);
  }
  {
    TinyFolder tiny;
    tiny.tensors.erase(tiny.tensors.begin() + 3);
    tiny.tensors[0].second = {12, 4};
    const std::string text = refusal(tiny);
    CHECK(text.find("embeddings.LayerNorm.weight is missing") != std::string::npos);
    CHECK(text.find("embeddings.word_embeddings.weight is [12, 4], expected [11, 4]") != std::string::npos);
  }
  {
    TinyFolder tiny;
    for (auto& [name, shape] : tiny.tensors) name = "bert." + name;
    CHECK(refusal(tiny) == "accepted");
  }
  for (const auto& [key, value] : std::vector<std::pair<std::string, nlohmann::json>>{{"num_attention_heads", 3},
                                                                                      {"hidden_act", "relu"},
                                                                                      {"vocab_size", -1},
                                                                                      {"vocab_size", "many"},
                                                                                      {"position_embedding_type", "relative_key"},
                                                                                      {"layer_norm_eps", 0}}) {
    TinyFolder tiny;
    tiny.config[key] = value;
    INFO(key, " = ", value.dump());
    CHECK(refusal(tiny).find("config.json") != std::string::npos);
  }
  TinyFolder tiny;
  tiny.config.erase("hidden_size");
  CHECK(refusal(tiny).find("'hidden_size' is missing") != std::string::npos);
}

TEST_CASE("the text encoder refuses word pieces and lengths that the model does not have") {
  const TinyFolder tiny;
  const TextEncoder encoder = TextEncoder::load(tiny.write());
  CHECK(encoder.mean_pooled(pack_pieces({{1, 2, 3, 4, 5, 6}, {10}})).shape() == Shape{2, 4});
  CHECK_THROWS_AS(encoder.mean_pooled(pack_pieces({{1, 2, 3, 4, 5, 6, 7}})), ShapeError);
  CHECK_THROWS_AS(encoder.mean_pooled(pack_pieces({{11}})), Error);
  CHECK_THROWS_AS(encoder.mean_pooled(pack_pieces({{-1}})), Error);
  CHECK(hash_of(encoder.weights()) == hash_of(TextEncoder::load(tiny.folder.path()).weights()));
}
