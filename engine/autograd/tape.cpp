#include "engine/autograd/tape.h"

#include <fmt/format.h>

#include <utility>

#include "base/error.h"

namespace expctr {
namespace {

thread_local Tape* current_tape = nullptr;

}  // namespace

Tape::Tape() {
  if (current_tape != nullptr) throw Error("a tape is already alive on this thread", "end its scope first");
  current_tape = this;
}

Tape::~Tape() {
  if (current_tape == this) current_tape = nullptr;
}

bool Tape::recording() { return current_tape != nullptr; }

void Tape::backward(const Tensor& loss) {
  if (loss.size() != 1) throw ShapeError(fmt::format("backward: the loss is {}", loss.shape().text()), "reduce it to one element");
  if (!loss.requires_gradient()) throw Error("backward: the loss does not depend on any tensor that requires a gradient", "mark the parameters with require_gradient()");
  loss.gradient().fill(1.0);
  replay();
}

void Tape::backward(std::span<const Tensor> outputs, std::span<const Tensor> gradients) {
  for (std::size_t i = 0; i < outputs.size(); ++i) outputs[i].gradient().copy_from(gradients[i]);
  replay();
}

void Tape::replay() {
  current_tape = nullptr;  // nothing inside backward functions is recorded
  while (!entries_.empty()) {
    Entry entry = std::move(entries_.back());
    entries_.pop_back();
    if (!entry.output.has_gradient()) continue;  // no path from the loss
    entry.backward(entry.output.gradient(), GradientSlots(entry.inputs));
    entry.output.clear_gradient();
  }
  current_tape = this;
}

Tensor record(const char* name, Tensor y, std::span<const Tensor> inputs, BackwardFunction backward) {
  if (current_tape == nullptr) return y;
  bool wanted = false;
  for (const Tensor& input : inputs) wanted = wanted || input.requires_gradient();
  if (!wanted) return y;
  y.require_gradient();
  current_tape->entries_.push_back({name, y, std::vector<Tensor>(inputs.begin(), inputs.end()), std::move(backward)});
  return y;
}

NoGradient::NoGradient() : saved_(std::exchange(current_tape, nullptr)) {}
NoGradient::~NoGradient() { current_tape = saved_; }

}  // namespace expctr
