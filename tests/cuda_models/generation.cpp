// Generation and scoring on a CUDA device against the CPU: the same tokens, log-probabilities within rounding, whatever the store holds.
#include <fmt/format.h>

#include "inference/answer_scorer.h"
#include "inference/generator.h"
#include "models/parameters.h"
#include "tests/cuda_models/both.h"
#include "tests/rl/draws.h"
#include "tests/rl/tiny_decoder.h"

using namespace expctr;
using namespace expctr::test;

namespace {

constexpr double rounding = 1e-5;
constexpr std::int64_t split = 1;

TinyShape three_layers(bool tied_head) {
  TinyShape shape;
  shape.layers = 3;
  shape.tied_head = tied_head;
  return shape;
}

// Seven prompts: common beginnings longer than a page of the cache, equal ones, one of a single token.
std::vector<Tokens> prompts() {
  Draws draws(5);
  Tokens beginning(40);
  for (std::int32_t& token : beginning) token = 1 + draws.below(31);
  std::vector<Tokens> result;
  for (const std::size_t own : {3, 0, 9}) {
    Tokens prompt = beginning;
    for (std::size_t i = 0; i < own; ++i) prompt.push_back(1 + draws.below(31));
    result.push_back(prompt);
  }
  result.push_back({beginning.begin(), beginning.begin() + 34});
  result.push_back(result[0]);
  result.push_back({7});
  result.push_back({3, 9, 27, 14, 5});
  return result;
}

// A decoder on a device with a store and an adapter that differs from the base model; the same values on every device.
struct Side {
  Decoder decoder;
  PrefixStore store;
  LoraAdapter adapter;

  Side(Device device, bool tied_head)
      : decoder(tiny_decoder(three_layers(tied_head), 3, device)),
        store(decoder, split, 1 << 20, 32),
        adapter(decoder.config(), config(), 7, DType::f32, device, false) {
    const Initialiser initial{17};
    for (const NamedTensor& p : adapter.parameters()) p.tensor.copy_from(initial.normal(p.name, p.tensor.shape(), 0.1));
  }
  static LoraConfig config() {
    LoraConfig lora;
    lora.rank = 4;
    lora.first_layer = split;
    lora.last_layer = 3;
    return lora;
  }
};

std::vector<double> log_probabilities(const Generation& g) { return {g.log_probabilities.begin(), g.log_probabilities.end()}; }

void check_equal(const std::vector<Generation>& cuda, const std::vector<Generation>& cpu) {
  REQUIRE(cuda.size() == cpu.size());
  for (std::size_t i = 0; i < cpu.size(); ++i) {
    CAPTURE(i);
    CHECK(cuda[i].tokens == cpu[i].tokens);
    CHECK(cuda[i].ended == cpu[i].ended);
    CHECK(relative_difference(log_probabilities(cuda[i]), log_probabilities(cpu[i])) <= rounding);
    CHECK(relative_difference(cuda[i].split_hidden, cpu[i].split_hidden) <= rounding);
    CHECK(relative_difference(cuda[i].final_hidden, cpu[i].final_hidden) <= rounding);
  }
}

}  // namespace

TEST_CASE(
    "generation on a CUDA device gives the tokens of the CPU: greedy and sampled, rows that come and go, prompts that are remembered") {
  Side cuda(cuda_device(), true), cpu(cpu_device, true);
  std::vector<GenerationRequest> requests;
  for (const Tokens& prompt : prompts()) requests.push_back({prompt, static_cast<std::uint32_t>(requests.size())});
  GenerationOptions options;
  options.max_new_tokens = 8;
  options.batch = 3;
  options.keep_states = true;
  options.stop_tokens = {0, 11};
  for (const double temperature : {0.0, 0.8}) {
    CAPTURE(temperature);
    options.sampling.temperature = temperature;
    if (temperature > 0.0) options.sampling = {temperature, 12, 0.9, 0.01};
    const std::vector<Generation> expected = generate(cpu.store, &cpu.adapter, requests, options);
    check_equal(generate(cuda.store, &cuda.adapter, requests, options), expected);
    if (temperature > 0.0) {
      bool varied = false;
      for (const Generation& g : expected) varied = varied || g.tokens.size() != expected[0].tokens.size();
      CHECK(varied);  // rows end at different times, or continuous batching is not tested
    }
  }
  CHECK(cuda.store.tokens_computed() == cpu.store.tokens_computed());
  CHECK(cuda.store.tokens_computed() < cuda.store.tokens_asked());
  CHECK(cuda.store.bytes() == cpu.store.bytes());
}

TEST_CASE("answers are scored on a CUDA device as on the CPU, with a tied and with a separate head") {
  const ExactBlocks exact_blocks;
  for (const bool tied_head : {true, false}) {
    CAPTURE(tied_head);
    Side cuda(cuda_device(), tied_head), cpu(cpu_device, tied_head);
    const std::vector<Tokens> asked = prompts();
    const LanguageModel::Answers answers{5, 9};
    const std::vector<double> expected = AnswerScorer(cpu.store, &cpu.adapter, answers).margins(asked);
    for (const bool remember : {true, false}) {  // the second time from the store
      CHECK(relative_difference(AnswerScorer(cuda.store, &cuda.adapter, answers).margins(asked, remember), expected) <= rounding);
    }
    const std::vector<double> base = AnswerScorer(cpu.store, nullptr, answers).margins(asked);
    CHECK(relative_difference(AnswerScorer(cuda.store, nullptr, answers).margins(asked), base) <= rounding);
    CHECK(relative_difference(base, expected) > 1e-2);
  }
}
