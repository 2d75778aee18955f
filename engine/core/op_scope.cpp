#include "engine/core/op_scope.h"

#include <fmt/format.h>

namespace expctr {
namespace {

thread_local const OpScope* innermost = nullptr;

}  // namespace

OpScope::OpScope(const char* op, const char* suffix, std::span<const Tensor> operands)
    : op_(op), suffix_(suffix), listed_(operands), outer_(innermost) {
  innermost = this;
}

OpScope::~OpScope() { innermost = outer_; }

bool OpScope::dense() const {
  bool all = true;
  each([&](const Tensor& operand) { all = all && (!operand.defined() || operand.is_dense()); });
  return all;
}

std::string OpScope::text() {
  if (innermost == nullptr) return "";
  std::string list;
  innermost->each([&](const Tensor& operand) {
    if (!list.empty()) list += ", ";
    list += operand.defined() ? fmt::format("{} {}", dtype_name(operand.dtype()), operand.shape().text()) : "none";
  });
  return fmt::format("{}{}({}): ", innermost->op_, innermost->suffix_, list);
}

}  // namespace expctr
