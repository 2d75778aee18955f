#include "engine/io/gguf.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "base/error.h"
#include "engine/io/quoted.h"

namespace expctr {
namespace {

template <class T>
T element(const std::byte* data, std::uint64_t index) {
  T value;
  std::memcpy(&value, data + index * sizeof(T), sizeof value);
  return value;
}

bool is_integer(GgufType type) {
  return type != GgufType::f32 && type != GgufType::f64 && type != GgufType::boolean && type != GgufType::string && type != GgufType::array;
}

bool is_real(GgufType type) { return type == GgufType::f32 || type == GgufType::f64; }

std::string string_at(const std::byte*& data) {  // lengths were checked when the file was opened
  const auto length = element<std::uint64_t>(data, 0);
  std::string text(reinterpret_cast<const char*>(data) + 8, length);
  data += 8 + length;
  return text;
}

}  // namespace

const char* gguf_type_name(GgufType type) {
  static const char* const names[] = {"u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"};
  return names[static_cast<std::uint32_t>(type)];
}

const GgufFile::Value* GgufFile::find(std::string_view key) const {
  const auto found = values_.find(std::string(key));
  return found == values_.end() ? nullptr : &found->second;
}

bool GgufFile::has(std::string_view key) const { return find(key) != nullptr; }

GgufType GgufFile::type(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr) missing(key);
  return value->type;
}

std::uint64_t GgufFile::count(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr) missing(key);
  return value->count;
}

void GgufFile::wrong_type(std::string_view key, const Value& value, const char* wanted) const {
  throw InputError(fmt::format("{}: key {} is {}{}, not {}", path_, quoted_text(key), value.is_array ? "an array of " : "of type ",
                               gguf_type_name(value.type), wanted),
                   "the file was written by something that does not follow the GGUF specification; convert the model again");
}

void GgufFile::missing(std::string_view key) const {
  throw InputError(fmt::format("{}: no key {} in the metadata", path_, quoted_text(key)),
                   "this job needs a complete model file; `expctr_engine inspect` lists what a file holds");
}

std::int64_t GgufFile::integer(std::string_view key, const Value& value, std::uint64_t index) const {
  switch (value.type) {
    case GgufType::u8:
      return element<std::uint8_t>(value.data, index);
    case GgufType::i8:
      return element<std::int8_t>(value.data, index);
    case GgufType::u16:
      return element<std::uint16_t>(value.data, index);
    case GgufType::i16:
      return element<std::int16_t>(value.data, index);
    case GgufType::u32:
      return element<std::uint32_t>(value.data, index);
    case GgufType::i32:
      return element<std::int32_t>(value.data, index);
    case GgufType::i64:
      return element<std::int64_t>(value.data, index);
    case GgufType::u64: {
      const auto number = element<std::uint64_t>(value.data, index);
      if (number <= static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) return static_cast<std::int64_t>(number);
      throw InputError(fmt::format("{}: key {} has the value {}, too large", path_, quoted_text(key), number),
                       "the file is damaged; fetch it again");
    }
    default:
      wrong_type(key, value, "integer");
  }
}

double GgufFile::real(std::string_view key, const Value& value, std::uint64_t index) const {
  if (value.type == GgufType::f32) return element<float>(value.data, index);
  if (value.type == GgufType::f64) return element<double>(value.data, index);
  wrong_type(key, value, "f32");
}

const GgufFile::Value* GgufFile::scalar(std::string_view key, const char* wanted) const {
  const Value* value = find(key);
  if (value != nullptr && value->is_array) wrong_type(key, *value, wanted);
  return value;
}

const GgufFile::Value* GgufFile::array(std::string_view key, const char* wanted) const {
  const Value* value = find(key);
  if (value != nullptr && !value->is_array) wrong_type(key, *value, wanted);
  return value;
}

std::optional<std::int64_t> GgufFile::find_i64(std::string_view key) const {
  const Value* value = scalar(key, "an integer");
  if (value == nullptr) return std::nullopt;
  if (!is_integer(value->type)) wrong_type(key, *value, "an integer");
  return integer(key, *value, 0);
}

std::optional<std::uint32_t> GgufFile::find_u32(std::string_view key) const {
  const std::optional<std::int64_t> number = find_i64(key);
  if (!number) return std::nullopt;
  if (*number < 0 || *number > std::numeric_limits<std::uint32_t>::max())
    throw InputError(fmt::format("{}: key {} has the value {}, outside 0 .. 2^32 - 1", path_, quoted_text(key), *number),
                     "the file is damaged; fetch it again");
  return static_cast<std::uint32_t>(*number);
}

std::optional<float> GgufFile::find_f32(std::string_view key) const {
  const Value* value = scalar(key, "f32");
  if (value == nullptr) return std::nullopt;
  return static_cast<float>(real(key, *value, 0));
}

std::optional<bool> GgufFile::find_bool(std::string_view key) const {
  const Value* value = scalar(key, "bool");
  if (value == nullptr) return std::nullopt;
  if (value->type != GgufType::boolean) wrong_type(key, *value, "bool");
  return element<std::uint8_t>(value->data, 0) != 0;
}

std::optional<std::string> GgufFile::find_string(std::string_view key) const {
  const Value* value = scalar(key, "string");
  if (value == nullptr) return std::nullopt;
  if (value->type != GgufType::string) wrong_type(key, *value, "string");
  const std::byte* data = value->data;
  return string_at(data);
}

std::optional<std::vector<std::string>> GgufFile::find_string_array(std::string_view key) const {
  const Value* value = array(key, "an array of strings");
  if (value == nullptr) return std::nullopt;
  if (value->type != GgufType::string) wrong_type(key, *value, "an array of strings");
  std::vector<std::string> texts;
  texts.reserve(value->count);
  const std::byte* data = value->data;
  for (std::uint64_t i = 0; i < value->count; ++i) texts.push_back(string_at(data));
  return texts;
}

std::optional<std::vector<float>> GgufFile::find_f32_array(std::string_view key) const {
  const Value* value = array(key, "an array of f32");
  if (value == nullptr) return std::nullopt;
  if (!is_real(value->type)) wrong_type(key, *value, "an array of f32");
  std::vector<float> numbers(value->count);
  for (std::uint64_t i = 0; i < value->count; ++i) numbers[i] = static_cast<float>(real(key, *value, i));
  return numbers;
}

std::optional<std::vector<std::int32_t>> GgufFile::find_i32_array(std::string_view key) const {
  const Value* value = array(key, "an array of integers");
  if (value == nullptr) return std::nullopt;
  if (!is_integer(value->type)) wrong_type(key, *value, "an array of integers");
  std::vector<std::int32_t> numbers(value->count);
  for (std::uint64_t i = 0; i < value->count; ++i) {
    const std::int64_t number = integer(key, *value, i);
    if (number < std::numeric_limits<std::int32_t>::min() || number > std::numeric_limits<std::int32_t>::max())
      throw InputError(fmt::format("{}: element {} of key {} is {}, more than 32 bits hold", path_, i, quoted_text(key), number),
                       "the file is damaged; fetch it again");
    numbers[i] = static_cast<std::int32_t>(number);
  }
  return numbers;
}

std::uint32_t GgufFile::required_u32(std::string_view key) const {
  if (const auto value = find_u32(key)) return *value;
  missing(key);
}
float GgufFile::required_f32(std::string_view key) const {
  if (const auto value = find_f32(key)) return *value;
  missing(key);
}
std::string GgufFile::required_string(std::string_view key) const {
  if (auto value = find_string(key)) return *std::move(value);
  missing(key);
}
std::vector<std::string> GgufFile::required_string_array(std::string_view key) const {
  if (auto value = find_string_array(key)) return *std::move(value);
  missing(key);
}
std::vector<float> GgufFile::required_f32_array(std::string_view key) const {
  if (auto value = find_f32_array(key)) return *std::move(value);
  missing(key);
}
std::vector<std::int32_t> GgufFile::required_i32_array(std::string_view key) const {
  if (auto value = find_i32_array(key)) return *std::move(value);
  missing(key);
}

}  // namespace expctr
