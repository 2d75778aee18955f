// Block formats and the GGUF reader against values of two independent readers (oracles/llm, section 10).
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "base/blocks.h"
#include "base/error.h"
#include "engine/io/dequantise.h"
#include "engine/io/gguf.h"
#include "engine/io/safetensors.h"
#include "tests/support/paths.h"

using namespace expctr;

namespace {

std::vector<float> values_of(const TensorInfo& tensor) {
  std::vector<float> values(static_cast<std::size_t>(tensor.elements()));
  dequantise_row(tensor.dtype, tensor.data, values.data(), tensor.elements());
  return values;
}

/// Entries whose bits differ; two NaN count as equal.
int differences(const std::vector<float>& got, const std::vector<float>& expected) {
  int count = got.size() == expected.size() ? 0 : 1;
  for (std::size_t i = 0; i < std::min(got.size(), expected.size()); ++i)
    count += bits_of_float(got[i]) != bits_of_float(expected[i]) && !(std::isnan(got[i]) && std::isnan(expected[i]));
  return count;
}

}  // namespace

TEST_CASE("oracle llm/gguf_types: every supported type equals the reference values bit for bit") {
  const auto folder = oracle_root() / "llm/gguf_types";
  for (const auto& item : std::filesystem::directory_iterator(folder)) {
    if (item.path().extension() != ".gguf") continue;
    const GgufFile gguf = GgufFile::open(item.path());
    auto reference_path = item.path();
    const SafetensorsFile reference = SafetensorsFile::open(reference_path.replace_extension(".safetensors"));
    int compared = 0, wrong = 0;
    for (const TensorInfo& tensor : gguf.tensors()) {
      const TensorInfo& expected = reference.required_tensor(tensor.name);
      CHECK_MESSAGE(tensor.shape == expected.shape, tensor.name);
      const int count = differences(values_of(tensor), values_of(expected));
      CHECK_MESSAGE(count == 0, tensor.name);
      wrong += count;
      ++compared;
    }
    CHECK(compared > 0);
    fmt::print("oracle llm/gguf_types/{} {} max_rel_err=0 tol=0 ({} types)\n", item.path().stem().string(), wrong == 0 ? "ok" : "FAIL",
               compared);
    for (const UnsupportedTensor& tensor : gguf.unsupported()) {
      fmt::print("oracle llm/gguf_types/{} unsupported {}\n", item.path().stem().string(), tensor.type);
      CHECK_THROWS_WITH_AS(gguf.find_tensor(tensor.name), doctest::Contains(tensor.type.c_str()), InputError);
    }
  }
}

TEST_CASE("types.gguf holds all ten types") {
  const GgufFile gguf = GgufFile::open(oracle_root() / "llm/gguf_types/types.gguf");
  CHECK(gguf.tensors().size() == 10);
  CHECK(gguf.unsupported().empty());
  CHECK(gguf.required_tensor("t.q6_k").shape == std::vector<std::int64_t>{3, 512});
  CHECK(gguf.required_string("general.architecture") == "llama");
  CHECK_THROWS_WITH_AS(gguf.required_u32("llama.block_count"), doctest::Contains("llama.block_count"), InputError);
  CHECK_THROWS_WITH_AS(gguf.find_u32("general.name"), doctest::Contains("is of type string"), InputError);
}

TEST_CASE("oracle llm/smollm2/gguf_tensors.json: sums and samples of all 272 tensors") {
  const auto model = find_model("smollm2/SmolLM2-135M-Instruct.Q4_1.gguf");
  if (!model) return skip_test("model smollm2");
  const GgufFile gguf = GgufFile::open(*model);
  const auto table = nlohmann::json::parse(read_text(oracle_root() / "llm/smollm2/gguf_tensors.json"));
  double worst = 0;
  std::size_t compared = 0;
  const auto compare = [&](double got, double expected, double scale) { worst = std::max(worst, std::abs(got - expected) / scale); };
  for (const auto& expected : table["tensors"]) {
    const auto name = expected["name"].get<std::string>();
    const TensorInfo& tensor = gguf.required_tensor(name);
    CHECK(nlohmann::json(tensor.shape) == expected["shape"]);
    CHECK(tensor.bytes == expected["bytes"].get<std::size_t>());
    const std::vector<float> values = values_of(tensor);
    double sum = 0, magnitude = 0;
    for (const float value : values) {
      sum += value;
      magnitude += std::abs(value);
    }
    compare(sum, expected["sum"], magnitude);
    compare(magnitude, expected["sum_abs"], magnitude);
    for (std::size_t i = 0; i < 4; ++i) CHECK(values[i] == expected["first4"][i].get<float>());
    for (std::size_t i = 0; i < 2; ++i) CHECK(values[values.size() - 2 + i] == expected["last2"][i].get<float>());
    ++compared;
  }
  CHECK(compared == 272);
  CHECK(worst < 1e-12);
  fmt::print("oracle llm/smollm2/gguf_tensors {} max_rel_err={:.1e} tol=1e-12\n", worst < 1e-12 ? "ok" : "FAIL", worst);
}
