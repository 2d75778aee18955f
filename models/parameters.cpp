#include "models/parameters.h"

#include <fmt/format.h>

#include <cstring>

#include "base/error.h"
#include "engine/io/sha256.h"

namespace expctr {
namespace {

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
