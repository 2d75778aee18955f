#include "models/parameters.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <numbers>

#include "base/error.h"
#include "base/philox.h"
#include "engine/io/sha256.h"

namespace expctr {
namespace {

// `draw` turns four words of random bits into two values.
template <class Draw>
Tensor drawn(const Initialiser& from, std::string_view name, const Shape& shape, Draw draw) {
  const RandomKey key = random_key(from.seed, "init/" + std::string(name));
  std::vector<double> values(static_cast<std::size_t>(shape.size()));
  for (std::size_t i = 0; i < values.size(); i += 2) {
    const std::uint64_t block = i / 2;
    const RandomBits bits = philox(key, {static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32), 0, 0});
    const auto pair = draw(uniform_double(bits.word[0], bits.word[1]), uniform_double(bits.word[2], bits.word[3]));
    values[i] = pair.first;
    if (i + 1 < values.size()) values[i + 1] = pair.second;
  }
  if (from.dtype == DType::f64) return Tensor::of(values, shape, from.device);
  if (from.dtype != DType::f32)
    throw Error(fmt::format("parameters of type {} are not initialised here", dtype_name(from.dtype)), "f32 or f64");
  return Tensor::of(std::vector<float>(values.begin(), values.end()), shape, from.device);
}

std::vector<std::byte> host_bytes(const Tensor& tensor) {
  const Tensor host = tensor.detached().to(cpu_device);
  std::vector<std::byte> bytes(host.bytes());
  if (!bytes.empty()) std::memcpy(bytes.data(), host.data(), bytes.size());
  return bytes;
}

std::vector<std::int64_t> extents(const Shape& shape) {
  std::vector<std::int64_t> result;
  for (int i = 0; i < shape.rank(); ++i) result.push_back(shape[i]);
  return result;
}

}  // namespace

Tensor Initialiser::normal(std::string_view name, const Shape& shape, double deviation) const {
  return drawn(*this, name, shape, [deviation](double u, double v) {
    const double radius = deviation * std::sqrt(-2.0 * std::log1p(-u)), angle = 2.0 * std::numbers::pi * v;
    return std::pair(radius * std::cos(angle), radius * std::sin(angle));
  });
}

Tensor Initialiser::uniform(std::string_view name, const Shape& shape, double bound) const {
  return drawn(*this, name, shape, [bound](double u, double v) { return std::pair(bound * (2.0 * u - 1.0), bound * (2.0 * v - 1.0)); });
}

Tensor Initialiser::xavier_normal(std::string_view name, std::int64_t outputs, std::int64_t inputs) const {
  return normal(name, {outputs, inputs}, std::sqrt(2.0 / static_cast<double>(inputs + outputs)));
}

Tensor Initialiser::xavier_uniform(std::string_view name, std::int64_t outputs, std::int64_t inputs) const {
  return uniform(name, {outputs, inputs}, std::sqrt(6.0 / static_cast<double>(inputs + outputs)));
}

Tensor Initialiser::kaiming_uniform(std::string_view name, const Shape& shape, std::int64_t fan_in) const {
  return uniform(name, shape, 1.0 / std::sqrt(static_cast<double>(fan_in)));
}

Tensor Initialiser::constant(const Shape& shape, double value) const {
  Tensor tensor = Tensor::zeros(shape, dtype, device);
  if (value != 0.0) tensor.fill(value);
  return tensor;
}

std::string hash_of(const std::vector<NamedTensor>& tensors) {
  Sha256 hash;
  for (const auto& [name, tensor] : tensors) {
    const std::string head = fmt::format("{}|{}|{}|", name, dtype_name(tensor.dtype()), tensor.shape().text());
    hash.update(as_bytes(head));
    hash.update(host_bytes(tensor));
  }
  return hash.hex();
}

std::vector<NamedTensor> snapshot(const std::vector<NamedTensor>& tensors) {
  std::vector<NamedTensor> result;
  for (const auto& [name, tensor] : tensors) result.push_back({name, tensor.detached().clone()});
  return result;
}

void restore(const std::vector<NamedTensor>& tensors, const std::vector<NamedTensor>& values) {
  if (tensors.size() != values.size()) throw Error(fmt::format("restore: {} values for {} tensors", values.size(), tensors.size()));
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].name != values[i].name)
      throw Error(fmt::format("restore: '{}' where '{}' was expected", values[i].name, tensors[i].name));
    tensors[i].tensor.copy_from(values[i].tensor);
  }
}

void write_tensors(CheckpointWriter& checkpoint, std::string_view prefix, const std::vector<NamedTensor>& tensors) {
  for (const auto& [name, tensor] : tensors) {
    const std::vector<std::byte> bytes = host_bytes(tensor);
    checkpoint.add({fmt::format("{}{}", prefix, name), tensor.dtype(), extents(tensor.shape()), bytes});
  }
}

void read_tensors(const Checkpoint& checkpoint, std::string_view prefix, const std::vector<NamedTensor>& tensors) {
  for (const auto& [name, tensor] : tensors) {
    const NamedBlob& blob = checkpoint.tensor(fmt::format("{}{}", prefix, name));
    if (blob.dtype != tensor.dtype() || blob.shape != extents(tensor.shape())) {
      throw InputError(fmt::format("{}: tensor '{}' is {} {}, expected {} {}", checkpoint.folder().string(), blob.name,
                                   dtype_name(blob.dtype), Shape(blob.shape).text(), dtype_name(tensor.dtype()), tensor.shape().text()),
                       "the checkpoint belongs to another configuration");
    }
    tensor.copy_from(Tensor::of_bytes(blob.bytes, tensor.shape(), tensor.dtype()));
  }
}

}  // namespace expctr
