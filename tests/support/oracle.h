// Reference values made by independent software: reading a case, comparing with it, and the line that is printed for each.
#pragma once

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/tensor.h"
#include "engine/io/safetensors.h"

namespace expctr::test {

/// Every folder below `root` that holds a file of this name, sorted. Empty when root is missing.
std::vector<std::filesystem::path> case_folders(const std::filesystem::path& root, std::string_view file);

nlohmann::json read_json(const std::filesystem::path& path);

/// A tensor of a safetensors file as doubles (floating) or integers.
std::vector<double> doubles(const SafetensorsFile& file, const std::string& name);
std::vector<std::int32_t> integers(const SafetensorsFile& file, const std::string& name);
Shape shape_of(const SafetensorsFile& file, const std::string& name);

/// Values of an f32 or f64 tensor.
std::vector<double> doubles(const Tensor& tensor);
/// A tensor of `dtype` from doubles.
Tensor tensor_of(std::span<const double> values, const Shape& shape, DType dtype, Device device = {});

/// Collects the comparisons of one case and prints its line: "oracle <path> ok max_rel_err=... tol=..." or "oracle <path> FAIL <what>".
class OracleReport {
 public:
  explicit OracleReport(const std::filesystem::path& folder, std::string_view part = "");
  /// Largest absolute difference over the largest magnitude of the reference (or `scale` when that is larger), against `tolerance`.
  void compare(const std::string& what, std::span<const double> got, std::span<const double> reference, double tolerance, double scale = 0.0);
  /// Largest absolute difference.
  void compare_absolute(const std::string& what, std::span<const double> got, std::span<const double> reference, double tolerance);
  void require(const std::string& what, bool holds);
  /// Prints the line and returns whether all held.
  bool finish();

 private:
  void note(const std::string& what, double error, double tolerance);
  std::string name_;
  double worst_ = 0.0, worst_error_ = 0.0, worst_tolerance_ = 0.0;
  std::string failure_;
};

/// Prints "oracle <path> unsupported <what>".
void report_unsupported(const std::filesystem::path& folder, std::string_view what);

}  // namespace expctr::test
