// Row invariance of generation and training on the CPU: the bits of a response depend on its prompt, its sample id and the seed, and on
// nothing else.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/kernels/attention.h"
#include "base/error.h"
#include "base/philox.h"
#include "cpu/isa.h"
#include "cpu/thread_pool.h"
#include "inference/answer_scorer.h"
#include "models/llm/load.h"
#include "models/peft.h"
#include "tests/rl/rollouts.h"
#include "tests/support/paths.h"

using namespace expctr;
using namespace expctr::test;

namespace {

constexpr std::size_t large = std::size_t{64} << 20;

std::string bytes_of(const Tensor& tensor) {
  const std::vector<float> values = tensor.to_vector<float>();
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

/// All bits of a generation.
struct Bits {
  Tokens tokens;
  std::string log_probabilities, split_hidden, final_hidden;
  bool ended = false;
  bool operator==(const Bits&) const = default;
};

Bits bits_of(const Generation& g) {
  return {g.tokens,
          {reinterpret_cast<const char*>(g.log_probabilities.data()), g.log_probabilities.size() * sizeof(float)},
          bytes_of(g.split_hidden),
          bytes_of(g.final_hidden),
          g.ended};
}

/// A model, its adapter and requests: some prompts are prefixes of others, some are equal, lengths lie on both sides of the cache's pages.
struct Scene {
  Decoder decoder;
  std::optional<LoraAdapter> adapter;
  std::int64_t split;
  std::vector<GenerationRequest> requests;
  GenerationOptions options;

  std::vector<Bits> run(std::span<const GenerationRequest> some, std::int64_t batch, PrefixStore& store, bool remember = true) const {
    GenerationOptions o = options;
    o.batch = batch;
    o.keep_states = true;
    o.remember_prompts = remember;
    std::vector<Bits> result;
    for (const Generation& g : generate(store, adapter ? &*adapter : nullptr, some, o)) result.push_back(bits_of(g));
    return result;
  }
  std::int64_t pages(std::int64_t batch) const {
    std::int64_t longest = 0;
    for (const GenerationRequest& r : requests) longest = std::max(longest, static_cast<std::int64_t>(r.prompt.size()));
    return working_pages(std::max<std::int64_t>(batch, static_cast<std::int64_t>(requests.size())), longest + options.max_new_tokens);
  }
  std::vector<Bits> run(std::int64_t batch, std::size_t budget) const {
    PrefixStore store(decoder, split, budget, pages(batch));
    return run(requests, batch, store);
  }
  std::vector<Bits> alone(std::size_t budget) const {
    std::vector<Bits> result;
    for (const GenerationRequest& request : requests) {
      PrefixStore store(decoder, split, budget, pages(1));
      result.push_back(run(std::span(&request, 1), 1, store)[0]);
    }
    return result;
  }
};

void disturb(const LoraAdapter& adapter, double deviation) {
  std::uint32_t next = 0;
  const RandomKey key = random_key(4, "disturb");
  for (const NamedTensor& p : adapter.parameters()) {
    std::vector<float> values = p.tensor.to_vector<float>();
    for (float& v : values) {
      const RandomBits bits = philox(key, {next++, 0, 0, 0});
      v += static_cast<float>(deviation * (2.0 * uniform_double(bits.word[0], bits.word[1]) - 1.0));
    }
    p.tensor.copy_from(Tensor::of(values, p.tensor.shape()));
  }
}

std::vector<GenerationRequest> mixed_requests(std::int32_t vocabulary, const std::vector<std::size_t>& lengths, std::uint64_t seed) {
  const RandomKey key = random_key(seed, "prompts");
  Tokens common;
  for (std::uint32_t i = 0; i < 512; ++i)
    common.push_back(1 + static_cast<std::int32_t>(philox(key, {i, 0, 0, 0}).word[0] % static_cast<std::uint32_t>(vocabulary - 1)));
  std::vector<GenerationRequest> requests;
  for (std::size_t k = 0; k < lengths.size(); ++k) {
    Tokens prompt(common.begin(), common.begin() + static_cast<std::ptrdiff_t>(lengths[k]));
    if (k % 3 == 2) {  // another ending
      for (std::size_t i = lengths[k] / 2; i < prompt.size(); ++i)
        prompt[i] = 1 + (prompt[i] + static_cast<std::int32_t>(k)) % (vocabulary - 1);
    }
    requests.push_back({prompt, static_cast<std::uint32_t>(k)});
  }
  return requests;
}

const std::vector<std::size_t> lengths = {1, 15, 16, 17, 31, 32, 33, 40, 33, 63, 64, 65, 70, 5, 2, 100, 129, 40, 12, 64};

Scene tiny_scene(std::int64_t split, bool with_adapter, ComputeMode mode = ComputeMode::f32) {
  TinyShape shape;
  shape.layers = 3;
  Scene scene{tiny_decoder(shape, 21, {}, mode), {}, split, mixed_requests(32, lengths, 6), {}};
  if (with_adapter) {
    LoraConfig lora;
    lora.first_layer = split;
    lora.last_layer = 3;
    lora.targets = {Projection::q, Projection::k, Projection::v, Projection::o, Projection::down};
    scene.adapter.emplace(scene.decoder.config(), lora, 9, DType::f32, cpu_device, false);
    disturb(*scene.adapter, 0.2);
  }
  scene.options.max_new_tokens = 24;
  scene.options.seed = 77;
  scene.options.step = 3;
  scene.options.stop_tokens = {0};
  scene.options.sampling.temperature = 0.9;
  return scene;
}

class ThreadCount {
 public:
  explicit ThreadCount(int threads) : saved_(cpu::thread_count()) { cpu::set_thread_count(threads); }
  ~ThreadCount() { cpu::set_thread_count(saved_); }
  ThreadCount(const ThreadCount&) = delete;
  ThreadCount& operator=(const ThreadCount&) = delete;

 private:
  int saved_;
};

void check_same(const std::vector<Bits>& got, const std::vector<Bits>& expected, const std::string& what) {
  REQUIRE(got.size() == expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    CHECK_MESSAGE(got[i].tokens == expected[i].tokens, fmt::format("{}: tokens of request {}", what, i));
    CHECK_MESSAGE(got[i].log_probabilities == expected[i].log_probabilities, fmt::format("{}: log-probabilities of request {}", what, i));
    CHECK_MESSAGE(got[i].split_hidden == expected[i].split_hidden, fmt::format("{}: states of request {}", what, i));
    CHECK_MESSAGE(got[i].final_hidden == expected[i].final_hidden, fmt::format("{}: final states of request {}", what, i));
  }
}

/// Log-probabilities of the responses from the forward that training differentiates, after a prefill of the whole text where sampling
/// decoded.
std::vector<double> scored(const Scene& scene, const std::vector<Bits>& responses, bool together) {
  std::vector<Rollout> rollouts;
  for (std::size_t i = 0; i < responses.size(); ++i) {
    Rollout r;
    r.prompt_tokens = static_cast<std::int64_t>(scene.requests[i].prompt.size());
    r.response = responses[i].tokens;
    Tokens all = scene.requests[i].prompt;
    all.insert(all.end(), r.response.begin(), r.response.end() - 1);
    const NoGradient no_gradient;
    PrefixStore store(scene.decoder, scene.split, 0, scene.pages(1));
    r.split_hidden = store.run(std::span(&all, 1), false, false).hidden;
    CHECK(bytes_of(r.split_hidden) == responses[i].split_hidden);
    rollouts.push_back(std::move(r));
  }
  std::optional<Policy> policy;
  if (scene.adapter) {
    LoraAdapter trained(scene.decoder.config(), scene.adapter->config(), 0, DType::f32, cpu_device, true);
    const std::vector<NamedTensor> to = trained.parameters(), from = scene.adapter->parameters();
    for (std::size_t i = 0; i < to.size(); ++i) to[i].tensor.copy_from(from[i].tensor);
    Tensor value_weight = Tensor::zeros({1, scene.decoder.config().width}), value_bias = Tensor::zeros({1});
    value_weight.require_gradient();
    value_bias.require_gradient();
    policy.emplace(std::move(trained), value_weight, value_bias, PpoConfig{});
  }
  std::vector<double> result;
  const auto evaluate = [&](std::span<const Rollout* const> some) {
    const Tape tape;
    const Tensor lp =
        evaluate_responses(scene.decoder, scene.split, policy ? &*policy : nullptr, some, scene.options.sampling.temperature, false)
            .log_probability;
    for (const double x : doubles(lp)) result.push_back(x);
  };
  std::vector<const Rollout*> all;
  for (const Rollout& r : rollouts) all.push_back(&r);
  if (together) {
    evaluate(all);
  } else {
    for (const Rollout* r : all) evaluate(std::span(&r, 1));
  }
  return result;
}

std::vector<double> sampled(const std::vector<Bits>& responses) {
  std::vector<double> result;
  for (const Bits& b : responses) {
    std::vector<float> values(b.log_probabilities.size() / sizeof(float));
    std::memcpy(values.data(), b.log_probabilities.data(), b.log_probabilities.size());
    result.insert(result.end(), values.begin(), values.end());
  }
  return result;
}

}  // namespace

TEST_CASE("generation: alone, in batches, with and without a store, with one thread and two") {
  for (const std::int64_t split : {0, 1, 3}) {
    for (const bool adapter : {false, true}) {
      if (adapter && split == 3) continue;
      const Scene scene = tiny_scene(split, adapter);
      const std::string name = fmt::format("split {}{}", split, adapter ? ", adapter" : "");
      const std::vector<Bits> expected = scene.alone(0);
      bool ended = false, full = false;
      for (const Bits& b : expected) (b.ended ? ended : full) = true;
      CHECK(ended);
      CHECK(full);
      for (const std::int64_t batch : {1, 3, 16}) {
        for (const std::size_t budget : {std::size_t{0}, large})
          check_same(scene.run(batch, budget), expected, fmt::format("{}, batch {}, budget {}", name, batch, budget));
      }
      for (const int threads : {1, 2, 3}) {
        const ThreadCount set(threads);
        check_same(scene.run(16, large), expected, fmt::format("{}, {} threads", name, threads));
      }
    }
  }
}

TEST_CASE("generation: bf16 and int8 products too give a sample the same bits alone, in any batch and on any number of threads") {
  for (const ComputeMode mode : {ComputeMode::bf16, ComputeMode::int8}) {
    const Scene scene = tiny_scene(1, true, mode);
    const std::vector<Bits> expected = scene.alone(0);
    const std::string name = mode == ComputeMode::bf16 ? "bf16" : "int8";
    for (const std::int64_t batch : {3, 16}) check_same(scene.run(batch, large), expected, fmt::format("{}, batch {}", name, batch));
    for (const int threads : {1, 2}) {
      const ThreadCount set(threads);
      check_same(scene.run(16, 0), expected, fmt::format("{}, {} threads", name, threads));
    }
  }
}

TEST_CASE("generation: every instruction set gives the same bits") {
  const Scene scene = tiny_scene(1, true);
  const cpu::Isa before = cpu::active_isa();
  cpu::set_isa(cpu::Isa::v3);
  const std::vector<Bits> expected = scene.run(7, large);
  if (cpu::best_isa() == cpu::Isa::v3) return skip_test("instruction set avx512");
  for (const cpu::Isa isa : cpu::all_isas) {
    if (isa > cpu::best_isa()) break;
    cpu::set_isa(isa);
    check_same(scene.run(7, large), expected, cpu::isa_name(isa));
  }
  cpu::set_isa(before);
}

TEST_CASE("generation: the order of the requests does not matter") {
  const Scene scene = tiny_scene(1, true);
  const std::vector<Bits> expected = scene.run(5, large);
  std::vector<GenerationRequest> reversed(scene.requests.rbegin(), scene.requests.rend());
  PrefixStore store(scene.decoder, scene.split, large, scene.pages(5));
  std::vector<Bits> got = scene.run(reversed, 5, store);
  std::reverse(got.begin(), got.end());
  check_same(got, expected, "reversed");
}

TEST_CASE("generation: a warm store, a store that evicts, and prompts that are not remembered") {
  const Scene scene = tiny_scene(2, true);
  const std::vector<Bits> expected = scene.alone(0);
  {
    PrefixStore store(scene.decoder, scene.split, large, scene.pages(16));
    check_same(scene.run(scene.requests, 16, store), expected, "cold");
    const std::uint64_t computed = store.tokens_computed();
    check_same(scene.run(scene.requests, 16, store), expected, "warm");
    std::uint64_t too_short = 0;  // the store finds whole pages only
    for (const GenerationRequest& r : scene.requests)
      too_short += static_cast<std::int64_t>(r.prompt.size()) < attention_block ? r.prompt.size() : 0;
    CHECK(store.tokens_computed() == computed + too_short);
    CHECK(store.tokens_asked() > computed);
  }
  for (const std::size_t kilobytes : {4, 16, 40, 100}) {
    PrefixStore store(scene.decoder, scene.split, kilobytes << 10, scene.pages(4));
    for (int round = 0; round < 3; ++round) {
      check_same(scene.run(scene.requests, round == 1 ? 7 : 4, store, round != 2), expected,
                 fmt::format("{} KiB, round {}", kilobytes, round));
      CHECK(store.bytes() <= kilobytes << 10);
    }
  }
  PrefixStore store(scene.decoder, scene.split, large, scene.pages(16));
  check_same(scene.run(scene.requests, 16, store, false), expected, "not remembered");
  CHECK(store.bytes() == 0);
}

TEST_CASE("another seed, step or sample id gives another text") {
  Scene scene = tiny_scene(1, false);
  const std::vector<Bits> expected = scene.run(16, 0);
  const auto differs = [&](const std::vector<Bits>& other) {
    std::size_t count = 0;
    for (std::size_t i = 0; i < other.size(); ++i) count += other[i].tokens != expected[i].tokens ? 1 : 0;
    return count >= other.size() / 2;
  };
  scene.options.step += 1;
  CHECK(differs(scene.run(16, 0)));
  scene.options.step -= 1;
  scene.options.seed += 1;
  CHECK(differs(scene.run(16, 0)));
  scene.options.seed -= 1;
  for (GenerationRequest& r : scene.requests) r.sample += 1000;
  CHECK(differs(scene.run(16, 0)));
}

TEST_CASE("training scores the sampled tokens to the same bits") {
  for (const bool adapter : {false, true}) {
    for (const std::int64_t split : {0, 1}) {
      const Scene scene = tiny_scene(split, adapter);
      const std::vector<Bits> responses = scene.run(6, large);
      const std::vector<double> expected = sampled(responses);
      CHECK(scored(scene, responses, false) == expected);
      CHECK(scored(scene, responses, true) == expected);
      const ThreadCount two(2);
      CHECK(scored(scene, responses, true) == expected);
    }
  }
}

TEST_CASE("yes and no scores do not depend on the batch or the store") {
  const Scene scene = tiny_scene(1, true);
  std::vector<Tokens> prompts;
  for (const GenerationRequest& r : scene.requests) prompts.push_back(r.prompt);
  PrefixStore store(scene.decoder, scene.split, large, scene.pages(32));
  AnswerScorer scorer(store, &*scene.adapter, {5, 9});
  const std::vector<double> together = scorer.margins(prompts, true), warm = scorer.margins(prompts, true);
  CHECK(together == warm);
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    PrefixStore own(scene.decoder, scene.split, 0, scene.pages(1));
    CHECK(AnswerScorer(own, &*scene.adapter, {5, 9}).margins(std::span(&prompts[i], 1))[0] == together[i]);
  }
}

TEST_CASE("stories260K: 1,000 sampled tokens alone, in batches and scored by the training forward") {
  const std::optional<std::filesystem::path> folder = stories_folder();
  if (!folder) return skip_test("model stories260k");
  Scene scene{load_decoder(*folder / "stories260K.gguf"), {}, 2, {}, {}};
  scene.adapter.emplace(load_peft(*folder / "lora", scene.decoder.config(), DType::f32, cpu_device, false));
  scene.split = scene.adapter->config().first_layer;
  scene.requests = mixed_requests(static_cast<std::int32_t>(scene.decoder.config().vocabulary), {1, 16, 17, 33, 40, 12, 64, 5, 90, 31}, 8);
  scene.options.max_new_tokens = 100;
  scene.options.seed = 5;
  const std::vector<Bits> expected = scene.alone(0);
  std::size_t tokens = 0;
  for (const Bits& b : expected) tokens += b.tokens.size();
  CHECK(tokens == 1000);
  check_same(scene.run(3, large), expected, "batch 3");
  check_same(scene.run(16, 0), expected, "batch 16");
  {
    const ThreadCount two(2);
    check_same(scene.run(10, large), expected, "two threads");
  }
  CHECK(scored(scene, expected, true) == sampled(expected));
  scene.adapter.reset();
  scene.split = 3;
  const std::vector<Bits> base = scene.alone(0);
  CHECK(base[0].tokens != expected[0].tokens);
  check_same(scene.run(4, large), base, "base model");
  CHECK(scored(scene, base, true) == sampled(base));
}

TEST_CASE("SmolLM2-135M (Q4_1): alone, in a batch, and scored by the training forward") {
  const auto path = find_model("smollm2/SmolLM2-135M-Instruct.Q4_1.gguf");
  if (!path) return skip_test("model smollm2");
  Scene scene{load_decoder(*path), {}, 26, {}, {}};
  LoraConfig lora;
  lora.first_layer = 26;
  lora.last_layer = 30;
  scene.adapter.emplace(scene.decoder.config(), lora, 9, DType::f32, cpu_device, false);
  disturb(*scene.adapter, 0.01);
  scene.requests = mixed_requests(49152, {33, 5, 40, 1}, 8);
  scene.options.max_new_tokens = 6;
  const std::vector<Bits> expected = scene.alone(0);
  check_same(scene.run(4, large), expected, "batch 4");
  CHECK(scored(scene, expected, true) == sampled(expected));
}

TEST_CASE("generation: a stop in the middle leaves the store as it was") {
  const Scene scene = tiny_scene(2, true);
  const std::vector<Bits> expected = scene.alone(0);
  PrefixStore store(scene.decoder, scene.split, 100 << 10, scene.pages(4));
  GenerationOptions options = scene.options;
  options.batch = 4;
  for (int i = 0; i < 50; ++i) {
    int left = 10;
    CHECK_THROWS_AS(generate(store, &*scene.adapter, scene.requests, options, nullptr, [&](std::size_t, std::int32_t) { if (--left == 0) throw Error("stop"); }), Error);
  }
  check_same(scene.run(scene.requests, 4, store), expected, "after stops");
}

TEST_CASE("generation: a store without room is an error, and goes on afterwards") {
  const Scene scene = tiny_scene(2, false);
  PrefixStore store(scene.decoder, scene.split, 0, 6);
  for (int i = 0; i < 5; ++i) CHECK_THROWS_AS(scene.run(scene.requests, 16, store), ResourceError);
  const GenerationRequest one = scene.requests[3];
  PrefixStore fresh(scene.decoder, scene.split, 0, 6);
  check_same(scene.run(std::span(&one, 1), 1, store), scene.run(std::span(&one, 1), 1, fresh), "after errors");
}
