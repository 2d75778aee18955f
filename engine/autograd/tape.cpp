#include "engine/autograd/tape.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "base/error.h"
#include "engine/core/op_scope.h"

namespace expctr {
namespace {

thread_local Tape* current_tape = nullptr;
thread_local GradientProbe* current_probe = nullptr;

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
  {
    const OpScope scope("backward", loss);
    loss.gradient().fill(1.0);
  }
  replay();
}

void Tape::backward(std::span<const Tensor> outputs, std::span<const Tensor> gradients) {
  {
    const OpScope scope("backward", outputs);
    for (std::size_t i = 0; i < outputs.size(); ++i) outputs[i].gradient().copy_from(gradients[i]);
  }
  replay();
}

namespace {

// Counts, per gradient, the ops that may still add to it; gradients of recorded outputs are not leaves.
class Writers {
 public:
  void read(std::span<const Tensor> inputs) {
    for (const Tensor& input : inputs)
      if (input.requires_gradient()) ++left_[input.gradient_identity()];
  }
  void write(const Tensor& output) { made_.insert(output.gradient_identity()); }
  // One op has run: calls `ready` for the leaves whose last one it was.
  template <class Ready>
  void done(std::span<const Tensor> inputs, const Ready& ready) {
    for (const Tensor& input : inputs)
      if (input.requires_gradient() && --left_[input.gradient_identity()] == 0 && !made_.contains(input.gradient_identity())) ready(input.gradient_owner());
  }

 private:
  std::unordered_map<const void*, std::size_t> left_;
  std::unordered_set<const void*> made_;
};

}  // namespace

void Tape::replay() {
  // Nothing inside backward functions is recorded. After an exception the tape is empty, and alive as before.
  struct Restore {
    Tape* tape;
    explicit Restore(Tape* t) : tape(t) { current_tape = nullptr; }
    ~Restore() {
      tape->entries_.clear();
      current_tape = tape;
    }
  } restore(this);
  Writers writers;
  if (ready_) {
    for (const Entry& entry : entries_) {
      writers.read(entry.inputs);
      writers.write(entry.output);
    }
  }
  while (!entries_.empty()) {
    Entry entry = std::move(entries_.back());
    entries_.pop_back();
    if (entry.output.has_gradient()) {  // else no path from the loss
      const OpScope scope(entry.name, " backward", entry.inputs);
      entry.backward(entry.output.gradient(), GradientSlots(entry.inputs));
      entry.output.clear_gradient();
    }
    if (ready_) writers.done(entry.inputs, ready_);
  }
}

Tensor record(const char* name, Tensor y, std::span<const Tensor> inputs, BackwardFunction backward) {
  if (current_tape == nullptr && current_probe == nullptr) return y;
  bool wanted = false;
  for (const Tensor& input : inputs) {
    wanted = wanted || input.requires_gradient();
    if (current_tape == nullptr && input.requires_gradient()) {
      auto& seen = current_probe->inputs_;
      if (std::none_of(seen.begin(), seen.end(), [&](const Tensor& other) { return other.shares_gradient(input); })) seen.push_back(input);
    }
  }
  if (current_tape == nullptr || !wanted) return y;
  y.require_gradient();
  current_tape->entries_.push_back({name, y, std::vector<Tensor>(inputs.begin(), inputs.end()), std::move(backward)});
  return y;
}

NoGradient::NoGradient() : saved_(std::exchange(current_tape, nullptr)), saved_probe_(std::exchange(current_probe, nullptr)) {}
NoGradient::~NoGradient() {
  current_tape = saved_;
  current_probe = saved_probe_;
}

GradientProbe::GradientProbe() { current_probe = this; }

}  // namespace expctr
