// A training step in steady state: it allocates nothing, waits for nothing, and can be recorded once and replayed.
#include <doctest/doctest.h>

#include <memory>

#include "base/error.h"
#include "cuda/graph.h"
#include "engine/autograd/tape.h"
#include "engine/core/allocator.h"
#include "engine/ops/elementwise.h"
#include "engine/ops/embedding.h"
#include "engine/ops/loss.h"
#include "engine/ops/reduce.h"
#include "engine/optim/adam.h"
#include "models/ctr/din.h"
#include "models/ctr/din_batch.h"
#include "models/llm/load.h"
#include "tests/rl/draws.h"
#include "tests/support/launch_profile.h"
#include "tests/support/oracle.h"
#include "tests/support/paths.h"

using namespace expctr;
using namespace expctr::test;

namespace {

constexpr Device device{DeviceType::cuda, 0};
constexpr double most_norm = 0.05;  // small enough to clip

/// A model, its data in device memory, and its optimiser.
class TrainedModel {
 public:
  virtual ~TrainedModel() = default;
  /// Everything up to the update stays on the device: forward, backward, norm, clipping, update, gradients back to zero.
  void step() {
    {
      Tape tape;
      tape.backward(loss());
    }
    std::vector<Tensor> gradients;
    for (const NamedTensor& parameter : optimiser_->parameters()) gradients.push_back(parameter.tensor.gradient());
    advance_step(control_, squared_norm(gradients), most_norm);
    optimiser_->step(control_);
    optimiser_->clear_gradients();
  }
  /// The same with learning rate, step and norm on the host.
  void step_with_host(double learning_rate) {
    {
      Tape tape;
      tape.backward(loss());
    }
    optimiser_->step(learning_rate, clip_factor(gradient_norm(optimiser_->parameters()), most_norm));
    optimiser_->clear_gradients();
  }
  void set_learning_rate(double rate) { control_.slice_rows(0, 1).copy_from(Tensor::of(std::vector<double>{rate}, {1}, device)); }
  virtual void next_batch() = 0;

  std::vector<float> parameters() const {
    std::vector<float> values;
    for (const NamedTensor& parameter : optimiser_->parameters())
      for (const float value : parameter.tensor.to_vector<float>()) values.push_back(value);
    return values;
  }

 protected:
  virtual Tensor loss() = 0;
  void train(std::vector<NamedTensor> parameters) {
    optimiser_ = std::make_unique<Adam>(std::move(parameters), AdamOptions{1e-2, 0.9, 0.999, 1e-6, 0.01});
    control_ = step_control(1e-2, 0, device);
  }

 private:
  std::unique_ptr<Adam> optimiser_;
  Tensor control_;
};

/// A frozen decoder of two layers with a trained adapter; next-token loss of three sequences.
class AdaptedDecoder : public TrainedModel {
 public:
  AdaptedDecoder()
      : decoder_(load_decoder(oracle_root() / "llm" / "transformer_tiny" / "llama", {.device = device})),
        adapter_(decoder_.config(),
                 LoraConfig{.rank = 4,
                            .alpha = 8,
                            .dropout = 0,
                            .targets = {Projection::q, Projection::v, Projection::down},
                            .first_layer = 0,
                            .last_layer = decoder_.config().layers},
                 5, DType::f32, device, true),
        context_(whole_sequences(std::vector<std::int64_t>{9, 5, 12}, device)),
        ids_(Tensor::of(draw(), {tokens}, device)),
        targets_(Tensor::of(draw(), {tokens}, device)) {
    train(adapter_.parameters());
  }
  void next_batch() override {
    ids_.copy_from(Tensor::of(draw(), {tokens}, device));
    targets_.copy_from(Tensor::of(draw(), {tokens}, device));
  }

 protected:
  Tensor loss() override {
    const Tensor hidden = decoder_.blocks(0, decoder_.config().layers, decoder_.embed(ids_), context_, AdapterPlan(&adapter_));
    return affine(mean_all(decoder_.score(decoder_.normalise(hidden), targets_).log_probability), -1.0);
  }

 private:
  static constexpr std::int64_t tokens = 9 + 5 + 12;
  std::vector<std::int32_t> draw() {
    std::vector<std::int32_t> ids;
    for (std::int64_t t = 0; t < tokens; ++t) ids.push_back(draws_.below(static_cast<std::int32_t>(decoder_.config().vocabulary)));
    return ids;
  }
  Draws draws_{11};
  Decoder decoder_;
  LoraAdapter adapter_;
  TokenContext context_;
  Tensor ids_, targets_;
};

/// DIN with Dice, whose running statistics move too; the labels change from batch to batch.
class ClickModel : public TrainedModel {
 public:
  ClickModel() : model_(options(), 3, DType::f32, device), labels_(Tensor::of(draw(), {rows}, device)) {
    const auto column = [&](std::int64_t count, std::int32_t most) {
      std::vector<std::int32_t> ids;
      for (std::int64_t k = 0; k < count; ++k) ids.push_back(1 + draws_.below(most - 1));
      return ids;
    };
    const std::vector<std::int32_t> user = column(rows, 9), item = column(rows, 30), past = column(rows * history, 30),
                                    liked = column(rows * history, 3), sample = column(rows, 1000);
    DinArrays arrays;
    arrays.rows = rows;
    arrays.history = history;
    arrays.fields = {{user, 1}, {item, 1}};
    arrays.history_fields = {{past, 1}};
    arrays.history_label = liked;
    arrays.sample_ids = sample;
    batch_ = make_din_batch(arrays, options(), DType::f32, device);
    train(model_.parameters());
  }
  void next_batch() override { labels_.copy_from(Tensor::of(draw(), {rows}, device)); }

 protected:
  Tensor loss() override {
    CtrMode mode{.training = true, .sample_ids = {}, .dropout = {}};
    mode.dropout.seed = 11;
    return mean_all(bce_with_logits(model_.forward(batch_, mode).logit, labels_));
  }

 private:
  static constexpr std::int64_t rows = 12, history = 7;
  static DinOptions options() {
    DinOptions options;
    options.fields = {{"user", 9, false}, {"item", 30, true}};
    options.embedding = 8;
    options.embedding_deviation = 0.3;
    options.attention = {16, 8};
    options.mlp = {24, 12};
    options.mlp_activation = CtrActivation::dice;
    options.dropout = 0.2;
    return options;
  }
  std::vector<float> draw() {
    std::vector<float> values;
    for (std::int64_t r = 0; r < rows; ++r) values.push_back(static_cast<float>(draws_.below(2)));
    return values;
  }
  Draws draws_{17};
  Din model_;
  DinBatch batch_;
  Tensor labels_;
};

double learning_rate(int step) { return 1e-2 / (1 + step); }

double most_difference(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double most = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(static_cast<double>(a[i]) - b[i]));
  return most;
}

template <class Model>
void check_steady() {
  Model model;
  const std::vector<float> before = model.parameters();
  for (int i = 0; i < 2; ++i) model.step();
  synchronise(device);
  const std::uint64_t asked = memory_statistics(device).system_allocations;
  for (int i = 0; i < 3; ++i) model.step();
  synchronise(device);
  CHECK(memory_statistics(device).system_allocations == asked);
  CHECK(most_difference(model.parameters(), before) > 1e-3);

  // What three more steps add to the calls of the runtime.
  LaunchProfile profiles[2];
  for (const int more : {0, 1}) {
    profiles[more] = profile_launches(90,
                                      [&] {
                                        Model profiled;
                                        for (int i = 0; i < 2 + 3 * more; ++i) profiled.step();
                                      },
                                      {.checks = "none"});
    if (!profiles[more].here) return skip_test(no_launch_profile);
  }
  const auto added = [&](const char* function) { return profiles[1].calls(function) - profiles[0].calls(function); };
  CHECK(added("cudaLaunchKernel") > 3 * 10);
  for (const char* function :
       {"cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy", "cudaMalloc", "cudaFree"}) {
    CAPTURE(function);
    CHECK(added(function) == 0);
  }
}

template <class Model>
void check_replay() {
  constexpr int steps = 4;
  Model eager, by_host, replayed;
  for (int i = 0; i < steps; ++i) {
    if (i > 0) {
      eager.next_batch();
      by_host.next_batch();
    }
    eager.set_learning_rate(learning_rate(i));
    eager.step();
    by_host.step_with_host(learning_rate(i));
  }
  replayed.set_learning_rate(learning_rate(0));
  replayed.step();  // fills the caches
  const std::vector<float> after_one = replayed.parameters();
  const cuda::Graph graph = cuda::Graph::record(current_stream(device), [&] { replayed.step(); });
  CHECK(graph.nodes() > 10);
  CHECK(replayed.parameters() == after_one);  // recorded, not run
  for (int i = 1; i < steps; ++i) {
    replayed.next_batch();
    replayed.set_learning_rate(learning_rate(i));
    graph.replay(current_stream(device));
  }
  CHECK(replayed.parameters() == eager.parameters());
  CHECK(most_difference(replayed.parameters(), after_one) > 1e-3);
  // The host computes the step's factors in double too; they may differ in their last bit.
  CHECK(most_difference(by_host.parameters(), eager.parameters()) < 1e-6);
}

}  // namespace

TEST_CASE("a step that clips by a norm on the host waits for it") {
  const LaunchProfile profile = profile_launches(90,
                                                 [] {
                                                   AdaptedDecoder model;
                                                   model.step_with_host(1e-2);
                                                 },
                                                 {.checks = "none"});
  if (!profile.here) return skip_test(no_launch_profile);
  const LaunchProfile without = profile_launches(90, [] { AdaptedDecoder().step(); }, {.checks = "none"});
  CHECK(profile.calls("cudaStreamSynchronize") == without.calls("cudaStreamSynchronize") + 1);
}

TEST_CASE("a steady step of a decoder with an adapter neither allocates nor waits") { check_steady<AdaptedDecoder>(); }
TEST_CASE("a steady step of DIN neither allocates nor waits") { check_steady<ClickModel>(); }
TEST_CASE("a recorded step of a decoder with an adapter replays as the eager steps") { check_replay<AdaptedDecoder>(); }
TEST_CASE("a recorded step of DIN replays as the eager steps") { check_replay<ClickModel>(); }

TEST_CASE("what cannot be recorded is an error, and the stream works on") {
  const Tensor x = Tensor::zeros({1000}, DType::f32, device);
  synchronise(device);
  const Stream stream = current_stream(device);
  CHECK_THROWS_AS(cuda::Graph::record(stream, [&] { x.to_vector<float>(); }), Error);
  CHECK_THROWS_WITH_AS(cuda::Graph::record(stream, [&] { throw Error("a reason"); }), "a reason", Error);
  CHECK_THROWS_AS(cuda::Graph().replay(stream), Error);
  x.fill(2.0);
  CHECK(x.to_vector<float>()[999] == 2.0f);
}
