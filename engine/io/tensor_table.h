// The tensors of a model file: names, types, shapes and where their bytes lie. Shared by the GGUF and safetensors readers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/dtype.h"

namespace expctr {

/// One tensor inside a mapped file. `data` may be unaligned (a file decides that): read through memcpy or byte-wise blocks.
/// It is valid as long as the reader, or a copy of it, lives.
struct TensorInfo {
  std::string name;
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;  ///< outermost extent first, as in row-major storage
  const std::byte* data = nullptr;
  std::size_t bytes = 0;

  std::int64_t elements() const {
    std::int64_t n = 1;
    for (const std::int64_t extent : shape) n *= extent;
    return n;
  }
};

/// A tensor whose element type this program does not compute with: listed, so that `inspect` can name it, but not readable.
struct UnsupportedTensor {
  std::string name, type;
};

class TensorTable {
 public:
  /// Throws InputError when the name is there already.
  void add(TensorInfo tensor, const std::string& file);
  void add_unsupported(std::string name, std::string type, const std::string& file);

  const std::vector<TensorInfo>& tensors() const { return tensors_; }
  const std::vector<UnsupportedTensor>& unsupported() const { return unsupported_; }

  /// Null when there is no such tensor. Throws InputError when it is there with an unsupported element type.
  const TensorInfo* find(std::string_view name, const std::string& file) const;
  /// Throws InputError naming file and tensor when it is missing or unsupported.
  const TensorInfo& required(std::string_view name, const std::string& file) const;

 private:
  void claim(const std::string& name, std::int64_t index, const std::string& file);

  std::vector<TensorInfo> tensors_;
  std::vector<UnsupportedTensor> unsupported_;
  std::unordered_map<std::string, std::int64_t> index_;  ///< >= 0: tensors_, below: unsupported_[-1 - index]
};

}  // namespace expctr
