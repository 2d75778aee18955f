#include "tests/ctr/oracle_case.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "tests/support/paths.h"

namespace expctr {
namespace {

template <class T>
std::vector<T> raw(const TensorInfo& tensor) {
  std::vector<T> values(static_cast<std::size_t>(tensor.elements()));
  if (!values.empty()) std::memcpy(values.data(), tensor.data, values.size() * sizeof(T));
  return values;
}

}  // namespace

OracleCase::OracleCase(const std::filesystem::path& folder)
    : name(folder.filename().string()),
      description(nlohmann::json::parse(read_text(folder / "case.json"))),
      file(SafetensorsFile::open(folder / "tensors.safetensors")) {}

Shape OracleCase::shape(const std::string& tensor) const { return Shape(file.required_tensor(tensor).shape); }

std::vector<double> OracleCase::values(const std::string& tensor) const { return raw<double>(file.required_tensor(tensor)); }

std::vector<std::int32_t> OracleCase::ids(const std::string& tensor) const {
  const auto wide = raw<std::int64_t>(file.required_tensor(tensor));
  return std::vector<std::int32_t>(wide.begin(), wide.end());
}

double OracleCase::largest_gradient() const {
  double largest = 0;
  for (const TensorInfo& tensor : file.tensors()) {
    if (!tensor.name.starts_with("grad.")) continue;
    for (const double value : raw<double>(tensor)) largest = std::max(largest, std::abs(value));
  }
  return largest;
}

double relative_error(const std::vector<double>& got, const std::vector<double>& wanted, double floor) {
  if (got.size() != wanted.size()) return std::numeric_limits<double>::infinity();
  double scale = floor, error = 0;
  for (const double value : wanted) scale = std::max(scale, std::abs(value));
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double difference = std::abs(got[i] - wanted[i]);
    if (!(difference <= error)) error = difference;  // NaN too
  }
  return error == 0 ? 0 : error / scale;
}

std::vector<double> as_doubles(const Tensor& tensor) {
  const Tensor host = tensor.to(cpu_device);
  if (host.dtype() == DType::f64) return host.to_vector<double>();
  const auto values = host.to_vector<float>();
  return std::vector<double>(values.begin(), values.end());
}

}  // namespace expctr
