// One table of op cases, run in every place (cpu f64, f32, bf16; cuda f32, bf16): values against a float64 reference, gradients against
// finite differences, strided operands, memory guards around every output, the messages of wrong shapes, and which op is there at all.
// A file a family: tests/ops/<family>.cpp. What is checked: tests/ops/checks.h.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "engine/core/tensor.h"

namespace expctr::test {

/// One operand of a case, as float64 values or as integers.
struct Operand {
  Shape shape;
  std::vector<double> values;       ///< floating operand
  std::vector<std::int32_t> ids;    ///< integer operand (values is empty then)
  bool integer = false;
  bool differentiable = true;       ///< a gradient with respect to it is checked
  bool parameter = false;           ///< stays f32 beside bf16 activations: a weight, a table, statistics, labels
};

/// Uniform in [low, high), the same for the same seed.
Operand uniform(const Shape& shape, double low = -1.0, double high = 1.0, std::uint64_t seed = 1);
Operand constant(Operand operand);                                  ///< no gradient is checked
Operand parameter(Operand operand);                                 ///< a gain, bias, table or label: f32 in the bf16 places
Operand integers(const Shape& shape, std::vector<std::int32_t> ids);

using Operation = std::function<Tensor(std::span<const Tensor>)>;   ///< one floating output
using Reference = std::function<std::vector<double>(std::span<const Operand>)>;

struct OpCase {
  std::string op, label;
  std::vector<Operand> operands;
  Operation run;
  Reference reference;              ///< flat output values; written out as plain loops in double
  std::int64_t reduction = 1;       ///< length of the longest sum behind one output or gradient element: tolerances grow with its square root
  double magnitude = 0.0;           ///< size of the terms that cancel inside the op (x - mean, say): errors are measured against no less
  bool float64 = true;              ///< the case can run in f64 on the CPU
  bool bf16 = true;                 ///< the case can run with bf16 activations
};

/// An op that has no meaning in a storage type, and why; elsewhere a place without the op is a hole.
struct Exemption {
  std::string op;
  DType dtype;
  std::string reason;
};

struct ErrorCase {
  std::string op;
  std::function<void()> run;
  std::string message;              ///< must be contained in what()
};

/// Collects the cases of one op. Filled by OP_CASES(op) { add_case(...); add_error(...); }.
class CaseTable {
 public:
  static CaseTable& instance();
  void begin(std::string op) { op_ = std::move(op); }
  OpCase& add(std::string label, std::vector<Operand> operands, Operation run, Reference reference, std::int64_t reduction = 1);
  void add_error(std::function<void()> run, std::string message);
  void add_exemption(DType dtype, std::string reason) { exemptions_.push_back({op_, dtype, std::move(reason)}); }
  const std::vector<Exemption>& exemptions() const { return exemptions_; }
  const Exemption* exemption(const std::string& op, DType dtype) const;
  const std::vector<OpCase>& cases() const { return cases_; }
  const std::vector<ErrorCase>& errors() const { return errors_; }

 private:
  std::string op_;
  std::vector<OpCase> cases_;
  std::vector<ErrorCase> errors_;
  std::vector<Exemption> exemptions_;
};

inline OpCase& add_case(std::string label, std::vector<Operand> operands, Operation run, Reference reference, std::int64_t reduction = 1) {
  return CaseTable::instance().add(std::move(label), std::move(operands), std::move(run), std::move(reference), reduction);
}
inline void add_error(std::function<void()> run, std::string message) { CaseTable::instance().add_error(std::move(run), std::move(message)); }
/// f64 or bf16 has no meaning for the op: its places are not tested and no hole.
inline void meaningless(DType dtype, std::string reason) { CaseTable::instance().add_exemption(dtype, std::move(reason)); }

struct CaseRegistration {
  CaseRegistration(const char* op, void (*fill)()) {
    CaseTable::instance().begin(op);
    fill();
  }
};

// The only way to let a test file name the op it belongs to so that the build can check the four places as text.
#define OP_CASES(op)                                                         \
  static void fill_##op();                                                   \
  static const expctr::test::CaseRegistration registration_##op(#op, fill_##op); \
  static void fill_##op()

}  // namespace expctr::test
