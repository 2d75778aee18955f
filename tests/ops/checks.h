// What the modes of the op table check. Each function returns what is wrong, a line a fault; nothing means that all is well.
#pragma once

#include <string>
#include <vector>

#include "tests/ops/op_cases.h"

namespace expctr::test {

using Problems = std::vector<std::string>;

/// Where an op runs and how its activations are stored; parameters are f32 beside bf16.
struct Place {
  Device device;
  DType dtype;
};
/// cpu f64, f32, bf16 and, in builds with CUDA, cuda f32, bf16.
std::vector<Place> places();
std::string place_name(const Place& place);
/// Whether the case is to run there: neither the case nor its op says that the storage type has no meaning.
bool runs_at(const OpCase& c, const Place& place);

/// Largest error relative to the largest expected value, from storage type and length of sums alone.
/// f32, f64: rounding errors of a sum of n terms of random sign grow like sqrt(n); the constant covers elementwise functions of a few ulp.
/// bf16: values are computed in f32 and rounded to 8 bits when stored (half an ulp: 2^-9 of the value), and so may be one operand of an inner
/// product on tensor cores, and a gradient that adds to a stored one; their sum is below 4 roundings.
double tolerance(const Place& place, std::int64_t reduction);

/// The operands' values as they are stored in the place.
std::vector<Operand> rounded(std::vector<Operand> operands, DType dtype);
Tensor place_operand(const Operand& operand, const Place& place);
/// The same values as a strided view: columns cut out of rows that are longer, filled with NaN (-1 for ids) around, and axes exchanged.
Tensor strided_operand(const Operand& operand, const Place& place);
std::vector<double> values_of(const Tensor& tensor);

/// The output against the reference on the stored operands.
Problems check_values(const OpCase& c, const Place& place);

/// Gradients: on cpu f64 against finite differences of the reference (the full Jacobian where operand and output have at most 64 elements,
/// else every element or a random direction of a random weighting); elsewhere against cpu f64 at the same stored operands. Of ops that do not
/// exist in f64, cpu f32 is compared with finite differences and the other places with cpu f32.
Problems check_gradients(const OpCase& c, const Place& place);

/// Strided operands give the bits of dense ones, forward and backward, and no gradient outside of the view.
Problems check_strided(const OpCase& c, const Place& place);

/// One thread and two give the same bits on the CPU, forward and backward.
Problems check_threads(const OpCase& c);

/// How an op stands in one place.
enum class Support { yes, no_gradient, meaningless, hole };
struct SupportEntry {
  Support support = Support::hole;
  std::string problem;  ///< of a hole
};
/// One case of the op there, forward and backward. `table`: all cases.
SupportEntry check_support(const std::string& op, const std::vector<OpCase>& table, const Place& place);

/// Runs a check with memory poisoned and guarded, and reports writes outside of tensors and exceptions as problems too.
template <class Check>
Problems guarded(const std::string& what, const Check& check);

/// Implementation of `guarded`.
Problems run_guarded(const std::string& what, const std::function<Problems()>& check);
template <class Check>
Problems guarded(const std::string& what, const Check& check) {
  return run_guarded(what, [&] { return check(); });
}

}  // namespace expctr::test
