// Writes small GGUF files byte by byte, right or deliberately wrong.
#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace expctr {

/// Appends to `bytes`; knows nothing of what makes a file valid.
struct GgufWriter {
  std::string bytes;

  template <class T>
  GgufWriter& number(T value) {
    static_assert(std::is_arithmetic_v<T>);
    char raw[sizeof value];
    std::memcpy(raw, &value, sizeof value);
    bytes.append(raw, sizeof value);
    return *this;
  }
  GgufWriter& text(std::string_view value) {
    number(std::uint64_t{value.size()});
    bytes += value;
    return *this;
  }
  GgufWriter& header(std::uint64_t tensors, std::uint64_t entries, std::uint32_t version = 3) {
    bytes += "GGUF";
    return number(version).number(tensors).number(entries);
  }
  /// Key and type number of a metadata entry; the value follows.
  GgufWriter& key(std::string_view name, std::uint32_t type) { return text(name).number(type); }
  GgufWriter& string_entry(std::string_view name, std::string_view value) { return key(name, 8).text(value); }
  GgufWriter& u32_entry(std::string_view name, std::uint32_t value) { return key(name, 4).number(value); }
  GgufWriter& bool_entry(std::string_view name, bool value) { return key(name, 7).number(static_cast<std::uint8_t>(value)); }
  template <class Texts = std::initializer_list<std::string_view>>
  GgufWriter& string_array(std::string_view name, const Texts& values) {
    key(name, 9).number(std::uint32_t{8}).number(std::uint64_t{values.size()});
    for (const std::string_view value : values) text(value);
    return *this;
  }
  template <class T>
  GgufWriter& number_array(std::string_view name, std::uint32_t element_type, const std::vector<T>& values) {
    key(name, 9).number(element_type).number(std::uint64_t{values.size()});
    for (const T value : values) number(value);
    return *this;
  }
  template <class T>
  GgufWriter& number_array(std::string_view name, std::uint32_t element_type, std::initializer_list<T> values) {
    key(name, 9).number(element_type).number(std::uint64_t{values.size()});
    for (const T value : values) number(value);
    return *this;
  }
  /// Extents in GGUF's order, innermost first.
  GgufWriter& tensor(std::string_view name, std::initializer_list<std::uint64_t> extents, std::uint32_t type, std::uint64_t offset) {
    text(name).number(static_cast<std::uint32_t>(extents.size()));
    for (const std::uint64_t extent : extents) number(extent);
    return number(type).number(offset);
  }
  GgufWriter& data(std::size_t size, std::size_t alignment = 32) {
    bytes.resize((bytes.size() + alignment - 1) / alignment * alignment, '\0');
    bytes.append(size, '\x01');
    return *this;
  }
  std::filesystem::path save(const std::filesystem::path& path) const {
    std::ofstream(path, std::ios::binary) << bytes;
    return path;
  }
};

}  // namespace expctr
