#include "tests/support/oracle.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "base/error.h"
#include "engine/io/dequantise.h"
#include "tests/support/paths.h"

namespace expctr::test {
namespace {

std::string relative_name(const std::filesystem::path& folder) {
  const std::filesystem::path relative = folder.lexically_relative(oracle_root());
  return relative.empty() ? folder.string() : relative.string();
}

}  // namespace

std::vector<std::filesystem::path> case_folders(const std::filesystem::path& root, std::string_view file) {
  std::vector<std::filesystem::path> folders;
  if (!std::filesystem::is_directory(root)) return folders;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
    if (entry.is_regular_file() && entry.path().filename() == file) folders.push_back(entry.path().parent_path());
  }
  std::sort(folders.begin(), folders.end());
  return folders;
}

nlohmann::json read_json(const std::filesystem::path& path) { return nlohmann::json::parse(read_text(path)); }

std::vector<double> doubles(const SafetensorsFile& file, const std::string& name) {
  const TensorInfo& info = file.required_tensor(name);
  std::vector<double> values(static_cast<std::size_t>(info.elements()));
  if (info.dtype == DType::f64) {
    std::memcpy(values.data(), info.data, info.bytes);
  } else {
    std::vector<float> stored(values.size());
    dequantise_row(info.dtype, info.data, stored.data(), info.elements());
    values.assign(stored.begin(), stored.end());
  }
  return values;
}

std::vector<std::int32_t> integers(const SafetensorsFile& file, const std::string& name) {
  const TensorInfo& info = file.required_tensor(name);
  std::vector<std::int32_t> values;
  for (std::int64_t i = 0; i < info.elements(); ++i) {
    if (info.dtype == DType::i64) {
      std::int64_t value;
      std::memcpy(&value, info.data + i * 8, 8);
      values.push_back(static_cast<std::int32_t>(value));
    } else if (info.dtype == DType::i32) {
      std::int32_t value;
      std::memcpy(&value, info.data + i * 4, 4);
      values.push_back(value);
    } else {
      throw Error(fmt::format("{} holds {}", name, dtype_name(info.dtype)), "integers were expected");
    }
  }
  return values;
}

Shape shape_of(const SafetensorsFile& file, const std::string& name) { return Shape(file.required_tensor(name).shape); }

std::vector<double> doubles(const Tensor& tensor) {
  if (tensor.dtype() == DType::f64) return tensor.to_vector<double>();
  const std::vector<float> values = tensor.to_vector<float>();
  return {values.begin(), values.end()};
}

Tensor tensor_of(std::span<const double> values, const Shape& shape, DType dtype, Device device) {
  if (dtype == DType::f64) return Tensor::of(values, shape, device);
  return Tensor::of(std::vector<float>(values.begin(), values.end()), shape, device);
}

OracleReport::OracleReport(const std::filesystem::path& folder, std::string_view part) : name_(relative_name(folder)) {
  if (!part.empty()) name_ += fmt::format(":{}", part);
}

void OracleReport::note(const std::string& what, double error, double tolerance) {
  if (!(error <= tolerance) && failure_.empty()) failure_ = fmt::format("{} max_rel_err={:.3g} tol={:.3g}", what, error, tolerance);
  const double share = tolerance > 0.0 ? error / tolerance : (error > 0.0 ? 1e300 : 0.0);
  if (share >= worst_) {
    worst_ = share;
    worst_error_ = error;
    worst_tolerance_ = tolerance;
  }
}

void OracleReport::compare(const std::string& what, std::span<const double> got, std::span<const double> reference, double tolerance, double scale) {
  if (got.size() != reference.size()) {
    if (failure_.empty()) failure_ = fmt::format("{}: {} values, expected {}", what, got.size(), reference.size());
    return;
  }
  double most = scale, error = 0.0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    most = std::max(most, std::abs(reference[i]));
    const double difference = std::abs(got[i] - reference[i]);
    error = std::isfinite(difference) ? std::max(error, difference) : INFINITY;
  }
  note(what, most > 0.0 ? error / most : error, tolerance);
}

void OracleReport::compare_absolute(const std::string& what, std::span<const double> got, std::span<const double> reference, double tolerance) {
  if (got.size() != reference.size()) {
    if (failure_.empty()) failure_ = fmt::format("{}: {} values, expected {}", what, got.size(), reference.size());
    return;
  }
  double error = 0.0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double difference = std::abs(got[i] - reference[i]);
    error = std::isfinite(difference) ? std::max(error, difference) : INFINITY;
  }
  note(what, error, tolerance);
}

void OracleReport::require(const std::string& what, bool holds) {
  if (!holds && failure_.empty()) failure_ = what;
}

bool OracleReport::finish() {
  if (failure_.empty()) {
    std::printf("oracle %s ok max_rel_err=%.3g tol=%.3g\n", name_.c_str(), worst_error_, worst_tolerance_);
  } else {
    std::printf("oracle %s FAIL %s\n", name_.c_str(), failure_.c_str());
  }
  std::fflush(stdout);
  return failure_.empty();
}

void report_unsupported(const std::filesystem::path& folder, std::string_view what) {
  std::printf("oracle %s unsupported %s\n", relative_name(folder).c_str(), std::string(what).c_str());
  std::fflush(stdout);
}

}  // namespace expctr::test
