#include "engine/io/tensor_table.h"

#include <fmt/format.h>

#include <utility>

#include "base/error.h"
#include "engine/io/quoted.h"

namespace expctr {

void TensorTable::claim(const std::string& name, std::int64_t index, const std::string& file) {
  if (!index_.emplace(name, index).second)
    throw InputError(fmt::format("{}: tensor {} is there twice", file, quoted_text(name)), "the file is damaged; fetch or export it again");
}

void TensorTable::add(TensorInfo tensor, const std::string& file) {
  claim(tensor.name, static_cast<std::int64_t>(tensors_.size()), file);
  tensors_.push_back(std::move(tensor));
}

void TensorTable::add_unsupported(std::string name, std::string type, const std::string& file) {
  claim(name, -1 - static_cast<std::int64_t>(unsupported_.size()), file);
  unsupported_.push_back({std::move(name), std::move(type)});
}

const TensorInfo* TensorTable::find(std::string_view name, const std::string& file) const {
  const auto found = index_.find(std::string(name));
  if (found == index_.end()) return nullptr;
  if (found->second >= 0) return &tensors_[static_cast<std::size_t>(found->second)];
  const UnsupportedTensor& tensor = unsupported_[static_cast<std::size_t>(-1 - found->second)];
  throw InputError(
      fmt::format("{}: tensor {} has the element type {}, which is not supported", file, quoted_text(name), tensor.type),
      "supported are f64, f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q4_k, q5_k, q6_k, i64, i32 and bytes; convert the file");
}

const TensorInfo& TensorTable::required(std::string_view name, const std::string& file) const {
  if (const TensorInfo* tensor = find(name, file)) return *tensor;
  throw InputError(fmt::format("{}: no tensor {} among {}", file, quoted_text(name), tensors_.size() + unsupported_.size()),
                   "the file holds another model than its metadata says, or only a part of it");
}

}  // namespace expctr
