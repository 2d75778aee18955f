// The tape: when a leaf is ready, checkpointed segments, and what an exception leaves behind.
#include <doctest/doctest.h>

#include <cmath>

#include "base/error.h"
#include "base/philox.h"
#include "engine/autograd/checkpoint.h"
#include "engine/autograd/tape.h"
#include "engine/core/allocator.h"
#include "engine/ops/elementwise.h"
#include "engine/ops/layout.h"
#include "engine/ops/matmul.h"
#include "engine/ops/norm.h"
#include "engine/ops/reduce.h"

using namespace expctr;

namespace {

Tensor random(const Shape& shape, std::uint64_t seed, double size = 1.0) {
  std::vector<float> values;
  for (std::int64_t i = 0; i < shape.size(); ++i) {
    const RandomBits bits = philox(random_key(seed, "autograd test"), {static_cast<std::uint32_t>(i), 0, 0, 0});
    values.push_back(static_cast<float>(size * (2.0 * uniform_double(bits.word[0], bits.word[1]) - 1.0)));
  }
  return Tensor::of(values, shape);
}

// Residual blocks of norm, two products and dropout, each with its own weights.
struct Net {
  static constexpr std::int64_t rows = 48, width = 32, hidden = 96, depth = 6;
  std::vector<Tensor> gain, up, down;
  Tensor sample = Tensor::zeros({rows}, DType::i32);

  Net() {
    for (std::int64_t i = 0; i < depth; ++i) {
      gain.push_back(random({width}, 10 + static_cast<std::uint64_t>(i)));
      up.push_back(random({hidden, width}, 20 + static_cast<std::uint64_t>(i), 0.3));
      down.push_back(random({width, hidden}, 30 + static_cast<std::uint64_t>(i), 0.3));
      for (Tensor* p : {&gain.back(), &up.back(), &down.back()}) p->require_gradient();
    }
  }
  Tensor block(std::size_t i, const Tensor& x) const {
    const Tensor h = dropout(gelu(matmul(rms_norm(x, gain[i], 1e-5), up[i], false, true)), sample, 0.25, {7, 3, static_cast<std::uint32_t>(i)});
    return add(x, matmul(h, down[i], false, true));
  }
  std::vector<std::vector<float>> step(const Tensor& x, bool checkpointed, std::size_t& peak) const {
    for (const auto* list : {&gain, &up, &down})
      for (const Tensor& p : *list) p.gradient().fill(0.0);  // there before the step: what is measured are activations
    if (x.requires_gradient()) x.gradient().fill(0.0);
    reset_peak(cpu_device);
    const std::size_t before = memory_statistics(cpu_device).in_use;
    {
      Tape tape;
      Tensor h = x;
      for (std::size_t i = 0; i < depth; ++i) {
        h = checkpointed ? checkpoint([this, i](std::span<const Tensor> in) { return block(i, in[0]); }, {h}) : block(i, h);
      }
      tape.backward(mean_all(multiply(h, add(h, x))));
    }
    peak = memory_statistics(cpu_device).peak - before;
    std::vector<std::vector<float>> gradients;
    for (const auto* list : {&gain, &up, &down})
      for (const Tensor& p : *list) gradients.push_back(p.gradient().to_vector<float>());
    if (x.requires_gradient()) gradients.push_back(x.gradient().to_vector<float>());
    return gradients;
  }
};

}  // namespace

TEST_CASE("a checkpointed segment gives the same bits and needs less memory") {
  const Net net;
  Tensor x = random({Net::rows, Net::width}, 1);
  for (const bool input_gradient : {false, true}) {
    CAPTURE(input_gradient);
    if (input_gradient) x.require_gradient();
    std::size_t plain_peak = 0, peak = 0;
    const auto plain = net.step(x, false, plain_peak), again = net.step(x, true, peak);
    CHECK(plain == again);
    CHECK(std::abs(plain[0][0]) > 0.0f);
    CHECK(peak < plain_peak / 2);
  }
}

TEST_CASE("checkpoints nest, and cost nothing where no gradient is wanted") {
  Tensor w = random({4}, 2);
  int calls = 0;
  const Segment inner = [&](std::span<const Tensor> in) {
    ++calls;
    return multiply(gelu(in[0]), w);
  };
  const Segment outer = [&](std::span<const Tensor> in) { return add(checkpoint(inner, {multiply(in[0], in[0])}), in[1]); };
  const Tensor a = random({4}, 3), b = random({4}, 4);
  {
    Tape tape;
    CHECK_FALSE(checkpoint(outer, {a, b}).requires_gradient());
  }
  CHECK(calls == 1);
  w.require_gradient();
  std::vector<std::vector<float>> gradients;
  for (const bool checkpointed : {true, false}) {
    w.clear_gradient();
    calls = 0;
    Tape tape;
    const Tensor inputs[] = {a, b};
    tape.backward(sum_all(checkpointed ? checkpoint(outer, inputs) : multiply(gelu(multiply(a, a)), w)));
    gradients.push_back(w.gradient().to_vector<float>());
    if (checkpointed) CHECK(calls == 3);  // forward; again for the outer segment; again for the inner one
  }
  CHECK(gradients[0] == gradients[1]);
  {
    const NoGradient off;
    calls = 0;
    checkpoint(outer, {a, b});
    CHECK(calls == 1);
  }
}

TEST_CASE("a checkpointed segment may return its input or a view") {
  for (const bool view : {false, true}) {
    Tensor x = random({3, 5}, 5);
    x.require_gradient();
    Tape tape;
    const Tensor y = checkpoint([view](std::span<const Tensor> in) { return view ? in[0].transpose(0, 1) : in[0]; }, {x});
    const Tensor z = sum_all(multiply(y, y));
    tape.backward(add(z, sum_all(x)));
    const std::vector<float> values = x.to_vector<float>(), gradient = x.gradient().to_vector<float>();
    for (std::size_t i = 0; i < values.size(); ++i) CHECK(gradient[i] == doctest::Approx(2.0f * values[i] + 1.0f));
  }
}

TEST_CASE("a leaf is ready after its last writer, once, as the leaf itself") {
  Tensor a = random({4}, 1), b = random({2, 2}, 2), unused = random({4}, 3), checkpointed = random({4}, 4);
  for (Tensor* t : {&a, &b, &unused, &checkpointed}) t->require_gradient();
  std::vector<std::string> order;
  std::vector<float> a_when_ready;
  Tape tape;
  tape.on_ready([&](const Tensor& leaf) {
    const std::pair<const Tensor*, const char*> names[] = {{&a, "a"}, {&b, "b"}, {&unused, "unused"}, {&checkpointed, "checkpointed"}};
    for (const auto& [tensor, name] : names) {
      if (!leaf.shares_gradient(*tensor)) continue;
      order.push_back(name);
      CHECK(leaf.shape() == tensor->shape());
      CHECK(leaf.data() == tensor->data());
    }
    if (leaf.shares_gradient(a)) a_when_ready = leaf.gradient().to_vector<float>();
  });
  const Tensor first = multiply(a, b.reshape({4}));                 // the first op: its inputs are ready last
  const Tensor nowhere = multiply(unused, unused);                   // no path to the loss
  const Tensor second = checkpoint([&](std::span<const Tensor> in) { return multiply(in[0], checkpointed); }, {first});
  tape.backward(sum_all(add(second, a)));
  CHECK(order == std::vector<std::string>{"checkpointed", "unused", "a", "b"});
  CHECK(a_when_ready == a.gradient().to_vector<float>());
  CHECK(checkpointed.gradient().to_vector<float>() == first.to_vector<float>());
}

TEST_CASE("after a backward pass that threw the tape is empty and records again") {
  Tensor x = random({4}, 1);
  x.require_gradient();
  Tape tape;
  const Tensor bad = record("bad", sum_all(x.detached()), {x}, [](const Tensor&, const GradientSlots&) { throw Error("refused"); });
  CHECK_THROWS_WITH_AS(tape.backward(bad), doctest::Contains("refused"), Error);
  CHECK(Tape::recording());
  x.clear_gradient();
  tape.backward(sum_all(x));
  CHECK(x.gradient().to_vector<float>() == std::vector<float>(4, 1.0f));
}
