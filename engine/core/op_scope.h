// Which op is at work on this thread, so that an error from below names it and its operands.
#pragma once

#include <array>
#include <concepts>
#include <span>
#include <string>

#include "engine/core/tensor.h"

namespace expctr {

/// Stands at the entry of every op:
///     const OpScope scope("rms_norm", x, gain);
///     if (!scope.dense()) return rms_norm(dense(x), dense(gain), epsilon);
/// While alive, an allocation that fails on this thread says "rms_norm(f32 [3, 7], f32 [7]): ...". Scopes nest; the innermost is named.
/// The operands outlive the scope.
class OpScope {
 public:
  template <std::same_as<Tensor>... Operands>
  explicit OpScope(const char* op, const Operands&... operands) : OpScope(op, "", {}) {
    static_assert(sizeof...(operands) <= most_operands);
    (append(operands), ...);
  }
  OpScope(const char* op, std::span<const Tensor> operands) : OpScope(op, "", operands) {}
  /// `suffix` follows the name: " backward".
  OpScope(const char* op, const char* suffix, std::span<const Tensor> operands);
  ~OpScope();
  OpScope(const OpScope&) = delete;
  OpScope& operator=(const OpScope&) = delete;

  /// Every operand is dense, or undefined.
  bool dense() const;

  /// "rms_norm(f32 [3, 7], f32 [7]): " of this thread's innermost scope; empty outside of all ops.
  static std::string text();

 private:
  static constexpr int most_operands = 10;
  void append(const Tensor& operand) { single_[static_cast<std::size_t>(singles_++)] = &operand; }
  template <class Visit>
  void each(Visit visit) const {
    for (const Tensor& operand : listed_) visit(operand);
    for (int i = 0; i < singles_; ++i) visit(*single_[static_cast<std::size_t>(i)]);
  }

  const char* op_;
  const char* suffix_;
  std::span<const Tensor> listed_;
  std::array<const Tensor*, most_operands> single_;
  int singles_ = 0;
  const OpScope* outer_;
};

}  // namespace expctr
