// Memory runs out at every single allocation of a training step in turn: each time an error that names the op, nothing leaks, and the step
// after it gives the bits of an undisturbed one.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <regex>

#include "base/error.h"
#include "engine/autograd/tape.h"
#include "engine/core/allocator.h"
#include "engine/core/build_info.h"
#include "engine/ops/elementwise.h"
#include "engine/ops/loss.h"
#include "engine/ops/reduce.h"
#include "engine/optim/adam.h"
#include "models/ctr/din.h"
#include "models/ctr/din_batch.h"
#include "models/parameters.h"
#include "tests/rl/tiny_decoder.h"

using namespace expctr;
using namespace expctr::test;

namespace {

constexpr Device cuda_device{DeviceType::cuda, 0};

// A decoder of one layer with adapters on all its maps, dropout included.
struct DecoderStep {
  Decoder decoder;
  LoraAdapter adapter;
  Adam optimiser;
  Tensor ids, targets;
  TokenContext context;
  AdapterPlan plan;

  static LoraConfig lora() {
    LoraConfig config;
    config.rank = 4;
    config.dropout = 0.25;
    config.targets = {Projection::q, Projection::v, Projection::o, Projection::down};
    config.last_layer = 1;
    return config;
  }
  static TinyShape shape() {
    TinyShape tiny;
    tiny.layers = 1;
    return tiny;
  }
  explicit DecoderStep(Device device)
      : decoder(tiny_decoder(shape(), 3, device)),
        adapter(decoder.config(), lora(), 7, DType::f32, device, true),
        optimiser(adapter.parameters(), AdamOptions{1e-2, 0.9, 0.999, 1e-3, 0.01}),
        ids(Tensor::of(std::vector<std::int32_t>{3, 9, 27, 14, 5, 8, 1, 30}, {8}, device)),
        targets(Tensor::of(std::vector<std::int32_t>{9, 27, 14, -1, 8, 1, 30, 2}, {8}, device)),
        context(whole_sequences(std::vector<std::int64_t>{4, 4}, device)),
        plan(&adapter) {
    const Initialiser initial{17};
    for (const NamedTensor& p : adapter.parameters()) p.tensor.copy_from(initial.normal(p.name, p.tensor.shape(), 0.1).to(device));
    plan.set_dropout(ids, {11, 2, 0});
    decoder.blocks(0, 1, decoder.embed(ids), context, plan);  // makes the table of rotary angles
  }
  Tensor loss() const {
    const Tensor hidden = decoder.normalise(decoder.blocks(0, 1, decoder.embed(ids), context, plan));
    return affine(mean_all(decoder.score(hidden, targets).log_probability), -1.0);
  }
  std::vector<NamedTensor> state() const { return adapter.parameters(); }
};

// DIN with dropout and Dice, whose running statistics move with each step.
struct DinStep {
  Din model;
  Adam optimiser;
  DinBatch batch;
  Tensor labels;

  static DinOptions options() {
    DinOptions o;
    o.fields = {{"user", 9, false}, {"item", 30, true}};
    o.embedding = 4;
    o.embedding_deviation = 0.3;
    o.attention = {8};
    o.mlp = {12};
    o.mlp_activation = CtrActivation::dice;
    o.dropout = 0.2;
    return o;
  }
  explicit DinStep(Device device)
      : model(options(), 3, DType::f32, device), optimiser(model.parameters(), AdamOptions{1e-2, 0.9, 0.999, 1e-3, 0.0}) {
    const std::vector<std::int32_t> user = {1, 4, 8, 2}, item = {3, 29, 7, 7}, sample = {100, 101, 102, 103},
                                    history_item = {0, 0, 0, 5, 6, 0, 9, 3, 1, 12, 0, 0}, history_label = {0, 0, 0, 1, 2, 0, 2, 2, 1, 1, 0, 0};
    DinArrays arrays;
    arrays.rows = 4;
    arrays.history = 3;
    arrays.fields = {{user, 1}, {item, 1}};
    arrays.history_fields = {{history_item, 1}};
    arrays.history_label = history_label;
    arrays.sample_ids = sample;
    batch = make_din_batch(arrays, options(), DType::f32, device);
    labels = Tensor::of(std::vector<float>{1, 0, 1, 1}, {4}, device);
  }
  Tensor loss() const {
    CtrMode mode{.training = true, .sample_ids = {}, .dropout = {}};
    mode.dropout.seed = 11;
    return mean_all(bce_with_logits(model.forward(batch, mode).logit, labels));
  }
  std::vector<NamedTensor> state() const { return model.state(); }
};

template <class Step>
void train(Step& step) {
  Tape tape;
  tape.backward(step.loss());
  step.optimiser.step(1e-2, clip_factor(gradient_norm(step.optimiser.parameters()), 0.5));
}

std::vector<Tensor> saved(const std::vector<NamedTensor>& state) {
  std::vector<Tensor> copies;
  for (const NamedTensor& s : state) copies.push_back(s.tensor.detached().clone());
  return copies;
}

std::vector<std::vector<float>> bits(const std::vector<NamedTensor>& state) {
  std::vector<std::vector<float>> all;
  for (const NamedTensor& s : state) all.push_back(s.tensor.template to_vector<float>());
  return all;
}

// As a job does that goes on from its last checkpoint: parameters, statistics, moments and step count from before.
template <class Step>
void restore(Step& step, const std::vector<Tensor>& before) {
  step.optimiser.clear_gradients();
  const std::vector<NamedTensor> state = step.state();
  for (std::size_t i = 0; i < state.size(); ++i) state[i].tensor.copy_from(before[i]);
  for (const NamedTensor& moment : step.optimiser.state()) moment.tensor.fill(0.0);
  step.optimiser.set_steps(0);
}

// Fails allocation first, first + every, ... until a step has no more of them; returns how many failed.
template <class Step>
int fail_each(Device device, std::uint64_t first, std::uint64_t every) {
  Step step(device);
  const std::vector<Tensor> before = saved(step.state());
  train(step);
  const std::vector<std::vector<float>> undisturbed = bits(step.state());
  CHECK(undisturbed[0] != before[0].template to_vector<float>());
  restore(step, before);
  const std::regex message(R"(^[a-z_ ]+( backward)?\(.*[a-z]+[0-9]+ \[[0-9, ]*\].*\): no room for [a-z]+[0-9]+ \[[0-9, ]*\]: out of memory on (cpu|cuda:0): [0-9]+ bytes asked for, [0-9]+ in use\nHINT: .+)");
  int failures = 0;
  for (std::uint64_t n = first;; n += every) {
    const std::size_t host = memory_statistics(cpu_device).in_use, on_device = device.is_cuda() ? memory_statistics(device).in_use : 0;
    std::string error;
    fail_allocation(n);
    try {
      train(step);
    } catch (const ResourceError& caught) {
      error = caught.what();
    }
    fail_allocation(0);
    if (error.empty()) return failures;
    ++failures;
    CHECK_MESSAGE(std::regex_match(error, message), fmt::format("allocation {}: {}", n, error));
    step.optimiser.clear_gradients();
    CHECK(memory_statistics(cpu_device).in_use == host);
    if (device.is_cuda()) CHECK(memory_statistics(device).in_use == on_device);
    restore(step, before);
    train(step);
    if (const auto after = bits(step.state()); after != undisturbed) FAIL(fmt::format("the step after failed allocation {} gives other bits", n));
    restore(step, before);
  }
}

}  // namespace

TEST_CASE("every allocation of a training step may fail: a decoder with adapters and DIN on the CPU") {
  CHECK(fail_each<DecoderStep>(cpu_device, 1, 1) > 60);
  CHECK(fail_each<DinStep>(cpu_device, 1, 1) > 60);
}

TEST_CASE("allocations of a training step may fail on a CUDA device and beside it") {
  if constexpr (has_cuda) {
    CHECK(fail_each<DecoderStep>(cuda_device, 1, 17) > 3);
    CHECK(fail_each<DinStep>(cuda_device, 5, 17) > 3);
  }
}

TEST_SUITE("slow") {
  TEST_CASE("every allocation of a training step may fail on a CUDA device and beside it") {
    if constexpr (has_cuda) {
      CHECK(fail_each<DecoderStep>(cuda_device, 1, 1) > 60);
      CHECK(fail_each<DinStep>(cuda_device, 1, 1) > 60);
    }
  }
}

TEST_CASE("a failed allocation outside of all ops names the tensor") {
  fail_allocation(1);
  CHECK_THROWS_WITH_AS(Tensor::zeros({3, 7}), doctest::Contains("no room for f32 [3, 7]: out of memory on cpu"), ResourceError);
}
