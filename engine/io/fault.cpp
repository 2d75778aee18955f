#include "engine/io/fault.h"

#include <cerrno>
#include <string>

#include "base/error.h"

namespace expctr {

struct ScopedFault::State {
  FaultPlan plan;
  int seen = 0;
  bool fired = false;
  State* before = nullptr;
};

namespace {

std::mutex gate;
void* active = nullptr;  // a ScopedFault::State, whose type is private

}  // namespace

ScopedFault::ScopedFault(const FaultPlan& plan) : state_(new State{plan, 0, false, nullptr}) {
  const std::lock_guard lock(gate);
  state_->before = static_cast<State*>(active);
  active = state_;
}

ScopedFault::~ScopedFault() {
  const std::lock_guard lock(gate);
  active = state_->before;
  delete state_;
}

int ScopedFault::operations() const {
  const std::lock_guard lock(gate);
  return state_->seen;
}

bool ScopedFault::fired() const {
  const std::lock_guard lock(gate);
  return state_->fired;
}

FaultVerdict FaultGate::ask(FileOperation operation) {
  const std::lock_guard lock(gate);
  auto* state = static_cast<ScopedFault::State*>(active);
  if (state == nullptr) return {};
  const FaultPlan& plan = state->plan;
  if (plan.operation && *plan.operation != operation) return {};
  ++state->seen;
  if (state->seen < plan.nth || (state->seen > plan.nth && !plan.sticky)) return {};
  state->fired = true;
  return {plan.error, plan.kill};
}

FaultPlan parse_fault(std::string_view text) {
  const auto refuse = [&] {
    return UsageError(fmt::format("EXPCTR_FAULT is '{}'", text), "write <write|fsync|rename|any>:<n>:<enospc|eio|kill>");
  };
  const std::size_t first = text.find(':');
  const std::size_t second = first == std::string_view::npos ? first : text.find(':', first + 1);
  if (second == std::string_view::npos) throw refuse();
  const std::string_view operation = text.substr(0, first), action = text.substr(second + 1);
  const std::string number(text.substr(first + 1, second - first - 1));
  FaultPlan plan;
  if (operation == "write") {
    plan.operation = FileOperation::write;
  } else if (operation == "fsync") {
    plan.operation = FileOperation::fsync;
  } else if (operation == "rename") {
    plan.operation = FileOperation::rename;
  } else if (operation != "any") {
    throw refuse();
  }
  if (number.empty() || number.size() > 8 || number.find_first_not_of("0123456789") != std::string::npos) throw refuse();
  plan.nth = std::stoi(number);
  if (action == "enospc") {
    plan.error = ENOSPC;
  } else if (action == "eio") {
    plan.error = EIO;
  } else if (action == "kill") {
    plan.kill = true;
  } else {
    throw refuse();
  }
  return plan;
}

}  // namespace expctr
