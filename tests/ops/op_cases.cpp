#include "tests/ops/op_cases.h"

#include "base/philox.h"

namespace expctr::test {

Operand uniform(const Shape& shape, double low, double high, std::uint64_t seed) {
  Operand operand;
  operand.shape = shape;
  const RandomKey key = random_key(seed, "op cases");
  for (std::int64_t i = 0; i < shape.size(); ++i) {
    const RandomBits bits = philox(key, {static_cast<std::uint32_t>(i), 0, 0, 0});
    operand.values.push_back(low + (high - low) * uniform_double(bits.word[0], bits.word[1]));
  }
  return operand;
}

Operand constant(Operand operand) {
  operand.differentiable = false;
  return operand;
}

Operand parameter(Operand operand) {
  operand.parameter = true;
  return operand;
}

Operand integers(const Shape& shape, std::vector<std::int32_t> ids) {
  Operand operand;
  operand.shape = shape;
  operand.ids = std::move(ids);
  operand.integer = true;
  operand.differentiable = false;
  return operand;
}

CaseTable& CaseTable::instance() {
  static CaseTable table;
  return table;
}

OpCase& CaseTable::add(std::string label, std::vector<Operand> operands, Operation run, Reference reference, std::int64_t reduction) {
  OpCase added;
  added.op = op_;
  added.label = std::move(label);
  added.operands = std::move(operands);
  added.run = std::move(run);
  added.reference = std::move(reference);
  added.reduction = reduction;
  cases_.push_back(std::move(added));
  return cases_.back();
}

const Exemption* CaseTable::exemption(const std::string& op, DType dtype) const {
  for (const Exemption& exemption : exemptions_)
    if (exemption.op == op && exemption.dtype == dtype) return &exemption;
  return nullptr;
}

void CaseTable::add_error(std::function<void()> run, std::string message) { errors_.push_back({op_, std::move(run), std::move(message)}); }

}  // namespace expctr::test
