// GGUF files, versions 2 and 3, little-endian: metadata and tensors of a language model.
// Source: GGUF specification of ggml (docs/gguf.md there).
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/io/mapped_file.h"
#include "engine/io/tensor_table.h"

namespace expctr {

/// Value types of GGUF metadata, with the numbers of the file format.
enum class GgufType : std::uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

const char* gguf_type_name(GgufType type);

/// A GGUF file, mapped. Opening checks everything: every count against the bytes that are left before anything is allocated, every
/// length and offset, strings, nested arrays (at most 4 deep), alignment, extents and their product, duplicate keys and tensor names,
/// tensors outside the file or overlapping. Throws InputError naming file, key or tensor, and offset. Copies share the mapping.
class GgufFile {
 public:
  static GgufFile open(const std::filesystem::path& path);

  const std::string& path() const { return path_; }
  std::uint32_t version() const { return version_; }

  /// Keys in the order of the file.
  const std::vector<std::string>& keys() const { return keys_; }
  bool has(std::string_view key) const;
  /// Type of the value, of the elements for an array; number of elements (1 for a scalar). Throws InputError for a missing key.
  GgufType type(std::string_view key) const;
  std::uint64_t count(std::string_view key) const;

  /// Empty when the key is missing. Throws InputError when the value has another type or does not fit. Integers of any width are taken
  /// where an integer is asked for, f64 where f32 is.
  std::optional<std::uint32_t> find_u32(std::string_view key) const;
  std::optional<std::int64_t> find_i64(std::string_view key) const;
  std::optional<float> find_f32(std::string_view key) const;
  std::optional<bool> find_bool(std::string_view key) const;
  std::optional<std::string> find_string(std::string_view key) const;
  std::optional<std::vector<std::string>> find_string_array(std::string_view key) const;
  std::optional<std::vector<float>> find_f32_array(std::string_view key) const;
  std::optional<std::vector<std::int32_t>> find_i32_array(std::string_view key) const;

  /// As above, but a missing key is an InputError naming file and key.
  std::uint32_t required_u32(std::string_view key) const;
  float required_f32(std::string_view key) const;
  std::string required_string(std::string_view key) const;
  std::vector<std::string> required_string_array(std::string_view key) const;
  std::vector<float> required_f32_array(std::string_view key) const;
  std::vector<std::int32_t> required_i32_array(std::string_view key) const;

  /// Tensors of supported types, in the order of the file; shapes are GGUF's extents reversed: [rows, width].
  const std::vector<TensorInfo>& tensors() const { return table_.tensors(); }
  const std::vector<UnsupportedTensor>& unsupported() const { return table_.unsupported(); }
  /// Null when missing; InputError when its type is not supported.
  const TensorInfo* find_tensor(std::string_view name) const { return table_.find(name, path_); }
  const TensorInfo& required_tensor(std::string_view name) const { return table_.required(name, path_); }

 private:
  friend class GgufParser;
  struct Value {
    GgufType type = GgufType::u8;  ///< of the elements for an array
    bool is_array = false;
    std::uint64_t count = 1;
    const std::byte* data = nullptr;  ///< first element
  };

  GgufFile() = default;
  const Value* find(std::string_view key) const;
  [[noreturn]] void wrong_type(std::string_view key, const Value& value, const char* wanted) const;
  [[noreturn]] void missing(std::string_view key) const;
  std::int64_t integer(std::string_view key, const Value& value, std::uint64_t index) const;
  double real(std::string_view key, const Value& value, std::uint64_t index) const;
  const Value* scalar(std::string_view key, const char* wanted) const;
  const Value* array(std::string_view key, const char* wanted) const;

  std::string path_;
  std::shared_ptr<const MappedFile> mapping_;
  std::uint32_t version_ = 0;
  std::vector<std::string> keys_;
  std::unordered_map<std::string, Value> values_;
  TensorTable table_;
};

}  // namespace expctr
