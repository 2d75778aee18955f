// A case of tests/oracles/ctr: hyper-parameters and tensors, and the comparison with its tolerance.
#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/core/tensor.h"
#include "engine/io/safetensors.h"

namespace expctr {

struct OracleCase {
  explicit OracleCase(const std::filesystem::path& folder);
  std::string name;
  nlohmann::json description;
  SafetensorsFile file;

  bool has(const std::string& tensor) const { return file.find_tensor(tensor) != nullptr; }
  Shape shape(const std::string& tensor) const;
  std::vector<double> values(const std::string& tensor) const;     ///< F64
  std::vector<std::int32_t> ids(const std::string& tensor) const;  ///< I64, narrowed
  /// Largest magnitude over all gradients of the case.
  double largest_gradient() const;
};

/// Largest difference divided by the scale: the largest magnitude of the reference, at least `floor`.
double relative_error(const std::vector<double>& got, const std::vector<double>& wanted, double floor);

/// Cases that field_models.cpp compares.
bool is_field_model_case(const std::string& name);

/// The values of an f32 or f64 tensor.
std::vector<double> as_doubles(const Tensor& tensor);

}  // namespace expctr
