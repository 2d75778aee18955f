#include "engine/io/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <set>

#include "base/error.h"
#include "engine/io/checked_json.h"
#include "engine/io/quoted.h"

namespace expctr {
namespace {

using nlohmann::json;

constexpr std::uint64_t largest_header = 100'000'000;
constexpr const char* damaged = "the file is damaged or not complete; fetch or export it again";

struct StoredType {
  const char* name;
  std::optional<DType> dtype;
  std::uint64_t bytes;  ///< of one element
};

constexpr StoredType stored_types[] = {
    {"F64", DType::f64, 8},   {"F32", DType::f32, 4},       {"F16", DType::f16, 2},       {"BF16", DType::bf16, 2},
    {"I64", DType::i64, 8},   {"I32", DType::i32, 4},       {"U8", DType::u8, 1},         {"BOOL", DType::u8, 1},
    {"I8", std::nullopt, 1},  {"U16", std::nullopt, 2},     {"I16", std::nullopt, 2},     {"U32", std::nullopt, 4},
    {"U64", std::nullopt, 8}, {"F8_E4M3", std::nullopt, 1}, {"F8_E5M2", std::nullopt, 1}, {"F8_E8M0", std::nullopt, 1}};

struct Entry {
  std::string name;
  std::uint64_t begin = 0, end = 0;
  const StoredType* type = nullptr;
  std::vector<std::int64_t> shape;
};

[[noreturn]] void refuse(const std::string& file, const std::string& fault) { throw InputError(file + ": " + fault, damaged); }

std::uint64_t whole_number(const json& value, const std::string& file, const std::string& what) {
  if (!value.is_number_unsigned()) refuse(file, fmt::format("{} is {}, not a whole number", what, quoted_text(value.dump())));
  return value.get<std::uint64_t>();
}

Entry entry(const std::string& name, const json& value, std::uint64_t data_bytes, const std::string& file) {
  const std::string where = "tensor " + quoted_text(name);
  if (name.empty() || !value.is_object() || !value.contains("dtype") || !value["dtype"].is_string() || !value.contains("shape") ||
      !value["shape"].is_array() || !value.contains("data_offsets") || !value["data_offsets"].is_array() ||
      value["data_offsets"].size() != 2)
    refuse(file, where + " lacks a name, dtype, shape or two data_offsets");
  Entry result;
  result.name = name;
  const auto type_name = value["dtype"].get<std::string>();
  for (const StoredType& type : stored_types)
    if (type_name == type.name) result.type = &type;
  if (result.type == nullptr) refuse(file, fmt::format("{} has the unknown dtype {}", where, quoted_text(type_name)));

  std::uint64_t elements = 1, bytes = 0;
  bool empty = false;
  for (const json& number : value["shape"]) {
    const std::uint64_t extent = whole_number(number, file, where + ": an extent");
    empty = empty || extent == 0;
    if (__builtin_mul_overflow(elements, std::max<std::uint64_t>(extent, 1), &elements) || elements > static_cast<std::uint64_t>(INT64_MAX))
      refuse(file, where + ": the product of the shape overflows");
    result.shape.push_back(static_cast<std::int64_t>(extent));
  }
  if (empty) elements = 0;
  if (__builtin_mul_overflow(elements, result.type->bytes, &bytes)) refuse(file, where + ": the size in bytes overflows");

  result.begin = whole_number(value["data_offsets"][0], file, where + ": an offset");
  result.end = whole_number(value["data_offsets"][1], file, where + ": an offset");
  if (result.begin > result.end || result.end > data_bytes)
    refuse(file, fmt::format("{}: bytes {} to {} lie outside the data section of {} bytes", where, result.begin, result.end, data_bytes));
  if (result.end - result.begin != bytes)
    refuse(file, fmt::format("{}: its shape and dtype need {} bytes, its offsets give {}", where, bytes, result.end - result.begin));
  return result;
}

void refuse_overlaps_and_gaps(std::vector<Entry>& entries, std::uint64_t data_bytes, const std::string& file) {
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name); });
  std::uint64_t covered = 0;
  const Entry* before = nullptr;
  for (const Entry& entry : entries) {
    if (entry.begin < covered) refuse(file, fmt::format("tensors {} and {} overlap", quoted_text(before->name), quoted_text(entry.name)));
    if (entry.begin > covered) refuse(file, fmt::format("bytes {} to {} of the data section belong to no tensor", covered, entry.begin));
    covered = entry.end;
    before = &entry;
  }
  if (covered != data_bytes) refuse(file, fmt::format("the last {} bytes belong to no tensor", data_bytes - covered));
}

}  // namespace

void SafetensorsFile::read_file(const std::filesystem::path& path, const std::map<std::string, std::string>* wanted_shard) {
  const std::string file = path.string();
  const auto mapping = std::make_shared<const MappedFile>(path);
  const std::span<const std::byte> bytes = mapping->bytes();
  std::uint64_t header = 0;
  if (bytes.size() < sizeof header) refuse(file, fmt::format("{} bytes are too few for a safetensors file", bytes.size()));
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header > largest_header || header > bytes.size() - sizeof header)
    refuse(file, fmt::format("the header claims {} bytes, the file has {}", header, bytes.size()));
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + sizeof header, header);
  if (text.empty() || text.front() != '{') refuse(file, "not a safetensors file: no JSON object after the header length");
  const json document = parse_checked_json(text, file, 4);
  const std::span<const std::byte> data = bytes.subspan(sizeof header + header);

  std::vector<Entry> entries;
  for (const auto& [name, value] : document.items()) {
    if (name != "__metadata__") {
      entries.push_back(entry(name, value, data.size(), file));
      continue;
    }
    if (!value.is_object()) refuse(file, "__metadata__ is no object");
    for (const auto& [key, content] : value.items()) {
      if (!content.is_string()) refuse(file, fmt::format("__metadata__ {} is no text", quoted_text(key)));
      metadata_.emplace(key, content.get<std::string>());
    }
  }
  refuse_overlaps_and_gaps(entries, data.size(), file);
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.name < b.name; });
  for (Entry& item : entries) {
    if (wanted_shard != nullptr) {
      const auto found = wanted_shard->find(item.name);
      if (found == wanted_shard->end() || found->second != path.filename().string()) continue;
    }
    if (item.type->dtype)
      table_.add({std::move(item.name), *item.type->dtype, std::move(item.shape), data.data() + item.begin, item.end - item.begin}, file);
    else
      table_.add_unsupported(std::move(item.name), item.type->name, file);
  }
  mappings_.push_back(mapping);
}

void SafetensorsFile::read_shards(const std::filesystem::path& index) {
  const MappedFile mapping(index);
  const std::string file = index.string();
  if (mapping.bytes().size() > largest_header) refuse(file, "larger than 100 MB");
  const json document = parse_checked_json({reinterpret_cast<const char*>(mapping.bytes().data()), mapping.bytes().size()}, file, 8);
  if (!document.is_object() || !document.contains("weight_map") || !document["weight_map"].is_object()) refuse(file, "no weight_map");
  std::map<std::string, std::string> shard_of;
  std::set<std::string> shards;
  for (const auto& [name, value] : document["weight_map"].items()) {
    const std::string shard = value.is_string() ? value.get<std::string>() : "";
    if (shard.empty() || shard == "." || shard == ".." || shard.find_first_of(std::string_view("/\\\0", 3)) != shard.npos)
      refuse(file, fmt::format("tensor {} is said to be in {}, which is no file name", quoted_text(name), quoted_text(shard)));
    shard_of.emplace(name, shard);
    shards.insert(shard);
  }
  for (const std::string& shard : shards) read_file(index.parent_path() / shard, &shard_of);
  const std::size_t found = table_.tensors().size() + table_.unsupported().size();
  if (found == shard_of.size()) return;
  std::set<std::string> names;
  for (const TensorInfo& tensor : table_.tensors()) names.insert(tensor.name);
  for (const UnsupportedTensor& tensor : table_.unsupported()) names.insert(tensor.name);
  for (const auto& [name, shard] : shard_of)
    if (!names.contains(name))
      refuse(file, fmt::format("tensor {} is not in {}, where the index says it is", quoted_text(name), quoted_text(shard)));
}

SafetensorsFile SafetensorsFile::open(const std::filesystem::path& path) {
  SafetensorsFile result;
  result.path_ = path.string();
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    const auto index = path / "model.safetensors.index.json";
    if (std::filesystem::exists(index, ignored)) {
      result.read_shards(index);
    } else {
      result.read_file(path / "model.safetensors", nullptr);
    }
  } else if (path.string().ends_with(".index.json")) {
    result.read_shards(path);
  } else {
    result.read_file(path, nullptr);
  }
  return result;
}

std::string serialise_safetensors(std::span<const TensorBytes> tensors, const std::map<std::string, std::string>& metadata) {
  const auto type_of = [](const TensorBytes& tensor) -> const StoredType& {
    for (const StoredType& type : stored_types)
      if (type.dtype == tensor.dtype) return type;
    throw Error(fmt::format("safetensors cannot hold tensor {} of type {}", quoted_text(tensor.name), dtype_name(tensor.dtype)),
                "dequantise it first");
  };
  std::vector<const TensorBytes*> order;
  for (const TensorBytes& tensor : tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [&](const TensorBytes* a, const TensorBytes* b) {
    const std::uint64_t size_a = type_of(*a).bytes, size_b = type_of(*b).bytes;
    return size_a != size_b ? size_a > size_b : a->name < b->name;
  });

  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::uint64_t offset = 0;
  std::vector<std::uint64_t> sizes;
  for (const TensorBytes* tensor : order) {
    std::uint64_t bytes = type_of(*tensor).bytes;
    for (const std::int64_t extent : tensor->shape) bytes *= static_cast<std::uint64_t>(extent);
    if (tensor->name == "__metadata__" || header.contains(tensor->name))
      throw Error(fmt::format("safetensors: the tensor name {} is taken", quoted_text(tensor->name)),
                  "give every tensor a name of its own");
    header[tensor->name] = {{"dtype", type_of(*tensor).name}, {"shape", tensor->shape}, {"data_offsets", {offset, offset + bytes}}};
    sizes.push_back(bytes);
    offset += bytes;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  std::string result(8, '\0');
  const std::uint64_t length = text.size();
  std::memcpy(result.data(), &length, 8);
  result.reserve(8 + text.size() + offset);
  result += text;
  for (std::size_t i = 0; i < order.size(); ++i)
    if (sizes[i] > 0) result.append(static_cast<const char*>(order[i]->data), sizes[i]);
  return result;
}

}  // namespace expctr
