// A LoRA training step with dropout on a CUDA device against the CPU: loss, gradients, clipping, Adam, and several adapters in one batch.
#include <fmt/format.h>

#include "engine/autograd/tape.h"
#include "engine/ops/elementwise.h"
#include "engine/ops/reduce.h"
#include "engine/optim/adam.h"
#include "models/parameters.h"
#include "tests/cuda_models/both.h"
#include "tests/rl/tiny_decoder.h"

using namespace expctr;
using namespace expctr::test;

namespace {

const std::vector<std::int32_t> tokens = {3, 9, 27, 14, 5, 8, 1, 30, 2, 2, 17, 6, 11},
                                targets = {9, 27, 14, 5, -1, 1, 30, 2, -1, 17, 6, 11, 4};
const std::vector<std::int64_t> lengths = {5, 4, 4};

LoraConfig everywhere() {
  LoraConfig lora;
  lora.rank = 4;
  lora.dropout = 0.25;
  lora.targets = {Projection::q, Projection::k, Projection::v, Projection::o, Projection::gate, Projection::up, Projection::down};
  lora.last_layer = 2;
  return lora;
}

struct Step {
  Decoder decoder;
  LoraAdapter adapter, other;
  Adam optimiser;
  Tensor loss;

  // A large epsilon: with the usual one Adam's first step is the sign of the gradient, whatever its size, and shows rounding as a full
  // step.
  explicit Step(Device device)
      : decoder(tiny_decoder({}, 3, device)),
        adapter(decoder.config(), everywhere(), 7, DType::f32, device, true),
        other(decoder.config(), everywhere(), 8, DType::f32, device, false),
        optimiser(adapter.parameters(), AdamOptions{1e-2, 0.9, 0.999, 1e-3, 0.01}) {
    const Initialiser initial{17};
    for (const LoraAdapter* each : {&adapter, &other}) {
      for (const NamedTensor& p : each->parameters())
        p.tensor.copy_from(initial.normal((each == &other ? "other " : "") + p.name, p.tensor.shape(), 0.1));
    }
  }
  Tensor normalised(const AdapterPlan& plan) const {
    const Device device = decoder.device();
    const Tensor ids = Tensor::of(tokens, {std::ssize(tokens)}, device);
    return decoder.normalise(decoder.blocks(0, 2, decoder.embed(ids), whole_sequences(lengths, device), plan));
  }
  void backward() {
    const Device device = decoder.device();
    std::vector<std::int32_t> rows;
    for (std::size_t i = 0; i < tokens.size(); ++i) rows.push_back(static_cast<std::int32_t>(50 + i));
    AdapterPlan plan(&adapter);
    plan.set_dropout(Tensor::of(rows, {std::ssize(rows)}, device), {11, 2, 0});
    Tape tape;
    loss = affine(mean_all(decoder.score(normalised(plan), Tensor::of(targets, {std::ssize(targets)}, device)).log_probability), -1.0);
    tape.backward(loss);
  }
  void update() { optimiser.step(1e-2, clip_factor(gradient_norm(adapter.parameters()), 0.5)); }
};

}  // namespace

TEST_CASE("a LoRA training step on a CUDA device is the step of the CPU") {
  const ExactBlocks exact_blocks;
  Step cuda(cuda_device()), cpu(cpu_device);
  const std::vector<NamedTensor> before = snapshot(cpu.adapter.parameters());
  cuda.backward();
  cpu.backward();
  CHECK(relative_difference(cuda.loss, cpu.loss) <= 1e-5);
  const double gradients = gradient_difference(cuda.adapter.parameters(), cpu.adapter.parameters());
  CHECK(gradients <= 1e-5);
  cuda.update();
  cpu.update();
  const double apart = change_difference(cuda.adapter.parameters(), cpu.adapter.parameters(), before);
  CHECK(apart <= 1e-4);
  fmt::print("LoRA step on cuda:0 against the CPU: gradients apart by {:.1e} tol=1e-05, changes by {:.1e} tol=1e-04\n", gradients, apart);
}

TEST_CASE("several adapters in one batch give on a CUDA device what they give on the CPU") {
  const ExactBlocks exact_blocks;
  const Step cuda(cuda_device()), cpu(cpu_device);
  const NoGradient no_gradient;
  std::vector<Tensor> results;
  for (const Step* side : {&cuda, &cpu}) {
    results.push_back(side->normalised(AdapterPlan({{&side->adapter, 0, 5}, {nullptr, 5, 4}, {&side->other, 9, 4}})));
  }
  CHECK(relative_difference(results[0], results[1]) <= 1e-5);
  CHECK(relative_difference(cpu.normalised({}), results[1]) > 1e-2);
}
