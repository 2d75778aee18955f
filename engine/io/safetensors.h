// safetensors: named tensors in one file or in a folder of shards.
// Source: format description of the safetensors project: u64 header length, JSON header, raw little-endian data.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/io/mapped_file.h"
#include "engine/io/tensor_table.h"

namespace expctr {

/// A mapped safetensors file, or the shards of a folder. Checked on opening, before use: header length (at most 100 MB), depth and keys of
/// the JSON, element types, shapes and the overflow of their product, offsets inside the file and in agreement with the shape, names that
/// are there twice, overlaps. As the format demands, the tensors cover the data section without gaps: a gap is an error. BOOL is read as
/// u8, where any value but 0 means true. Element types beyond F64, F32, F16, BF16, I64, I32, U8 and BOOL are listed as unsupported. Throws
/// InputError naming file and tensor. Copies share the mapping.
class SafetensorsFile {
 public:
  /// A .safetensors file; a folder with model.safetensors.index.json (its weight_map names every tensor's shard) or model.safetensors; or
  /// the index file itself.
  static SafetensorsFile open(const std::filesystem::path& path);

  const std::string& path() const { return path_; }
  const std::vector<TensorInfo>& tensors() const { return table_.tensors(); }
  const std::vector<UnsupportedTensor>& unsupported() const { return table_.unsupported(); }
  /// Null when missing; InputError when its type is not supported.
  const TensorInfo* find_tensor(std::string_view name) const { return table_.find(name, path_); }
  const TensorInfo& required_tensor(std::string_view name) const { return table_.required(name, path_); }
  /// The free texts under __metadata__ (of all shards).
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  void read_file(const std::filesystem::path& path, const std::map<std::string, std::string>* wanted_shard);
  void read_shards(const std::filesystem::path& index);

  std::string path_;
  std::vector<std::shared_ptr<const MappedFile>> mappings_;
  TensorTable table_;
  std::map<std::string, std::string> metadata_;
};

/// What the writer needs of a tensor: dense, row-major, host memory.
struct TensorBytes {
  std::string name;
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;
  const void* data = nullptr;
};

/// The bytes of a safetensors file. Deterministic: tensors by element size, largest first, then by name, so that each is aligned to its
/// element size; the header is padded with blanks to a multiple of 8. Throws Error for block formats and for a name given twice.
std::string serialise_safetensors(std::span<const TensorBytes> tensors, const std::map<std::string, std::string>& metadata = {});

}  // namespace expctr
