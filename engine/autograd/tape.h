// Reverse-mode differentiation: a tape of coarse operations, replayed backwards.
#pragma once

#include <functional>
#include <initializer_list>
#include <span>
#include <string>
#include <vector>

#include "engine/core/tensor.h"

namespace expctr {

/// Gradients of an operation's inputs during backward: slots[i] is the buffer to add to, undefined for a frozen input.
class GradientSlots {
 public:
  explicit GradientSlots(std::span<const Tensor> inputs) : inputs_(inputs) {}
  Tensor operator[](std::size_t i) const { return inputs_[i].gradient(); }
  /// The input itself: for ops that add to a row gradient.
  const Tensor& input(std::size_t i) const { return inputs_[i]; }

 private:
  std::span<const Tensor> inputs_;
};

using BackwardFunction = std::function<void(const Tensor& dy, const GradientSlots& slots)>;

/// While a Tape is alive on a thread, operations on tensors that require a gradient are recorded on it. Tapes do not nest.
class Tape {
 public:
  Tape();
  ~Tape();
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  /// Adds d loss / d leaf to the gradient of every leaf; loss has one element. The tape is empty afterwards. Intermediate gradients and saved tensors are freed as soon as
  /// they have been used.
  void backward(const Tensor& loss);
  /// The same from several outputs with given gradients.
  void backward(std::span<const Tensor> outputs, std::span<const Tensor> gradients);

  /// Called during backward for every leaf that an op of this tape reads, once, after the last op that may add to its gradient has run (or
  /// has been skipped, when no path from the loss leads there): the gradient is final. The handle is the leaf that require_gradient() was
  /// called on. The order depends on the recorded ops only.
  void on_ready(std::function<void(const Tensor& leaf)> callback) { ready_ = std::move(callback); }

  static bool recording();

 private:
  friend Tensor record(const char*, Tensor, std::span<const Tensor>, BackwardFunction);
  struct Entry {
    const char* name;
    Tensor output;
    std::vector<Tensor> inputs;
    BackwardFunction backward;
  };
  void replay();
  std::vector<Entry> entries_;
  std::function<void(const Tensor&)> ready_;
};

/// Called by operations: marks y as requiring a gradient and puts `backward` on the tape when a tape is alive and an input requires one; returns y.
Tensor record(const char* name, Tensor y, std::span<const Tensor> inputs, BackwardFunction backward);
inline Tensor record(const char* name, Tensor y, std::initializer_list<Tensor> inputs, BackwardFunction backward) {
  return record(name, std::move(y), std::span<const Tensor>(inputs.begin(), inputs.size()), std::move(backward));
}

class GradientProbe;

/// Switches recording off while alive.
class NoGradient {
 public:
  NoGradient();
  ~NoGradient();
  NoGradient(const NoGradient&) = delete;
  NoGradient& operator=(const NoGradient&) = delete;

 private:
  Tape* saved_;
  GradientProbe* saved_probe_;
};

/// Switches recording off and collects what would have been recorded: the tensors requiring a gradient that ops have read meanwhile, each
/// gradient once.
class GradientProbe : NoGradient {
 public:
  GradientProbe();
  const std::vector<Tensor>& inputs() const { return inputs_; }

 private:
  friend Tensor record(const char*, Tensor, std::span<const Tensor>, BackwardFunction);
  std::vector<Tensor> inputs_;
};

}  // namespace expctr
