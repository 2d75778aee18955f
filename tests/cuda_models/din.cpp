// One training step of DIN with a text adapter on a CUDA device against the CPU: outputs, gradients, Adam, running statistics, evaluation.
#include "models/ctr/din.h"

#include <fmt/format.h>

#include "engine/autograd/tape.h"
#include "engine/ops/loss.h"
#include "engine/ops/reduce.h"
#include "engine/optim/adam.h"
#include "models/ctr/din_batch.h"
#include "models/parameters.h"
#include "tests/cuda_models/both.h"
#include "tests/rl/draws.h"

using namespace expctr;
using namespace expctr::test;

namespace {

constexpr std::int64_t rows = 12, history = 7, genres = 3, text_width = 20;

DinOptions options_of(bool softmax) {
  DinOptions options;
  options.fields = {{"user", 9, false}, {"item", 30, true}, {"genres", 6, true}};
  options.embedding = 8;
  options.embedding_deviation = 0.3;
  options.attention = {16, 8};
  options.mlp = {24, 12};
  options.mlp_activation = CtrActivation::dice;
  options.dropout = 0.2;
  options.softmax = softmax;
  options.text_width = text_width;
  options.adapter = {16, 8};
  return options;
}

// Random rows; one without a history, a third without a text.
struct Data {
  std::vector<std::int32_t> user, item, genre, history_item, history_genre, history_label, sample, text_of_row;
  std::vector<float> text, label;

  Data() {
    Draws draws(6);
    const auto genre_list = [&](std::vector<std::int32_t>& to, bool none) {
      for (std::int64_t g = 0; g < genres; ++g) to.push_back(none || g > draws.below(3) ? 0 : 1 + draws.below(5));
    };
    std::int32_t texts = 0;
    for (std::int64_t r = 0; r < rows; ++r) {
      user.push_back(1 + draws.below(8));
      item.push_back(1 + draws.below(29));
      genre_list(genre, false);
      const std::int64_t length = r == 0 ? 0 : 1 + draws.below(static_cast<std::int32_t>(history));
      for (std::int64_t t = 0; t < history; ++t) {
        history_item.push_back(t < length ? 1 + draws.below(29) : 0);
        history_label.push_back(t < length ? 1 + draws.below(2) : 0);
        genre_list(history_genre, t >= length);
      }
      sample.push_back(static_cast<std::int32_t>(100 + r));
      text_of_row.push_back(r % 3 == 2 ? -1 : texts++);
      label.push_back(static_cast<float>(draws.below(2)));
    }
    for (std::int64_t i = 0; i < texts * text_width; ++i) text.push_back(static_cast<float>(draws.uniform(-1.0, 1.0)));
  }

  DinBatch batch(const DinOptions& options, Device device) const {
    DinArrays arrays;
    arrays.rows = rows;
    arrays.history = history;
    arrays.fields = {{user, 1}, {item, 1}, {genre, genres}};
    arrays.history_fields = {{history_item, 1}, {history_genre, genres}};
    arrays.history_label = history_label;
    arrays.sample_ids = sample;
    DinBatch result = make_din_batch(arrays, options, DType::f32, device);
    result.text = Tensor::of(text, {std::ssize(text) / text_width, text_width}, device);
    result.text_of_row = Tensor::of(text_of_row, {rows}, device);
    return result;
  }
};

struct Step {
  Din model;
  Adam optimiser;
  DinBatch batch;
  Tensor loss, logit, evaluated;

  // A large epsilon: with the usual one Adam's first step is the sign of the gradient, whatever its size, and shows rounding as a full
  // step.
  Step(const DinOptions& options, const Data& data, Device device)
      : model(options, 3, DType::f32, device),
        optimiser(model.parameters(), AdamOptions{1e-2, 0.9, 0.999, 1e-3, 0.0}),
        batch(data.batch(options, device)) {
    Tape tape;
    CtrMode mode{.training = true, .sample_ids = {}, .dropout = {}};
    mode.dropout.seed = 11;
    logit = model.forward(batch, mode).logit;
    loss = mean_all(bce_with_logits(logit, Tensor::of(data.label, {rows}, device)));
    tape.backward(loss);
  }
  void update() {
    optimiser.step(1e-2, clip_factor(gradient_norm(model.parameters()), 0.5));
    const NoGradient no_gradient;
    evaluated = model.forward(batch, {}).logit;
  }
};

}  // namespace

TEST_CASE("a training step of DIN with texts on a CUDA device is the step of the CPU") {
  const ExactBlocks exact_blocks;
  const Data data;
  for (const bool softmax : {false, true}) {
    CAPTURE(softmax);
    const DinOptions options = options_of(softmax);
    Step cuda(options, data, cuda_device()), cpu(options, data, cpu_device);
    const std::vector<NamedTensor> before = snapshot(cpu.model.parameters());
    CHECK(relative_difference(cuda.logit, cpu.logit) <= 1e-5);
    CHECK(relative_difference(cuda.loss, cpu.loss) <= 1e-5);
    const double gradients = gradient_difference(cuda.model.parameters(), cpu.model.parameters());
    CHECK(gradients <= 1e-5);
    cuda.update();
    cpu.update();
    const double apart = change_difference(cuda.model.parameters(), cpu.model.parameters(), before);
    CHECK(apart <= 1e-4);
    for (std::size_t i = 0; i < cpu.model.buffers().size(); ++i) {
      CHECK(relative_difference(cuda.model.buffers()[i].tensor, cpu.model.buffers()[i].tensor, 0.1) <= 1e-5);
    }
    CHECK(relative_difference(cuda.evaluated, cpu.evaluated) <= 1e-4);
    CHECK(relative_difference(cpu.evaluated, cpu.logit) > 1e-2);
    fmt::print("DIN step on cuda:0 against the CPU: gradients apart by {:.1e} tol=1e-05, changes by {:.1e} tol=1e-04\n", gradients, apart);
  }
}
